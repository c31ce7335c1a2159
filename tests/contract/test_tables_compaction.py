"""Compaction of lake tables: few files in place of many; no row and no marker changes by it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from lakehouse import faults
from lakehouse.errors import CommitConflict
from lakehouse.spec import Table
from lakehouse.spec.partitioning import days, identity
from lakehouse.tables import open_tables
from lakehouse.tables.compacting import MANY
from tests.lakes import FOLDING_LAKES, Lake, lake_fixture, named_lake, overtaken, sorted_rows  # noqa: F401
from tests.rawlogs import SOURCE, HandLog, Row, day, day_window
from tests.wear import wear

FIELDS = {"id": "int64", "at": "timestamp", "kind": "string"}
TABLES = {
    "append": Table("logs", "append", ("id",), event_time="at", partition=days("at")),
    "upsert": Table("things", "upsert", ("id",), cursor="at", partition=identity("kind")),
    "snapshot": Table("prices", "snapshot", ("id",)),
}
ROWS = 40


def worn(lake: Lake, mode: Literal["append", "upsert", "snapshot"]) -> HandLog:
    """A table one of whose partitions is in many small files."""
    log = lake.log(TABLES[mode], FIELDS, ("id", "at"))
    rows = [{"id": number, "at": day(1), "kind": "x"} for number in range(ROWS)]
    if mode == "append":
        log.write("replace", [{"id": -1, "at": day(2), "kind": "x"}], window=day_window(2))
        log.write("replace", rows, window=day_window(1))
    else:
        log.write("upsert" if mode == "upsert" else "snapshot", rows)
    embedded = open_tables(lake.settings.model_copy(update={"engine": "embedded"}), lake.store)
    embedded.apply(SOURCE, log.table, log.entries, log.folder)
    wear(lake.settings, lake.store, SOURCE, log.table)
    return log


@pytest.fixture(params=FOLDING_LAKES)
def folded(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Each lake in turn, some by each engine."""
    return named_lake(request, tmp_path)


def rows_of(lake: Lake, log: HandLog) -> list[Row]:
    return sorted_rows(lake.rows(log.table))


@pytest.mark.parametrize("mode", list(TABLES))
def test_compaction_leaves_the_same_rows_and_marker_in_fewer_files(
    folded: Lake, mode: Literal["append", "upsert", "snapshot"]
) -> None:
    lake = folded
    log = worn(lake, mode)
    before, rows = lake.state(log.table), rows_of(lake, log)
    found = lake.tables.fragmented(SOURCE, log.table)
    (name,) = found
    assert found[name].files >= MANY
    done = lake.tables.compact(SOURCE, log.table, found)
    assert (done.before, done.after) == (found[name].files, 1)
    after = lake.state(log.table)
    assert done.state == after
    assert after.files == before.files - done.before + 1
    assert after.current.marker == before.current.marker
    assert (after.current.changed_days, after.current.partitions) == ((), ())
    assert rows_of(lake, log) == rows
    assert sorted_rows(lake.rows(log.table, version=before.current.version)) == rows
    assert lake.tables.changed_partitions(SOURCE, log.table, after.current.marker.sequence) == ()
    assert lake.tables.fragmented(SOURCE, log.table) == {}
    again = lake.tables.compact(SOURCE, log.table, found)
    assert (again.before, again.after, again.state) == (1, 1, after)
    if mode == "append":
        log.write("replace", [{"id": 5, "at": day(1), "kind": "y"}], window=day_window(1))
        expected = [{"id": -1, "at": day(2), "kind": "x"}, {"id": 5, "at": day(1), "kind": "y"}]
    else:
        log.write("upsert" if mode == "upsert" else "snapshot", [{"id": 5, "at": day(3), "kind": "y"}])
        expected = [*(row for row in rows if row["id"] != 5 and mode == "upsert"), {"id": 5, "at": day(3), "kind": "y"}]
    lake.apply(log)
    lake.check(log, expected)


def test_a_table_of_few_files_is_left_alone(lake: Lake) -> None:
    log = lake.log(TABLES["append"], FIELDS)
    for number in range(1, MANY + 2):
        log.write("replace", [{"id": number, "at": day(number), "kind": "x"}], window=day_window(number))
    lake.apply(log)
    assert lake.state(log.table).files == MANY + 1
    assert lake.tables.fragmented(SOURCE, log.table) == {}


def test_a_compaction_that_an_apply_overtakes_says_so_and_loses_nothing(lake: Lake) -> None:
    log = worn(lake, "append")
    log.write("replace", [{"id": 5, "at": day(3), "kind": "y"}], window=day_window(3))
    found = lake.tables.fragmented(SOURCE, log.table)
    with pytest.raises(CommitConflict, match="compacting"):
        overtaken(lambda: lake.apply(log), lambda: lake.tables.compact(SOURCE, log.table, found))
    expected = [{"id": number, "at": day(1), "kind": "x"} for number in range(ROWS)]
    expected += [{"id": -1, "at": day(2), "kind": "x"}, {"id": 5, "at": day(3), "kind": "y"}]
    lake.check(log, expected)
    stored = {f"{lake.store.url}/{info.path}" for info in lake.store.list(lake.data(log.table))}
    assert {url for url in stored if url.endswith(".parquet")} <= (lake.tables.referenced(SOURCE, log.table) or set())
    lake.tables.compact(SOURCE, log.table, found)
    lake.check(log, expected)


def test_a_compaction_whose_answer_is_lost_knows_that_it_went_through(lake: Lake) -> None:
    log = worn(lake, "upsert")
    before, rows = lake.state(log.table), rows_of(lake, log)
    faults.arm("lake.commit:after:error")
    try:
        done = lake.tables.compact(SOURCE, log.table, lake.tables.fragmented(SOURCE, log.table))
    finally:
        faults.watch(None)
    assert (done.state, done.after) == (lake.state(log.table), 1)
    assert done.state.current.marker == before.current.marker
    assert rows_of(lake, log) == rows
