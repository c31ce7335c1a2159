"""Versions of lake tables: reading them, going back to them, and what changed since."""

from __future__ import annotations

import pytest

from lakehouse import faults
from lakehouse.errors import CommitConflict, Unsupported, WrongUse
from lakehouse.spec import Table
from lakehouse.spec.partitioning import bucket, days
from tests.lakes import Lake, lake_fixture, sorted_rows  # noqa: F401
from tests.rawlogs import SOURCE, HandLog, Row, day, day_window

LOGS = Table("api_logs", "append", ("id",), event_time="at", partition=days("at"))
FIELDS = {"id": "int64", "at": "timestamp", "path": "string"}


def calls(number: int, path: str = "/a") -> list[Row]:
    """API calls of a day of January."""
    return [{"id": number * 100 + i, "at": day(number), "path": path} for i in range(3)]


@pytest.fixture
def log(lake: Lake) -> HandLog:
    """Three days, one version each, and a fourth version that changed the second day."""
    log = lake.log(LOGS, FIELDS, ("id", "at"))
    for number in (1, 2, 3):
        log.write("replace", calls(number), window=day_window(number))
        lake.apply(log)
    log.write("replace", calls(2, "/b"), window=day_window(2))
    lake.apply(log)
    return log


def test_history_tells_every_version_with_its_marker_days_and_partitions(lake: Lake, log: HandLog) -> None:
    versions = lake.tables.history(SOURCE, LOGS)
    assert [version.marker.sequence for version in versions] == [1, 2, 3, 4]
    assert [version.marker.rows for version in versions] == [3, 6, 9, 9]
    assert [version.changed_days for version in versions] == [("2026-01-01",), ("2026-01-02",), ("2026-01-03",), ("2026-01-02",)]
    assert versions[3].partitions == ("at_day=2026-01-02",)
    assert [version.parent for version in versions] == [None, *(version.version for version in versions[:3])]
    assert versions[3] == lake.state(LOGS).current
    assert versions[0].committed_at <= versions[3].committed_at


def test_an_old_version_reads_as_it_was(lake: Lake, log: HandLog) -> None:
    first, _, third, _ = lake.tables.history(SOURCE, LOGS)
    assert sorted_rows(lake.rows(LOGS, version=first.version)) == sorted_rows(calls(1))
    assert sorted_rows(lake.rows(LOGS, version=third.version)) == sorted_rows(calls(1) + calls(2) + calls(3))
    assert lake.tables.partitions(SOURCE, LOGS, version=first.version) == {"at_day=2026-01-01": 3}
    with pytest.raises(WrongUse, match="version"):
        lake.rows(LOGS, version=12345)


def test_an_old_version_reads_with_the_columns_that_it_had(lake: Lake, log: HandLog) -> None:
    log.fields["status"] = "int32"
    log.write("replace", [{**row, "status": 200} for row in calls(4)], window=day_window(4))
    lake.apply(log)
    first = lake.tables.history(SOURCE, LOGS)[0]
    assert set(lake.rows(LOGS, version=first.version)[0]) == {"id", "at", "path"}
    assert set(lake.rows(LOGS, partitions=["at_day=2026-01-01"])[0]) == {"id", "at", "path", "status"}


def test_changed_partitions_are_those_whose_files_differ(lake: Lake, log: HandLog) -> None:
    assert lake.tables.changed_partitions(SOURCE, LOGS, 4) == ()
    assert lake.tables.changed_partitions(SOURCE, LOGS, 3) == ("at_day=2026-01-02",)
    assert lake.tables.changed_partitions(SOURCE, LOGS, 1) == ("at_day=2026-01-02", "at_day=2026-01-03")
    assert lake.tables.changed_partitions(SOURCE, LOGS, 99) is None
    log.write("replace", [], window=day_window(1))
    lake.apply(log)
    assert lake.tables.changed_partitions(SOURCE, LOGS, 4) == ("at_day=2026-01-01",)


def test_changed_partitions_of_a_version_that_two_commits_share(lake: Lake, log: HandLog) -> None:
    """After a rollback the same sequence is committed anew, in other files that hold the same rows."""
    second = lake.tables.history(SOURCE, LOGS)[1]
    lake.tables.rollback(SOURCE, LOGS, second.version)
    assert lake.tables.changed_partitions(SOURCE, LOGS, 4) == ("at_day=2026-01-02", "at_day=2026-01-03")
    lake.apply(log)
    assert lake.tables.changed_partitions(SOURCE, LOGS, 4) == ()


def test_after_a_rollback_marker_and_rows_are_the_old_ones_and_the_next_apply_catches_up(lake: Lake, log: HandLog) -> None:
    before = lake.marker(LOGS)
    second = lake.tables.history(SOURCE, LOGS)[1]
    state = lake.tables.rollback(SOURCE, LOGS, second.version)
    assert (state.current.marker, state.current) == (second.marker, lake.state(LOGS).current)
    lake.check(log, calls(1) + calls(2), sequence=2)
    applied = lake.apply(log)
    assert (applied.entries, applied.changed_days) == (2, ("2026-01-02", "2026-01-03"))
    assert lake.marker(LOGS) == before
    lake.check(log, calls(1) + calls(2, "/b") + calls(3))
    assert len(lake.tables.history(SOURCE, LOGS)) == (6 if lake.format == "delta" else 5)


