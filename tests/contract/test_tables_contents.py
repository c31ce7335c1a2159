"""What tells the content of a lake's partitions, and their rows as a verification reads them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakehouse.pipeline.verify_copies import plain_schema
from lakehouse.rows.checksum import partition_checksums, total
from lakehouse.rows.digest import row_digests
from lakehouse.spec import RowChecksum, Table
from lakehouse.spec.partitioning import days, identity, unpartitioned
from tests.lakes import Lake, lake_fixture  # noqa: F401
from tests.rawlogs import SOURCE, HandLog, Row, day, day_window

LOGS = Table("api_logs", "append", ("id",), event_time="at", partition=days("at"))
USERS = Table("users", "upsert", ("id",), cursor="at", partition=identity("city"))
FIELDS = {"id": "int64", "at": "timestamp", "path": "string", "tags": "list<string>"}


def calls(number: int, path: str | None = "/a") -> list[Row]:
    return [{"id": number * 100 + i, "at": day(number), "path": path if i else None, "tags": [path, None]} for i in range(3)]


@pytest.fixture
def log(lake: Lake) -> HandLog:
    """Three days in one version."""
    log = lake.log(LOGS, FIELDS, ("id", "at"))
    for number in (1, 2, 3):
        log.write("replace", calls(number), window=day_window(number))
    lake.apply(log)
    return log


def checksums(lake: Lake, table: Table, **which: object) -> dict[str, RowChecksum]:
    """By the partition that is said of a batch: its rows and checksum, which must all be of that partition."""
    found: dict[str, dict[str, RowChecksum]] = {}
    for name, batch in lake.tables.scan_by_partition(SOURCE, table, **which):  # type: ignore[arg-type]
        partition_checksums(batch, row_digests(batch, plain_schema(batch)), table.partition, found.setdefault(name, {}))
    assert {name: set(parts) for name, parts in found.items()} == {name: {name} for name in found}
    return {name: total(parts.values()) for name, parts in found.items()}


def test_the_content_of_a_partition_is_told_anew_when_its_files_are_others(lake: Lake, log: HandLog) -> None:
    before = lake.tables.contents(SOURCE, LOGS)
    assert set(before) == {f"at_day=2026-01-0{number}" for number in (1, 2, 3)}
    assert len(set(before.values())) == 3
    assert lake.tables.contents(SOURCE, LOGS) == before
    log.write("replace", calls(2, "/b"), window=day_window(2))
    lake.apply(log)
    after = lake.tables.contents(SOURCE, LOGS)
    assert {name for name in before if after[name] != before[name]} == {"at_day=2026-01-02"}
    first = lake.tables.history(SOURCE, LOGS)[0].version
    assert lake.tables.contents(SOURCE, LOGS, version=first) == before


def test_a_file_that_is_gone_or_has_another_size_shows(lake: Lake, log: HandLog) -> None:
    before = lake.tables.contents(SOURCE, LOGS)
    folders = sorted(lake.files(LOGS).items())
    one, two = [f"{lake.data(LOGS)}/{folder}/{name}" for folder, names in folders for name in names][:2]
    lake.store.put(one, lake.store.get(one) + b"x")
    lake.store.delete(two)
    after = lake.tables.contents(SOURCE, LOGS)
    assert after["at_day=2026-01-02"] == ""
    assert after["at_day=2026-01-01"] not in ("", before["at_day=2026-01-01"])
    assert after["at_day=2026-01-03"] == before["at_day=2026-01-03"]


def test_rows_come_with_their_partition_and_add_up_to_the_marker(lake: Lake, log: HandLog) -> None:
    found = checksums(lake, LOGS)
    assert (total(found.values()).rows, total(found.values()).hex) == (lake.marker(LOGS).rows, lake.marker(LOGS).checksum)
    assert checksums(lake, LOGS, partitions=["at_day=2026-01-02"]) == {"at_day=2026-01-02": found["at_day=2026-01-02"]}
    assert checksums(lake, LOGS, partitions=[]) == {}
    [(_, keys)] = lake.tables.scan_by_partition(SOURCE, LOGS, partitions=["at_day=2026-01-02"], columns=["id"])
    assert keys.schema.names == ["id"]


@pytest.mark.parametrize("partition", [identity("city"), unpartitioned()])
def test_texts_that_repeat_or_are_a_partition_s_value_are_read_as_they_are(lake: Lake, partition: object) -> None:
    table = Table("users", "upsert", ("id",), cursor="at", partition=partition)  # type: ignore[arg-type]
    log = lake.log(table, {"id": "int64", "at": "timestamp", "city": "string", "note": "json"}, ("id",))
    cities = ["Brno", "São Paulo", "", None, "a/b"]
    rows = [{"id": i, "at": day(1), "city": cities[i % 5], "note": None if i % 3 else '{"n": 1}'} for i in range(500)]
    log.write_table("upsert", pa.Table.from_pylist(rows, schema=log.schema()), window=day_window(1))
    lake.apply(log)
    found = checksums(lake, table)
    assert len(found) == (5 if partition != unpartitioned() else 1)
    assert (total(found.values()).rows, total(found.values()).hex) == (lake.marker(table).rows, lake.marker(table).checksum)
    assert set(lake.tables.contents(SOURCE, table)) == set(found)
