"""The rows of a table from its raw log alone; run over a folder and over S3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from lakehouse.errors import DamagedData, WrongUse
from lakehouse.raw import CurrentRows, RawLog, writer
from lakehouse.rows.checksum import checksum_of
from lakehouse.rows.duck import connect_duckdb
from lakehouse.settings import StoreSettings
from lakehouse.spec import BatchKind, LogEntry, Position, Table, Window, days
from lakehouse.spec.types import arrow_field
from lakehouse.stores import ObjectStore, open_store

MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)
FIELDS = {
    "id": arrow_field("id", "int64", nullable=False, doc="the key"),
    "at": arrow_field("at", "timestamp"),
    "value": arrow_field("value", "int32"),
    "extra": arrow_field("extra", "json"),
    "tags": arrow_field("tags", "list<string>"),
}
SCHEMA = pa.schema(list(FIELDS.values()))
EVENTS = Table("events", "append", ("id",), event_time="at", partition=days("at"))
ITEMS = Table("items", "upsert", ("id",), cursor="at")
PLACES = Table("places", "snapshot", ("id",))
DAYS = [Window.of_day(date(2026, 1, 31)), Window.of_day(date(2026, 2, 1))]


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return open_store(StoreSettings(url=(tmp_path / "store").as_uri()))
    return open_store(request.getfixturevalue("s3_store"))


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with connect_duckdb() as connection:
        yield connection


def land(
    log: RawLog,
    kind: BatchKind,
    rows: Sequence[dict[str, Any]],
    *,
    window: Window | None = None,
    schema: pa.Schema = SCHEMA,
) -> LogEntry:
    written = log.write([pa.RecordBatch.from_pylist([row], schema=schema) for row in rows], schema)
    position = Position(MOMENT, MOMENT, True)
    return log.claim(log.manifest(written, kind=kind, window=window, closed=True, schema=schema, position=position))


def row(id_: int, value: int, *, at: datetime = MOMENT) -> dict[str, Any]:
    return {"id": id_, "at": at, "value": value, "extra": None, "tags": ["a"]}


def values(connection: duckdb.DuckDBPyConnection, current: CurrentRows) -> list[tuple[int, int]]:
    return connection.execute(f"select id, value from {current.relation} order by all").fetchall()


def test_of_an_append_table_the_last_batch_of_each_window_counts(
    store: ObjectStore, connection: duckdb.DuckDBPyConnection
) -> None:
    log = RawLog(store, "shop", EVENTS)
    void = land(log, "replace", [row(1, 1)], window=DAYS[0])
    land(log, "replace", [row(2, 2, at=datetime(2026, 2, 1, tzinfo=UTC))], window=DAYS[1])
    land(log, "replace", [row(1, 3), row(5, 5)], window=DAYS[0])
    store.delete(f"{log.folder}/{void.manifest.files[0].path}")
    with log.current_rows(connection) as current:
        assert values(connection, current) == [(1, 3), (2, 2), (5, 5)]
        assert current.schema.equals(SCHEMA, check_metadata=True)
    with pytest.raises(DamagedData, match=void.manifest.batch_id), log.current_rows(connection, upto=2):
        pytest.fail("rows were given")


def test_of_an_upsert_table_the_newest_version_of_each_key_counts(
    store: ObjectStore, connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GROUP_ROWS", 1)
    monkeypatch.setattr(writer, "FILE_BYTES", 1)
    log = RawLog(store, "shop", ITEMS)
    keys = pa.schema([FIELDS["id"]])
    land(log, "upsert", [row(n % 3, n) for n in range(14)])
    assert len(log.entry(1).manifest.files) == 14
    land(log, "delete", [{"id": 0}, {"id": 9}], schema=keys)
    land(log, "upsert", [row(7, 7)])
    with log.current_rows(connection) as current:
        assert values(connection, current) == [(1, 13), (2, 11), (7, 7)]
        assert current.schema.names == SCHEMA.names
    with log.current_rows(connection, upto=1) as current:
        assert values(connection, current) == [(0, 12), (1, 13), (2, 11)]


def test_of_a_snapshot_table_the_last_one_counts(store: ObjectStore, connection: duckdb.DuckDBPyConnection) -> None:
    log = RawLog(store, "shop", PLACES)
    land(log, "snapshot", [row(1, 1), row(2, 2)])
    land(log, "snapshot", [row(2, 3)])
    with log.current_rows(connection) as current:
        assert values(connection, current) == [(2, 3)]
    land(log, "snapshot", [])
    with log.current_rows(connection) as current:
        assert values(connection, current) == []
        assert current.schema.equals(SCHEMA)


def test_the_schema_of_all_batches_holds_the_columns_and_the_widest_types_of_each(
    store: ObjectStore, connection: duckdb.DuckDBPyConnection
) -> None:
    log = RawLog(store, "shop", ITEMS)
    old = pa.schema([FIELDS["id"], FIELDS["at"], FIELDS["value"], arrow_field("gone", "decimal(5,2)")])
    new = pa.schema(
        [FIELDS["id"], FIELDS["at"], arrow_field("value", "int64"), FIELDS["extra"], arrow_field("gone", "decimal(9,2)")]
    )
    land(log, "upsert", [{"id": 1, "at": MOMENT, "value": 1}], schema=old)
    land(log, "upsert", [{"id": 2, "at": MOMENT, "value": 2**40, "extra": "{}"}], schema=new)
    land(log, "upsert", [{"id": 3, "at": MOMENT, "value": 3}], schema=old)
    with log.current_rows(connection) as current:
        assert [(field.name, str(field.type)) for field in current.schema] == [
            ("id", "int64"),
            ("at", "timestamp[us, tz=UTC]"),
            ("value", "int64"),
            ("gone", "decimal128(9, 2)"),
            ("extra", "string"),
        ]
        found = connection.execute(f"select id, value, extra from {current.relation} order by id").fetchall()
        assert found == [(1, 1, None), (2, 2**40, "{}"), (3, 3, None)]


def test_a_given_schema_says_which_columns_come_and_in_which_types(
    store: ObjectStore, connection: duckdb.DuckDBPyConnection
) -> None:
    log = RawLog(store, "shop", ITEMS)
    land(log, "upsert", [row(1, 1)])
    wanted = pa.schema([arrow_field("new", "timestamp"), arrow_field("value", "int64"), FIELDS["id"], FIELDS["at"]])
    with log.current_rows(connection, wanted) as current:
        found = connection.execute(f"select * from {current.relation}").to_arrow_table()
    assert found.to_pylist() == [{"new": None, "value": 1, "id": 1, "at": MOMENT}]
    assert found.schema.types == wanted.types


def test_an_empty_log_has_no_rows_of_a_given_schema_and_none_to_tell_without(
    store: ObjectStore, connection: duckdb.DuckDBPyConnection
) -> None:
    for table in (EVENTS, ITEMS, PLACES):
        log = RawLog(store, "shop", table)
        with log.current_rows(connection, SCHEMA) as current:
            found = connection.execute(f"select * from {current.relation}").to_arrow_table()
            assert (found.num_rows, found.schema.types) == (0, SCHEMA.types)
        with pytest.raises(WrongUse, match="empty log"), log.current_rows(connection):
            pytest.fail("rows were given")


def test_the_checksum_of_the_rows_is_that_of_the_batches_that_count(
    store: ObjectStore, connection: duckdb.DuckDBPyConnection
) -> None:
    log = RawLog(store, "shop", EVENTS)
    one = land(log, "replace", [row(n, n) for n in range(5)], window=DAYS[0])
    two = land(log, "replace", [row(n, n, at=datetime(2026, 2, 1, tzinfo=UTC)) for n in range(5)], window=DAYS[1])
    with log.current_rows(connection) as current:
        found = checksum_of(connection.execute(f"from {current.relation}").to_arrow_table(), current.schema)
    assert found.value == (int(one.manifest.checksum, 16) + int(two.manifest.checksum, 16)) % 2**64


def test_no_local_file_outlives_the_rows(store: ObjectStore, connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    log = RawLog(store, "shop", PLACES, scratch=tmp_path / "scratch")
    land(log, "snapshot", [row(1, 1)])
    with log.current_rows(connection) as current:
        assert values(connection, current) == [(1, 1)]
        assert list((tmp_path / "scratch").iterdir())
    assert list((tmp_path / "scratch").iterdir()) == []