def test_a_rollback_to_the_current_version_does_nothing(lake: Lake, log: HandLog) -> None:
    current = lake.state(LOGS).current
    assert lake.tables.rollback(SOURCE, LOGS, current.version).current == current
    with pytest.raises(WrongUse, match="version"):
        lake.tables.rollback(SOURCE, LOGS, 12345)
    assert len(lake.tables.history(SOURCE, LOGS)) == 4


def test_a_rollback_whose_answer_is_lost_is_known_to_have_happened(
    lake: Lake, log: HandLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_watch", None)
    second, current = lake.tables.history(SOURCE, LOGS)[1], lake.state(LOGS).current
    faults.arm("lake.rollback:before:error")
    with pytest.raises(CommitConflict):
        lake.tables.rollback(SOURCE, LOGS, second.version)
    assert lake.state(LOGS).current == current
    faults.arm("lake.rollback:after:error")
    assert lake.tables.rollback(SOURCE, LOGS, second.version).current.marker == second.marker


def test_a_rollback_over_a_new_column_keeps_the_column_and_catches_up(lake: Lake, log: HandLog) -> None:
    log.fields["status"] = "int32"
    late = [{**row, "status": 200} for row in calls(4)]
    log.write("replace", late, window=day_window(4))
    lake.apply(log)
    lake.tables.rollback(SOURCE, LOGS, lake.tables.history(SOURCE, LOGS)[0].version)
    lake.check(log, calls(1), sequence=1)
    lake.apply(log)
    lake.check(log, calls(1) + calls(2, "/b") + calls(3) + late)


def test_a_rollback_over_a_widened_float_keeps_the_marker_true(lake: Lake) -> None:
    table = Table("scales", "upsert", ("id",), cursor="at", partition=bucket("id", 2))
    log = lake.log(table, {**FIELDS, "weight": "float32"}, ("id",))
    log.write("upsert", [{"id": number, "at": day(1), "weight": 0.1} for number in range(4)])
    lake.apply(log)
    first = lake.rows(table)
    log.fields["weight"] = "float64"
    log.write("upsert", [{"id": 9, "at": day(1), "weight": 0.1}])
    lake.apply(log)
    lake.tables.rollback(SOURCE, table, lake.tables.history(SOURCE, table)[0].version)
    lake.check(log, first, sequence=1)
    lake.apply(log)
    lake.check(log, [*first, {"id": 9, "at": day(1), "weight": 0.1}])


def test_many_small_commits_keep_the_table_right(lake: Lake) -> None:
    """More commits than manifests are kept apart, so that they were merged on the way."""
    table = Table("ticks", "upsert", ("id",), cursor="at", event_time="at", partition=bucket("id", 2))
    log = lake.log(table, FIELDS, ("id",))
    expected: dict[int, Row] = {}
    for number in range(1, 27):
        row = {"id": number % 5, "at": day(number), "path": str(number)}
        expected[number % 5] = row
        log.write("upsert", [row])
        lake.apply(log)
    lake.check(log, list(expected.values()))
    assert lake.state(table).files == len(lake.tables.partitions(SOURCE, table))
    assert lake.tables.changed_partitions(SOURCE, table, 1) is not None


def test_a_version_that_has_a_name_is_known_by_it_until_the_name_is_taken_away(lake: Lake, log: HandLog) -> None:
    second, current = lake.tables.history(SOURCE, LOGS)[1], lake.state(LOGS).current
    if lake.format == "delta":
        assert lake.tables.tags(SOURCE, LOGS) == {}
        with pytest.raises(Unsupported, match="format='iceberg'"):
            lake.tables.tag(SOURCE, LOGS, "before", second.version)
        return
    lake.tables.tag(SOURCE, LOGS, "before", second.version)
    lake.tables.tag(SOURCE, LOGS, "before", second.version)
    assert lake.tables.tags(SOURCE, LOGS) == {"before": second.version}
    assert lake.state(LOGS).current == current
    with pytest.raises(WrongUse, match=f"name of version {second.version}"):
        lake.tables.tag(SOURCE, LOGS, "before", current.version)
    with pytest.raises(WrongUse, match="version"):
        lake.tables.tag(SOURCE, LOGS, "never", 12345)
    log.write("replace", calls(1, "/c"), window=day_window(1))
    lake.apply(log)
    assert lake.tables.tags(SOURCE, LOGS) == {"before": second.version}, "an apply took a name away"
    lake.tables.tag(SOURCE, LOGS, "before", None)
    lake.tables.tag(SOURCE, LOGS, "before", None)
    assert lake.tables.tags(SOURCE, LOGS) == {}
    lake.check(log, calls(1, "/c") + calls(2, "/b") + calls(3))
