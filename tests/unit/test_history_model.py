"""Random logs against a model of their history: the states of a dictionary, entry by entry, however the log is cut."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse.spec import LogEntry, Table, history_of
from lakehouse.spec.declaration import TableFormat
from lakehouse.spec.history import dated
from lakehouse.spec.partitioning import Partitioning, bucket, days, unpartitioned
from tests.lakes import Lake
from tests.rawlogs import SOURCE, HandLog, Row, digest, rows_of
from tests.unit.test_tables_model import FIELDS, VERSION, Batch, fresh_lake, model_upserts, row_of

EXAMPLES = 5
NOON = datetime(2026, 2, 1, 12, tzinfo=UTC)

Timed = tuple[Batch, int]
"""A batch, and the minute of its reading, which may be the same as, or before, that of the one before it."""

MINUTES = st.integers(0, 20)
BATCHES: st.SearchStrategy[list[Timed]] = st.lists(
    st.tuples(
        st.one_of(
            st.tuples(st.just("upsert"), st.lists(VERSION, max_size=8), st.booleans()),
            st.tuples(st.just("delete"), st.lists(st.integers(0, 6), max_size=3), st.booleans()),
            st.tuples(st.just("snapshot"), st.lists(VERSION, max_size=8), st.booleans()),
        ),
        MINUTES,
    ),
    min_size=1,
    max_size=8,
)
SNAPSHOTS: st.SearchStrategy[list[Timed]] = st.lists(
    st.tuples(
        st.tuples(st.just("snapshot"), st.lists(VERSION, max_size=6, unique_by=lambda version: version[0]), st.booleans()),
        MINUTES,
    ),
    min_size=1,
    max_size=6,
)


def states(batches: list[Batch]) -> list[dict[int, Row]]:
    """What the table is after each batch, by key."""
    return [{row["id"]: row for row in model_upserts(batches[: number + 1])} for number in range(len(batches))]


def intervals(found: list[dict[int, Row]], moments: list[datetime]) -> list[Row]:
    """The history that these states make."""
    rows: list[Row] = []
    current: dict[int, Row] = {}
    for state, moment in zip(found, moments, strict=True):
        for key in current.keys() | state.keys():
            before = current.get(key)
            content = None if before is None else {name: before[name] for name in FIELDS}
            if content == state.get(key):
                continue
            if before is not None:
                before |= {"valid_to": moment, "is_current": False, "deleted": key not in state}
                del current[key]
            if key in state:
                current[key] = {**state[key], "valid_from": moment, "valid_to": None, "is_current": True, "deleted": False}
                rows.append(current[key])
    return rows


def write(log: HandLog, batch: Batch, minute: int) -> None:
    """One more entry, of a source that was read at that minute."""
    kind, rows, _ = batch
    if kind == "delete":
        log.write("delete", [{"id": key} for key in rows], columns=["id"])
    else:
        log.write("snapshot" if kind == "snapshot" else "upsert", [row_of(version) for version in rows])
    entry = log.entries[-1]
    position = replace(entry.manifest.position, taken_at=NOON + timedelta(minutes=minute))
    log.entries[-1] = LogEntry(entry.sequence, replace(entry.manifest, position=position))


def check(lake: Lake, log: HandLog, table: Table, batches: list[Batch]) -> None:
    """Apply what is there: the rows are the model's, and the marker tells of them."""
    history = history_of(table)
    applied = lake.tables.apply(SOURCE, history, log.entries, log.folder)
    moments = [entry.manifest.position.taken_at for entry in dated(log.entries)]
    after = states(batches)
    found = rows_of(lake.tables.scan(SOURCE, history))
    assert sorted(found, key=repr) == sorted(intervals(after, moments), key=repr)
    check_ends(found)
    for moment, state in zip(moments, after, strict=True):
        assert as_of(found, moment) == state
    marker = applied.state.current.marker
    whole = lake.tables.scan(SOURCE, history)
    assert marker.sequence == len(log.entries)

    assert (marker.rows, marker.checksum) == digest(pa.Table.from_batches(list(whole), schema=applied.state.schema))


def check_ends(found: list[Row]) -> None:
    """No intervals of a key overlap, and there is a gap only after a deletion."""
    by_key: dict[int, list[Row]] = {}
    for row in sorted(found, key=lambda row: row["valid_from"]):
        by_key.setdefault(row["id"], []).append(row)
    for rows in by_key.values():
        for row, following in pairwise(rows):
            assert row["valid_from"] < row["valid_to"] <= following["valid_from"]
            assert row["deleted"] or row["valid_to"] == following["valid_from"]
        assert [row for row in rows if row["is_current"]] == [row for row in rows if row["valid_to"] is None]
        assert not any(row["is_current"] for row in rows[:-1])


def as_of(found: list[Row], moment: datetime) -> dict[int, Row]:
    """The table as its history says that it was."""
    valid = [row for row in found if row["valid_from"] <= moment and (row["valid_to"] is None or moment < row["valid_to"])]
    return {row["id"]: {name: row[name] for name in FIELDS} for row in valid}


def run(table: Table, batches: list[Timed]) -> None:
    """Land and apply as the batches say."""
    with fresh_lake() as lake:
        lake.format = table.format
        log = HandLog(lake.store, table, FIELDS, ("id",))
        done: list[Batch] = [(("upsert" if table.mode == "upsert" else "snapshot"), [], False)]
        write(log, done[0], 0)
        for batch, minute in batches:
            done.append(batch)
            write(log, batch, minute)
            if batch[2]:
                check(lake, log, table, done)
        check(lake, log, table, done)
        marker = lake.tables.rebuild(SOURCE, history_of(table), log.entries, log.folder).state.current.marker
        assert marker == lake.marker(history_of(table))


@pytest.mark.parametrize("format_", ["iceberg", "delta"])
@pytest.mark.parametrize(
    ("partition", "small_groups"),
    [(unpartitioned(), False), (bucket("id", 3), False), (bucket("id", 3), True), (days("born"), False)],
    ids=["whole", "buckets at once", "bucket by bucket", "days"],
)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(batches=BATCHES)
def test_the_history_of_an_upserted_table_is_what_it_was_after_each_batch(
    monkeypatch: pytest.MonkeyPatch, partition: Partitioning, small_groups: bool, format_: TableFormat, batches: list[Timed]
) -> None:
    if small_groups:
        monkeypatch.setattr("lakehouse.tables.embedded.folding.GROUP_SHARE", 1 << 60)
    run(Table("users", "upsert", ("id",), cursor="changed", partition=partition, format=format_, history=True), batches)


@pytest.mark.parametrize("format_", ["iceberg", "delta"])
@pytest.mark.parametrize("partition", [unpartitioned(), bucket("id", 3), days("born")], ids=["whole", "buckets", "days"])
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(batches=SNAPSHOTS)
def test_the_history_of_a_table_that_is_read_whole_is_what_it_was_after_each_batch(
    partition: Partitioning, format_: TableFormat, batches: list[Timed]
) -> None:
    run(Table("users", "snapshot", ("id",), partition=partition, format=format_, history=True), batches)
