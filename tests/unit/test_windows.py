"""Which windows are due: the pure core of extraction."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from lakehouse import Table, days
from lakehouse.errors import WrongUse
from lakehouse.pipeline.windows import INCOMPLETE, DayRange, due_days, is_closed, upsert_plan
from lakehouse.spec import LogEntry, Manifest, Position, Window

LOGS = Table("logs", "append", ("id",), event_time="at", partition=days("at"), lookback=timedelta(hours=6))
USERS = Table("users", "upsert", ("id",), cursor="changed_at", lookback=timedelta(hours=1))


def moment(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 1, day, hour, tzinfo=UTC)


def position(bound: datetime) -> Position:
    return Position(bound, bound, True)


def entry(sequence: int, kind: str, window: Window, *, closed: bool = False, detail: dict[str, str] | None = None) -> LogEntry:
    at = Position(moment(1), moment(1), True, detail or {})
    manifest = Manifest("b", "app", "t", kind, window, closed, (), (), "f", at, 0, "0" * 16, moment(1))  # type: ignore[arg-type]
    return LogEntry(sequence, manifest)


def day_entry(sequence: int, day: int, *, closed: bool) -> LogEntry:
    return entry(sequence, "replace", Window.of_day(date(2026, 1, day)), closed=closed)


def test_a_day_is_closed_once_bound_and_newest_row_are_a_lookback_beyond_it() -> None:
    extent = (moment(1), moment(2, 6))
    assert is_closed(LOGS, date(2026, 1, 1), extent, position(moment(9)))
    assert not is_closed(LOGS, date(2026, 1, 1), (moment(1), moment(2, 5)), position(moment(9)))
    assert not is_closed(LOGS, date(2026, 1, 1), extent, position(moment(2, 5)))


def test_the_first_run_reads_every_day_that_has_rows_up_to_the_bound() -> None:
    due = due_days(LOGS, [], (moment(1, 5), moment(9)), position(moment(3, 12)), None, full=False)
    assert [day.day for day in due] == [1, 2, 3]


def test_a_closed_day_is_not_read_again_and_an_open_one_is() -> None:
    entries = [day_entry(1, 1, closed=True), day_entry(2, 2, closed=False)]
    due = due_days(LOGS, entries, (moment(1), moment(2, 9)), position(moment(9)), None, full=False)
    assert [day.day for day in due] == [2]


def test_a_full_run_reads_the_closed_days_that_it_was_asked_for() -> None:
    entries = [day_entry(1, 1, closed=True), day_entry(2, 2, closed=True)]
    asked = DayRange(date(2026, 1, 1), date(2026, 1, 1))
    due = due_days(LOGS, entries, (moment(1), moment(2, 9)), position(moment(9)), asked, full=True)
    assert [day.day for day in due] == [1]


def test_days_left_open_before_the_asked_ones_are_read_with_them() -> None:
    entries = [day_entry(1, 1, closed=False), day_entry(2, 3, closed=False)]
    asked = DayRange(date(2026, 1, 2), date(2026, 1, 2))
    due = due_days(LOGS, entries, (moment(1), moment(3, 9)), position(moment(9)), asked, full=False)
    assert [day.day for day in due] == [1, 2]


def test_a_day_that_the_source_has_purged_is_never_replaced_by_nothing() -> None:
    entries = [day_entry(1, 1, closed=False)]
    due = due_days(LOGS, entries, (moment(5), moment(6)), position(moment(9)), None, full=True)
    assert date(2026, 1, 1) not in due


def test_a_source_whose_rows_are_all_beyond_the_bound_has_nothing_due() -> None:
    assert due_days(LOGS, [], (moment(5), moment(6)), position(moment(2)), None, full=False) == ()


def test_the_first_window_of_an_upsert_table_has_no_lower_end() -> None:
    plan = upsert_plan(USERS, [], (moment(1), moment(2)), position(moment(9)), full=False)
    assert plan.whole.low is None
    assert plan.whole.high == moment(2) + timedelta(microseconds=1)
    assert plan.overlap is None


def test_the_upper_end_never_passes_the_bound() -> None:
    plan = upsert_plan(USERS, [], (moment(1), moment(8)), position(moment(4)), full=False)
    assert plan.whole.high == moment(4)


def test_the_next_window_begins_a_lookback_before_the_last_one_ended() -> None:
    last = entry(1, "upsert", Window(None, moment(4)), detail={"tail_rows": "3", "tail_checksum": "ab"})
    plan = upsert_plan(USERS, [last], (moment(1), moment(8)), position(moment(6)), full=False)
    assert plan.overlap == Window(moment(3, 23), moment(4))
    assert plan.fresh == Window(moment(4), moment(6))
    assert plan.tail == (3, "ab", "")
    assert plan.next_overlap == Window(moment(5, 23), moment(6))


def test_a_bound_that_an_old_transaction_holds_back_never_moves_the_window_back() -> None:
    last = entry(1, "upsert", Window(None, moment(4)))
    plan = upsert_plan(USERS, [last], (moment(1), moment(8)), position(moment(2)), full=False)
    assert plan.fresh is None
    assert plan.whole.high == moment(4)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(WrongUse, match="2026-01-02 to 2026-01-01"):
        DayRange(date(2026, 1, 2), date(2026, 1, 1))


def test_what_was_read_before_an_incomplete_snapshot_is_read_again() -> None:
    days_read = [day_entry(1, 1, closed=True), day_entry(2, 2, closed=True)]
    incomplete = entry(3, "snapshot", Window(None, None), detail={INCOMPLETE: "…"})
    complete = entry(3, "snapshot", Window(None, None))
    extent, at = (moment(1), moment(2, 9)), position(moment(9))
    assert due_days(LOGS, [*days_read, complete], extent, at, None, full=False) == ()
    due = due_days(LOGS, [*days_read, incomplete], extent, at, None, full=False)
    assert [day.day for day in due] == [1, 2]
    read = entry(1, "upsert", Window(None, moment(2)))
    assert upsert_plan(USERS, [read, incomplete], extent, at, full=False).whole.low is None
    assert upsert_plan(USERS, [read, complete], extent, at, full=False).whole.low == moment(2) - USERS.lookback
