"""Random logs against a model that is a dictionary: whatever the order of batches and applies, the table is the model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse.settings import StoreSettings
from lakehouse.spec import Partitioning, Table
from lakehouse.spec.partitioning import bucket, days, unpartitioned
from tests.lakes import Lake, make_lake
from tests.rawlogs import SOURCE, HandLog, Row, day, day_window, hours

FIELDS = {"id": "int64", "born": "timestamp", "changed": "timestamp", "n": "int32"}
EXAMPLES = 10

Batch = tuple[str, list[Any], bool]
"""A kind, its rows or keys, and whether to apply after it."""

VERSION = st.tuples(st.integers(0, 6), st.none() | st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
UPSERTS: st.SearchStrategy[list[Batch]] = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.lists(VERSION, max_size=8), st.booleans()),
        st.tuples(st.just("delete"), st.lists(st.integers(0, 6), max_size=3), st.booleans()),
        st.tuples(st.just("snapshot"), st.lists(VERSION, max_size=8), st.booleans()),
    ),
    min_size=1,
    max_size=7,
)


@contextmanager
def fresh_lake() -> Iterator[Lake]:
    """A lake in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        place = Path(folder)
        yield make_lake(place / "home", StoreSettings(url=(place / "store").as_uri()), f"sqlite:///{place}/c.db")


def row_of(version: tuple[int, int | None, int, int]) -> Row:
    """One version of a row."""
    key, born, changed, number = version
    return {"id": key, "born": None if born is None else day(born), "changed": day(changed), "n": number}


def model_upserts(batches: list[Batch]) -> list[Row]:
    """The rows that must come out: the newest by cursor, then batch, then position; gone if a later batch deleted the key.

    A snapshot is a new beginning.
    """
    versions: dict[int, list[tuple[Any, int, int, Row]]] = {}
    deleted: dict[int, int] = {}
    for sequence, (kind, rows, _) in enumerate(batches, start=1):
        if kind == "snapshot":
            versions.clear()
            deleted.clear()
        for position, found in enumerate(rows):
            if kind == "delete":
                deleted[found] = sequence
            else:
                row = row_of(found)
                versions.setdefault(row["id"], []).append((row["changed"], sequence, position, row))
    result = []
    for key, found in versions.items():
        alive = [version for version in found if version[1] > deleted.get(key, 0)]
        if alive:
            result.append(max(alive, key=lambda version: version[:3])[3])
    return result


@pytest.mark.parametrize(
    ("partition", "small_groups"),
    [(unpartitioned(), False), (bucket("id", 3), False), (bucket("id", 3), True), (days("born"), False)],
    ids=["whole", "buckets at once", "bucket by bucket", "days"],
)
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(batches=UPSERTS)
def test_upserts_and_deletes_in_any_order_are_the_model(
    monkeypatch: pytest.MonkeyPatch, partition: Partitioning, small_groups: bool, batches: list[Batch]
) -> None:
    if small_groups:
        monkeypatch.setattr("lakehouse.tables.embedded.folding.GROUP_SHARE", 1 << 60)
    table = Table("users", "upsert", ("id",), cursor="changed", event_time="born", partition=partition)
    with fresh_lake() as lake:
        log = lake.log(table, FIELDS, ("id",))
        log.write("upsert", [])
        before: dict[int, Row] = {}
        for done, (kind, rows, apply_now) in enumerate(batches, start=1):
            if kind == "delete":
                log.write("delete", [{"id": key} for key in rows], columns=["id"])
            else:
                log.write("snapshot" if kind == "snapshot" else "upsert", [row_of(version) for version in rows])
            if apply_now or done == len(batches):
                check_step(lake, log, batches[:done], before)


def lake_sequence(lake: Lake, log: HandLog) -> int:
    """The table's watermark; 1 for a table that is not there: the first entry of these logs is empty."""
    state = lake.tables.state(SOURCE, log.table)
    return state.current.marker.sequence if state else 1


def check_step(lake: Lake, log: HandLog, batches: list[Batch], before: dict[int, Row]) -> None:
    """Apply what is there: rows and marker are the model's, and the changed days are those of rows that differ.

    After a snapshot all days that the table has then are told, whether or not they differ.
    """
    anew = any(kind == "snapshot" for kind, _, _ in batches[lake_sequence(lake, log) - 1 :])
    applied = lake.apply(log)
    expected = model_upserts(batches)
    lake.check(log, expected)
    after = {row["id"]: row for row in expected}
    differing = [
        row
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
        for row in (before.get(key), after.get(key))
        if row is not None
    ]
    told = list(after.values()) if anew else differing
    days_of = {row["born"].date().isoformat() for row in told if row["born"] is not None}
    assert set(applied.changed_days) == days_of
    before.clear()
    before.update(after)


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    batches=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(0, 5), st.booleans()), min_size=1, max_size=8)
)
def test_windows_in_any_order_are_the_model(batches: list[tuple[int, int, int, bool]]) -> None:
    table = Table("logs", "append", ("id",), event_time="born", partition=days("born"))
    with fresh_lake() as lake:
        log = lake.log(table, FIELDS, ("id", "born"))
        model: dict[int, list[Row]] = {}
        for number, first, count, apply_now in batches:
            rows = [
                {"id": first + i, "born": day(number) + hours(i) - timedelta(hours=12), "changed": None, "n": first}
                for i in range(count)
            ]
            model[number] = rows
            log.write("replace", rows, window=day_window(number))
            if apply_now:
                lake.apply(log)
        lake.apply(log)
        expected = [row for rows in model.values() for row in rows]
        lake.check(log, expected)
        parts = {f"born_day=2026-01-{number:02d}": len(rows) for number, rows in sorted(model.items()) if rows}
        assert lake.tables.partitions(SOURCE, table) == parts
