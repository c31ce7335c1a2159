"""A history as a table of its own: what it is declared as, what an apply of it touches, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from lakehouse import Source, Table, bucket
from lakehouse.errors import CommitConflict, DamagedData, DeclarationError, SourceMismatch
from lakehouse.pipeline.deployment import Deployment
from lakehouse.settings import Settings
from lakehouse.spec import LogEntry, history_of, lake_tables
from lakehouse.spec.history import dated
from tests.lakes import Lake, folder_lake_fixture, overtaken  # noqa: F401
from tests.rawlogs import SOURCE, HandLog, Row, day, rows_of

USERS = Table("users", "upsert", ("id",), cursor="changed", partition=bucket("id", 4), history=True)
FIELDS = {"id": "int64", "changed": "timestamp", "n": "int32"}


def user(number: int, changed: int = 1, n: int = 0) -> Row:
    return {"id": number, "changed": day(changed), "n": n}


def users_log(lake: Lake, count: int = 40) -> HandLog:
    """The log of some users, applied to their history."""
    log = lake.log(USERS, FIELDS, ("id",))
    log.write("upsert", [user(number) for number in range(count)])
    apply(lake, log)
    return log


def apply(lake: Lake, log: HandLog) -> tuple[str, ...]:
    """Apply the log to the history; the partitions that changed."""
    return lake.tables.apply(SOURCE, history_of(USERS), log.entries, log.folder).partitions


def at(entry: LogEntry, minutes: int) -> LogEntry:
    """The entry as if it had been read so many minutes later."""
    position = entry.manifest.position
    moved = replace(position, taken_at=position.taken_at + timedelta(minutes=minutes))
    return replace(entry, manifest=replace(entry.manifest, position=moved))


def test_each_table_of_a_source_is_followed_by_its_history() -> None:
    source = Source("shop", "postgres", (USERS, Table("prices", "snapshot", ("item",))))
    assert [table.name for table in lake_tables(source)] == ["users", "users__history", "prices"]
    history = history_of(USERS)
    assert (history.key, history.row_key) == (("id", "valid_from"), ("id",))
    assert (history.partition, history.format) == (USERS.partition, USERS.format)


def test_two_tables_that_would_be_published_under_one_name_are_refused(tmp_path: Path) -> None:
    others = Source("shop__users", "postgres", (Table("history", "snapshot", ("id",)),))
    with pytest.raises(DeclarationError, match="shop__users__history"):
        Deployment(Settings(home=tmp_path), (Source("shop", "postgres", (USERS,)), others))


def test_moments_rise_with_the_log_whatever_the_clocks_said(folder_lake: Lake) -> None:
    log = users_log(folder_lake)
    log.write("upsert", [])
    first, second = log.entries
    again = at(replace(first, sequence=3), 0)
    found = [entry.manifest.position.taken_at for entry in dated([at(first, 5), second, again])]
    start = at(first, 5).manifest.position.taken_at
    assert found == [start, start + timedelta(microseconds=1), start + timedelta(microseconds=2)]


def test_an_apply_rewrites_only_the_partitions_of_the_keys_that_changed(folder_lake: Lake) -> None:
    lake = folder_lake
    log = users_log(lake)
    before = lake.files(history_of(USERS))
    log.write("upsert", [user(3, 2, 7)])
    (changed,) = apply(lake, log)
    after = lake.files(history_of(USERS))
    assert {name for name in after if after[name] != before[name]} == {changed}
    log.write("delete", [{"id": 3}], columns=["id"])
    assert apply(lake, log) == (changed,)


def test_rows_that_come_again_or_too_late_move_the_marker_and_rewrite_nothing(folder_lake: Lake) -> None:
    lake = folder_lake
    log = users_log(lake)
    before = lake.files(history_of(USERS))
    log.write("upsert", [user(number) for number in range(40)])
    log.write("upsert", [{**user(3, n=9), "changed": day(1) - timedelta(hours=1)}])
    log.write("delete", [{"id": 99}], columns=["id"])
    assert apply(lake, log) == ()
    assert lake.files(history_of(USERS)) == before
    assert lake.marker(history_of(USERS)).sequence == 4


def test_two_applies_of_the_same_entries_do_not_both_count(folder_lake: Lake) -> None:
    lake = folder_lake
    log = users_log(lake)
    log.write("upsert", [user(3, 2, 7)])
    with pytest.raises(CommitConflict):
        overtaken(lambda: apply(lake, log), lambda: apply(lake, log))
    assert apply(lake, log) == ()
    rows = [row for row in rows_of(lake.tables.scan(SOURCE, history_of(USERS))) if row["id"] == 3]
    assert sorted((row["n"], row["is_current"]) for row in rows) == [(0, False), (7, True)]


def test_a_history_is_compacted_and_goes_on(folder_lake: Lake) -> None:
    lake = folder_lake
    log = users_log(lake)
    log.write("upsert", [user(3, 2, 7)])
    apply(lake, log)
    marker = lake.marker(history_of(USERS))
    lake.tables.compact(SOURCE, history_of(USERS), list(lake.tables.partitions(SOURCE, history_of(USERS))))
    assert lake.marker(history_of(USERS)) == marker
    log.write("upsert", [user(3, 3, 8)])
    apply(lake, log)
    assert lake.marker(history_of(USERS)).rows == 42


def test_a_batch_of_another_mode_is_refused_by_name(folder_lake: Lake) -> None:
    log = users_log(folder_lake)
    log.write("replace", [user(3, 2, 7)])
    with pytest.raises(DamagedData, match="into its history"):
        apply(folder_lake, log)


def test_a_table_with_a_column_of_a_historys_name_is_refused_by_name(folder_lake: Lake) -> None:
    log = folder_lake.log(USERS, {**FIELDS, "valid_to": "timestamp"}, ("id",))
    log.write("upsert", [user(3)])
    with pytest.raises(SourceMismatch, match="columns of the table: valid_to"):
        apply(folder_lake, log)


def test_a_history_whose_column_was_renamed_is_built_anew_with_its_past_under_the_new_name(folder_lake: Lake) -> None:
    lake = folder_lake
    log = users_log(lake)
    renamed = history_of(replace(USERS, renamed={"number": "n"}))
    assert lake.tables.has_old_names(SOURCE, renamed)
    with pytest.raises(CommitConflict, match="under old names"):
        lake.tables.apply(SOURCE, renamed, log.entries, log.folder)
