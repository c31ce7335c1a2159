"""Expiry of versions of lake tables: what is kept can be read, what is forgotten leaves no file that is named."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lakehouse import faults
from lakehouse.errors import CommitConflict, WrongUse
from lakehouse.settings import StoreSettings
from lakehouse.spec import Table
from lakehouse.spec.partitioning import days
from lakehouse.tables import open_tables
from lakehouse.tables.delta import tables as delta_tables
from lakehouse.tables.engine import Keep
from tests.lakes import Lake, lake_fixture, make_lake, overtaken, sorted_rows  # noqa: F401
from tests.rawlogs import SOURCE, HandLog, Row, day, day_window

FIELDS = {"id": "int64", "at": "timestamp", "kind": "string"}
LOGS = Table("logs", "append", ("id",), event_time="at", partition=days("at"))
LONG_AGO, NOW = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
"""Before and after all commits of these tests."""


@pytest.fixture
def aged(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> HandLog:
    """A table with a history of seven versions; a Delta log has a checkpoint at every third."""
    monkeypatch.setattr(delta_tables, "CHECKPOINT_EVERY", 3)
    log = lake.log(LOGS, FIELDS)
    for number in range(1, 8):
        log.write("replace", [{"id": number, "at": day(1 + number % 3), "kind": "x"}], window=day_window(1 + number % 3))
        lake.apply(log)
    return log


def sequences(lake: Lake, log: HandLog) -> list[int]:
    return [version.marker.sequence for version in lake.tables.history(SOURCE, log.table)]


def live(lake: Lake, log: HandLog) -> Sequence[Row]:
    return sorted_rows([{"id": number, "at": day(1 + number % 3), "kind": "x"} for number in (5, 6, 7)])


def kept_at_least(lake: Lake, sequence: int) -> int:
    """The first sequence that stays when those from one on must: a Delta log is cut at a checkpoint, of versions from 0 on."""
    return sequence if lake.format == "iceberg" else (sequence - 1) // 3 * 3 + 1


@pytest.mark.parametrize("newest", [1, 2, 4])
def test_expiry_leaves_the_newest_versions(lake: Lake, aged: HandLog, newest: int) -> None:
    table, marker = aged.table, lake.marker(aged.table)
    keep = Keep(newest, NOW)
    expected = lake.tables.expirable(SOURCE, table, keep)
    versions, state = lake.tables.expire(SOURCE, table, keep)
    assert versions == expected
    first = kept_at_least(lake, 8 - newest)
    assert len(versions) == first - 1
    found = sequences(lake, aged)
    assert found[: 8 - first] == list(range(first, 8))
    assert set(found[8 - first :]) <= {7}  # a commit of Delta's that forgets
    assert state == lake.state(table)
    assert state.current.marker == marker
    assert sorted_rows(lake.rows(table)) == live(lake, aged)
    for version in lake.tables.history(SOURCE, table):
        lake.rows(table, version=version.version)
    with pytest.raises(WrongUse, match="version"):
        lake.rows(table, version=versions[-1])
    lake.tables.expire(SOURCE, table, keep)  # forgetting is a commit of a Delta log, and makes another version old
    assert lake.tables.expire(SOURCE, table, keep) == ((), lake.state(table))
    aged.write("replace", [{"id": 8, "at": day(3), "kind": "x"}], window=day_window(3))
    lake.apply(aged)
    lake.check(aged, [row for row in live(lake, aged) if row["at"] != day(3)] + [{"id": 8, "at": day(3), "kind": "x"}])


def test_expiry_leaves_what_was_current_lately_and_what_somebody_needs(lake: Lake, aged: HandLog) -> None:
    table = aged.table
    history = lake.tables.history(SOURCE, table)
    assert lake.tables.expirable(SOURCE, table, Keep(1, LONG_AGO)) == ()
    fourth = history[3].version
    versions, _ = lake.tables.expire(SOURCE, table, Keep(1, NOW, (fourth,)))
    assert fourth not in versions
    assert lake.rows(table, version=fourth)
    expected = {4, 7} if lake.format == "iceberg" else {4, 5, 6, 7}
    assert set(sequences(lake, aged)) == expected


def test_the_files_of_versions_that_are_forgotten_are_named_no_more(lake: Lake, aged: HandLog) -> None:
    table = aged.table
    before = lake.tables.referenced(SOURCE, table) or frozenset()
    lake.tables.expire(SOURCE, table, Keep(1, NOW))
    after = lake.tables.referenced(SOURCE, table) or frozenset()
    gone = {address.removeprefix(lake.store.url + "/") for address in before - after}
    assert len([path for path in gone if path.endswith(".parquet") and "checkpoint" not in path]) >= 3
    for path in gone:
        lake.store.delete(path)
    assert sorted_rows(lake.rows(table)) == live(lake, aged)
    for version in lake.tables.history(SOURCE, table):
        lake.rows(table, version=version.version)
    assert lake.tables.referenced(SOURCE, table) == after
    again = open_tables(lake.settings, lake.store)
    aged.write("replace", [], window=day_window(1))
    again.apply(SOURCE, aged.table, aged.entries, aged.folder)
    lake.check(aged, [row for row in live(lake, aged) if row["at"] != day(1)])


def test_an_expiry_that_somebody_overtakes_says_so(lake: Lake, aged: HandLog) -> None:
    aged.write("replace", [{"id": 8, "at": day(9), "kind": "x"}], window=day_window(9))
    with pytest.raises(CommitConflict, match="expiring"):
        overtaken(lambda: lake.apply(aged), lambda: lake.tables.expire(SOURCE, aged.table, Keep(1, NOW)))
    assert sequences(lake, aged) == list(range(1, 9))


def test_a_rollback_to_a_version_that_is_forgotten_meanwhile_loses(lake: Lake, aged: HandLog) -> None:
    """Its files may be removed right after, so that it must never go through."""
    first = lake.tables.history(SOURCE, aged.table)[0].version
    with pytest.raises(CommitConflict, match="rolling"):
        overtaken(
            lambda: lake.tables.expire(SOURCE, aged.table, Keep(1, NOW)),
            lambda: lake.tables.rollback(SOURCE, aged.table, first),
        )
    with pytest.raises(WrongUse, match="version"):
        lake.tables.rollback(SOURCE, aged.table, first)
    assert sorted_rows(lake.rows(aged.table)) == live(lake, aged)


def test_an_expiry_whose_answer_is_lost_knows_that_it_went_through(lake: Lake, aged: HandLog) -> None:
    faults.arm("lake.expire:after:error")
    try:
        versions, state = lake.tables.expire(SOURCE, aged.table, Keep(1, NOW))
    finally:
        faults.watch(None)
    assert state == lake.state(aged.table)
    assert versions
    assert set(sequences(lake, aged)) == set(range(kept_at_least(lake, 7), 8))


def test_a_version_that_was_rolled_back_to_and_one_with_a_name_stay(lake: Lake, aged: HandLog) -> None:
    table, history = aged.table, lake.tables.history(SOURCE, aged.table)
    if lake.format == "iceberg":
        lake.tables.tag(SOURCE, table, "kept", history[1].version)
    lake.tables.rollback(SOURCE, table, history[4].version)
    marker = lake.marker(table)
    lake.tables.expire(SOURCE, table, Keep(1, NOW))
    assert lake.marker(table) == marker
    assert sequences(lake, aged)[-1] == 5
    if lake.format == "iceberg":
        assert sequences(lake, aged) == [2, 5]
    lake.apply(aged)
    lake.check(aged, live(lake, aged))


def test_damaged_metadata_costs_no_more_where_the_first_versions_are_gone(lake: Lake, aged: HandLog) -> None:
    """A Delta log begins with a checkpoint then: without it, nothing of the log could be read."""
    lake.tables.expire(SOURCE, aged.table, Keep(1, NOW))
    remove_unnamed(lake, aged.table)
    aged.write("replace", [{"id": 8, "at": day(3), "kind": "x"}], window=day_window(3))
    lake.apply(aged)
    metadata = [
        info.path
        for info in lake.store.list(lake.tables.root(SOURCE, aged.table))
        if info.path.endswith(".metadata.json" if lake.format == "iceberg" else ".json")
    ]
    lake.store.put(max(metadata), b"{")
    again = lake.opened(lake.store)
    assert again.restore(SOURCE, aged.table) is not None
    state = again.state(SOURCE, aged.table)
    assert state is not None
    assert state.current.marker.sequence == 7
    assert sorted_rows(lake.rows(aged.table)) == live(lake, aged)
    lake.apply(aged)
    lake.check(aged, [row for row in live(lake, aged) if row["at"] != day(3)] + [{"id": 8, "at": day(3), "kind": "x"}])


@pytest.mark.parametrize("format_", ["iceberg", "delta"])
def test_a_long_life_leaves_a_bounded_number_of_files(format_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty commits, looked after at every fifth: there are no more files and metadata in the end than there were before."""
    monkeypatch.setattr(delta_tables, "CHECKPOINT_EVERY", 5)
    store = StoreSettings(url=(tmp_path / "store").as_uri())
    lake = make_lake(tmp_path / "home", store, f"sqlite:///{tmp_path}/catalog.db?timeout=30", "embedded", format_)
    log = lake.log(LOGS, FIELDS)
    counted = []
    for number in range(1, 41):
        log.write("replace", [{"id": number, "at": day(1 + number % 5), "kind": "x"}], window=day_window(1 + number % 5))
        lake.apply(log)
        if number % 5 == 0:
            lake.tables.expire(SOURCE, log.table, Keep(3, NOW))
            counted.append(remove_unnamed(lake, log.table))
    assert max(counted[4:]) <= max(counted[:4]) + 16  # Iceberg keeps its twenty last metadata files
    assert max(counted) <= 60
    lake.check(log, [{"id": number, "at": day(1 + number % 5), "kind": "x"} for number in range(36, 41)])


def remove_unnamed(lake: Lake, table: Table) -> int:
    """Delete what no version names; how many objects are left."""
    named = lake.tables.referenced(SOURCE, table) or frozenset()
    paths = [info.path for info in lake.store.list(lake.tables.root(SOURCE, table))]
    unnamed = [path for path in paths if f"{lake.store.url}/{path}" not in named]
    for path in unnamed:
        lake.store.delete(path)
    return len(paths) - len(unnamed)
