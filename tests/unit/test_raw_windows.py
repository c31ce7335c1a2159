"""Which entries of a log still count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lakehouse.raw import standing
from lakehouse.spec import BatchKind, LogEntry, Manifest, Position, Window

START = datetime(2026, 1, 31, tzinfo=UTC)
DAYS = [Window.of_day((START + timedelta(days=n)).date()) for n in range(4)]


def entry(sequence: int, kind: BatchKind = "replace", window: Window | None = None, *, closed: bool = True) -> LogEntry:
    position = Position(START, START, True)
    return LogEntry(
        sequence,
        Manifest(f"batch {sequence}", "shop", "events", kind, window, closed, (), (), "", position, 0, "0" * 16, START),
    )


LOG = [
    entry(1, window=DAYS[1]),
    entry(2, window=DAYS[0], closed=False),
    entry(3, window=DAYS[1], closed=False),
    entry(4, window=DAYS[2], closed=False),
    entry(5, window=DAYS[0]),
]


def test_of_each_replaced_window_the_last_entry_stands() -> None:
    assert [found.sequence for found in standing(LOG[::-1])] == [3, 4, 5]


def test_an_overlapping_window_makes_no_other_void() -> None:
    log = [entry(1, window=DAYS[0]), entry(2, window=Window(None, DAYS[1].high))]
    assert standing(log) == log


def test_only_the_last_snapshot_stands() -> None:
    log = [entry(1, "snapshot"), entry(2, "snapshot"), entry(3, "snapshot")]
    assert standing(log) == log[2:]


def test_every_upsert_and_delete_stands() -> None:
    log = [entry(1, "upsert", DAYS[0]), entry(2, "delete"), entry(3, "upsert", DAYS[0])]
    assert standing(log) == log
