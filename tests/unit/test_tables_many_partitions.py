"""A batch of more partitions than can be cut at once: every partition gets its rows, in one file."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pytest

from lakehouse.rows.duck import connect_duckdb
from lakehouse.spec import Partitioning, Table
from lakehouse.spec.partitioning import bucket, days, identity
from lakehouse.spec.types import arrow_field
from lakehouse.tables.embedded import folding
from tests.lakes import Lake, folder_lake_fixture  # noqa: F401
from tests.rawlogs import SOURCE, HandLog, Row, day

FIELDS = {"id": "int64", "at": "timestamp", "kind": "string"}
DAYS, ROWS_A_DAY = 130, 6000
"""More days than DuckDB writes files of at once, with more rows of each than it keeps."""


def log_of_days(lake: Lake, key: tuple[str, ...]) -> HandLog:
    log = lake.log(Table("days", "upsert", key, cursor="at", event_time="at", partition=days("at")), FIELDS)
    query = (
        f"select i as id, timestamptz '2026-01-01 00:00:00+00' + i % {DAYS} * interval 1 day as at, 'kind ' || i % 7 as kind "
        f"from range({DAYS * ROWS_A_DAY}) as r(i)"
    )
    schema = pa.schema([arrow_field(name, declared, doc="x") for name, declared in FIELDS.items()])
    log.write_table("upsert", connect_duckdb().execute(query).to_arrow_table().cast(schema))
    return log


@pytest.mark.parametrize("key", [("id", "at"), ("id",)], ids=["rows stay in their day", "rows can move"])
def test_a_first_batch_of_many_days_leaves_one_file_a_day(folder_lake: Lake, key: tuple[str, ...]) -> None:
    log = log_of_days(folder_lake, key)
    folder_lake.apply(log)
    marker = folder_lake.marker(log.table)
    assert (marker.rows, marker.checksum) == (DAYS * ROWS_A_DAY, log.entries[0].manifest.checksum)
    found = folder_lake.tables.partitions(SOURCE, log.table)
    assert list(found.values()) == [ROWS_A_DAY] * DAYS
    assert {len(files) for files in folder_lake.files(log.table).values()} == {1}


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("key", [("id", "kind", "at"), ("id",)], ids=["rows stay", "rows can move"])
@pytest.mark.parametrize("partition", [days("at"), bucket("kind", 9), identity("kind")], ids=["day", "bucket", "identity"])
def test_groups_that_share_a_stage_take_their_own_rows_of_it(
    folder_lake: Lake, partition: Partitioning, key: tuple[str, ...], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "MOST_FOLDERS", most)
    monkeypatch.setattr(folding, "GROUP_SHARE", 2**60)  # no two partitions fit into a group
    log = folder_lake.log(Table("kinds", "upsert", key, cursor="at", partition=partition), FIELDS)
    first = [row(number, number % 7) for number in range(40)]
    log.write("upsert", [*first, {**row(50, 1), "kind": None}])
    log.write("upsert", [])
    folder_lake.apply(log)
    folder_lake.check(log, [*first, {**row(50, 1), "kind": None}])
    later = {**row(3, 3), "at": day(4) + timedelta(hours=1)}
    log.write("upsert", [later, row(60, 6)])
    log.write("delete", [{name: row(7, 0)[name] for name in key}])
    folder_lake.apply(log)
    kept = [old for old in first if old["id"] != 7 and (old["id"] != 3 or "at" in key)]
    folder_lake.check(log, [*kept, {**row(50, 1), "kind": None}, later, row(60, 6)])


def row(number: int, group: int) -> Row:
    return {"id": number, "at": day(group + 1), "kind": f"kind/{group}"}
