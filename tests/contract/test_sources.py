"""What every kind of source promises, on real servers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import bson
import psycopg
import pyarrow as pa
import pymongo
import pytest

from lakehouse.errors import ConfigurationError, LakehouseError, SourceMismatch, SourceUnavailable, ValueRefused
from lakehouse.sources import SourceReader, SourceSnapshot, open_source
from lakehouse.sources.reader import RefusedRows
from lakehouse.spec import Column, Source, Table, Window, days

Row = dict[str, Any]

T0 = datetime(2025, 11, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
COLUMNS = (
    Column("id", "string", "What identifies it", path="_id"),
    Column("name", "string", "As the user typed it"),
    Column("amount", "int64"),
    Column("created_at", "timestamp"),
)
EVENTS = Table(
    "events", "append", ("id",), event_time="created_at", partition=days("created_at"), columns=COLUMNS, keep_document=False
)


class Origin(Protocol):
    """A fresh database of one kind, and how a test fills it."""

    kind: Any
    url: str

    def create(self) -> None:
        """An empty table of events."""

    def insert(self, rows: Sequence[Row]) -> None:
        """Commit rows."""


@dataclass
class PostgresOrigin:
    url: str
    kind: str = "postgres"

    def create(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "create table events (id text not null, name text, amount bigint, created_at timestamptz not null, unique (id))"
            )
            connection.execute("create index on events (created_at)")

    def insert(self, rows: Sequence[Row]) -> None:
        with psycopg.connect(self.url) as connection, connection.cursor() as cursor:
            cursor.executemany("insert into events values (%(id)s, %(name)s, %(amount)s, %(created_at)s)", rows)


@dataclass
class MongoOrigin:
    url: str
    kind: str = "mongodb"

    def create(self) -> None:
        with pymongo.MongoClient[Row](self.url) as client:
            client.get_default_database().create_collection("events").create_index("created_at")

    def insert(self, rows: Sequence[Row]) -> None:
        documents = [{("_id" if name == "id" else name): value for name, value in row.items()} for row in rows]
        with pymongo.MongoClient[Row](self.url) as client:
            client.get_default_database()["events"].insert_many(documents)


@pytest.fixture(params=["postgres", "mongodb"])
def origin(request: pytest.FixtureRequest) -> Origin:
    made: Origin
    if request.param == "postgres":
        made = PostgresOrigin(request.getfixturevalue("postgres_database"))
    else:
        made = MongoOrigin(request.getfixturevalue("mongo_database"))
    made.create()
    return made


@pytest.fixture
def reader(origin: Origin) -> Iterator[SourceReader]:
    opened = reader_of(origin)
    yield opened
    opened.close()


def reader_of(origin: Origin, table: Table = EVENTS, url: str | None = None) -> SourceReader:
    return open_source(Source("shop", origin.kind, (table,)), url or origin.url)


def event(number: int, **values: Any) -> Row:
    return {"id": f"e{number:05}", "name": f"event {number}", "amount": number, "created_at": T0 + number * HOUR, **values}


def rows_of(batches: Iterator[pa.RecordBatch]) -> list[Row]:
    return sorted((row for batch in batches for row in batch.to_pylist()), key=lambda row: str(row["id"]))


def read(snapshot: SourceSnapshot, window: Window | None = None, table: Table = EVENTS) -> list[Row]:
    return rows_of(snapshot.read(table, window))


def test_the_schema_has_the_declared_types_and_descriptions(reader: SourceReader) -> None:
    schema = reader.schema(EVENTS)
    assert schema.names == ["id", "name", "amount", "created_at"]
    assert [str(field.type) for field in schema] == ["string", "string", "int64", "timestamp[us, tz=UTC]"]
    assert schema.field("id").metadata[b"doc"] == b"What identifies it"
    assert not schema.field("id").nullable
    assert schema.field("name").nullable


def test_every_row_comes_out_as_it_went_in(origin: Origin, reader: SourceReader) -> None:
    put = [
        event(1, name="naïve – 東京 🦆 \u202e\n\t\"'\\"),
        event(2, name=None, amount=None),
        event(3, name="", amount=-(2**63)),
        event(4, name="x" * 100_000, amount=2**63 - 1),
        event(5, created_at=datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
        event(6, created_at=datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)),
        event(7, created_at=datetime(1, 1, 1, tzinfo=UTC)),
    ]
    origin.insert(put)
    with reader.snapshot() as snapshot:
        assert read(snapshot) == put


def test_every_batch_has_exactly_the_schema(origin: Origin, reader: SourceReader) -> None:
    origin.insert([event(1)])
    with reader.snapshot() as snapshot:
        for batch in snapshot.read(EVENTS):
            assert batch.schema.equals(reader.schema(EVENTS), check_metadata=True)


def test_a_window_holds_its_low_edge_and_not_its_high_one(origin: Origin, reader: SourceReader) -> None:
    origin.insert([event(number) for number in range(6)])
    with reader.snapshot() as snapshot:
        found = read(snapshot, Window(T0 + 2 * HOUR, T0 + 4 * HOUR))
    assert [row["amount"] for row in found] == [2, 3]


def test_a_window_edge_between_two_milliseconds_splits_them(origin: Origin, reader: SourceReader) -> None:
    millisecond = timedelta(milliseconds=1)
    origin.insert([event(number, created_at=T0 + number * millisecond) for number in range(4)])
    edge = T0 + 2 * millisecond - timedelta(microseconds=1)
    with reader.snapshot() as snapshot:
        assert [row["amount"] for row in read(snapshot, Window(T0, edge))] == [0, 1]
        assert [row["amount"] for row in read(snapshot, Window(edge, T0 + HOUR))] == [2, 3]


def test_a_window_without_an_edge_is_open_on_that_side(origin: Origin, reader: SourceReader) -> None:
    origin.insert([event(number) for number in range(4)])
    with reader.snapshot() as snapshot:
        assert [row["amount"] for row in read(snapshot, Window(None, T0 + HOUR))] == [0]
        assert [row["amount"] for row in read(snapshot, Window(T0 + 2 * HOUR, None))] == [2, 3]
        assert len(read(snapshot, Window(None, None))) == 4


def test_adjacent_windows_hold_each_row_once(origin: Origin, reader: SourceReader) -> None:
    put = [event(number, created_at=T0 + number * timedelta(minutes=17)) for number in range(200)]
    origin.insert(put)
    with reader.snapshot() as snapshot:
        found = [row for day in range(3) for row in read(snapshot, Window.of_day((T0 + day * 24 * HOUR).date()))]
    assert found == put


def test_an_upsert_table_is_read_by_windows_of_its_cursor(origin: Origin) -> None:
    table = Table("events", "upsert", ("id",), cursor="created_at", columns=COLUMNS)
    origin.insert([event(number) for number in range(4)])
    with reader_of(origin, table).snapshot() as snapshot:
        assert [row["amount"] for row in read(snapshot, Window(T0 + HOUR, T0 + 3 * HOUR), table)] == [1, 2]


def test_an_empty_table_has_no_rows_no_keys_and_no_extent(reader: SourceReader) -> None:
    reader.check([EVENTS])
    with reader.snapshot() as snapshot:
        assert read(snapshot) == []
        assert read(snapshot, Window.of_day(T0.date())) == []
        assert list(snapshot.keys(EVENTS)) == []
        assert snapshot.extent(EVENTS, "created_at") is None


@pytest.mark.parametrize("hours", [[0], [0, 1], [-24 * 365 * 30, 0, 17, 24 * 365 * 30]], ids=["one", "two", "decades"])
def test_the_extent_is_the_least_and_the_greatest_time(origin: Origin, reader: SourceReader, hours: list[int]) -> None:
    origin.insert([event(number, created_at=T0 + hour * HOUR) for number, hour in enumerate(hours)])
    with reader.snapshot() as snapshot:
        assert snapshot.extent(EVENTS, "created_at") == (T0 + hours[0] * HOUR, T0 + hours[-1] * HOUR)


def test_keys_are_the_key_columns_of_every_row(origin: Origin, reader: SourceReader) -> None:
    origin.insert([event(number) for number in range(5)])
    with reader.snapshot() as snapshot:
        assert rows_of(snapshot.keys(EVENTS)) == [{"id": f"e{number:05}"} for number in range(5)]


def test_a_key_twice_is_given_twice(origin: Origin) -> None:
    table = Table(
        "events", "append", ("name",), event_time="created_at", partition=days("created_at"), columns=COLUMNS, keep_document=False
    )
    origin.insert([event(1, name="same"), event(2, name="same")])
    with reader_of(origin, table).snapshot() as snapshot:
        assert [row["amount"] for row in read(snapshot, table=table)] == [1, 2]
        assert [row["name"] for batch in snapshot.keys(table) for row in batch.to_pylist()] == ["same", "same"]


def test_a_dropped_column_is_neither_in_the_schema_nor_in_the_rows(origin: Origin) -> None:
    table = Table("events", "snapshot", ("id",), columns=COLUMNS, personal={"name": "drop"})
    origin.insert([event(1)])
    opened = reader_of(origin, table)
    assert "name" not in opened.schema(table).names
    with opened.snapshot() as snapshot:
        assert "name" not in read(snapshot, table=table)[0]


def test_a_dropped_column_that_does_not_exist_is_an_error(origin: Origin) -> None:
    table = Table("events", "snapshot", ("id",), columns=COLUMNS, personal={"nmae": "drop"})
    with pytest.raises(SourceMismatch, match="nmae"):
        reader_of(origin, table).check([table])


def test_several_threads_read_one_snapshot(origin: Origin, reader: SourceReader) -> None:
    put = [event(number) for number in range(500)]
    origin.insert(put)
    results: list[list[Row]] = []
    with reader.snapshot() as snapshot:
        threads = [threading.Thread(target=lambda: results.append(read(snapshot))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [put] * 4


def test_an_abandoned_read_leaves_no_thread_and_a_usable_source(origin: Origin, reader: SourceReader) -> None:
    origin.insert([event(number, name="long " * 4000) for number in range(1_000)])
    with reader.snapshot() as snapshot:
        batches = snapshot.read(EVENTS)
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("lakehouse-source")]
        assert len(read(snapshot, Window(T0, T0 + 3 * HOUR))) == 3


def test_the_position_is_taken_before_the_rows_are_seen(origin: Origin, reader: SourceReader) -> None:
    origin.insert([event(1)])
    with reader.snapshot() as snapshot:
        position = snapshot.position
        assert position.bound <= position.taken_at
        assert position.taken_at.utcoffset() == timedelta(0)
        assert position.exact or position.detail["inexact"]


def test_a_missing_table_is_named_with_those_that_are_there(origin: Origin) -> None:
    table = Table("evnets", "snapshot", ("id",), columns=COLUMNS)
    with pytest.raises(SourceMismatch, match="evnets") as error:
        reader_of(origin, table).check([table])
    assert "events" in str(error.value.allowed)


def test_a_relation_says_how_the_source_spells_the_table(origin: Origin) -> None:
    table = Table("happenings", "snapshot", ("id",), columns=COLUMNS, relation="events")
    origin.insert([event(1)])
    opened = reader_of(origin, table)
    opened.check([table])
    with opened.snapshot() as snapshot:
        assert len(read(snapshot, table=table)) == 1


def test_a_missing_column_is_named_with_those_that_are_there(origin: Origin) -> None:
    table = Table("events", "snapshot", ("order_id",), columns=COLUMNS)
    with pytest.raises(SourceMismatch, match="order_id") as error:
        reader_of(origin, table).check([table])
    assert "amount" in str(error.value.allowed)


def test_a_cursor_that_is_no_time_is_an_error(origin: Origin) -> None:
    table = Table("events", "upsert", ("id",), cursor="amount", columns=COLUMNS)
    with pytest.raises(SourceMismatch, match="amount"):
        reader_of(origin, table).check([table])


def test_a_wrong_password_is_an_error_that_does_not_show_it(origin: Origin) -> None:
    parts = urlsplit(origin.url)
    wrong = urlunsplit(parts._replace(netloc=f"{parts.username}:wr0ngsecret@{parts.hostname}:{parts.port}"))
    with pytest.raises(ConfigurationError, match="LAKEHOUSE_SOURCES__SHOP__URL") as error:
        reader_of(origin, url=wrong).check([EVENTS])
    assert "wr0ngsecret" not in str(error.value)
    assert error.value.__cause__ is None


def test_an_unreachable_host_is_a_transient_error(origin: Origin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = through(origin, port)
    opened = reader_of(origin, url=url)
    with pytest.raises(SourceUnavailable, match=str(port)) as error:
        opened.check([EVENTS])
    assert str(urlsplit(url).password) not in str(error.value)
    with pytest.raises(SourceUnavailable), opened.snapshot():
        pass
    opened.close()
    opened.close()


@pytest.mark.parametrize("url", ["nonsense:s3cret@here", "{scheme}://user:s3cret@host:port/x"])
def test_a_malformed_url_is_an_error_that_does_not_show_it(origin: Origin, url: str) -> None:
    with pytest.raises(LakehouseError, match="SHOP__URL") as error:
        reader_of(origin, url=url.format(scheme=urlsplit(origin.url).scheme)).check([EVENTS])
    assert "s3cret" not in str(error.value)


def test_a_source_that_goes_away_in_the_middle_is_an_error_and_not_an_end(origin: Origin) -> None:
    origin.insert([event(number, name="".join(map(str, range(number, number + 4_000)))) for number in range(500)])
    with CutConnection(origin, after=3_000_000) as proxy:
        opened = reader_of(origin, url=through(origin, proxy.port))
        with opened.snapshot() as snapshot:
            with pytest.raises(SourceUnavailable) as error:
                list(snapshot.read(EVENTS))
            with pytest.raises(SourceUnavailable):
                list(snapshot.read(EVENTS))
        opened.close()
    assert proxy.cut
    assert str(urlsplit(origin.url).password) not in str(error.value)


def through(origin: Origin, port: int) -> str:
    """The origin's URL at another port, for a driver that gives up soon."""
    parts = urlsplit(origin.url)
    credentials = parts.netloc.rpartition("@")[0]
    query = parts.query
    if origin.kind == "mongodb":
        query = f"{query}&serverSelectionTimeoutMS=2000"
    return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{port}", query=query))


class CutConnection:
    """A way to the origin's server that breaks for good once so many bytes came back."""

    def __init__(self, origin: Origin, after: int) -> None:
        parts = urlsplit(origin.url)
        assert parts.port is not None
        self._target = ("127.0.0.1", parts.port)
        self._left = after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._lock = threading.Lock()
        self.port = self._listener.getsockname()[1]
        self.cut = False

    def __enter__(self) -> CutConnection:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                with self._lock:
                    self._sockets += [near, far]
                threading.Thread(target=self._pass_on, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(far, near, True), daemon=True).start()

    def _pass_on(self, here: socket.socket, there: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := here.recv(65_536):
                if counted:
                    with self._lock:
                        self._left -= len(data)
                    if self._left < 0:
                        self.cut = True
                        self._close()
                        return
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)

    def _close(self) -> None:
        with self._lock:
            for open_socket in self._sockets:
                with suppress(OSError):
                    open_socket.shutdown(socket.SHUT_RDWR)
                open_socket.close()


def bad_rows(origin: Origin, numbers: Sequence[int]) -> None:
    """Rows whose amount is a half, in a column that is declared as an integer."""
    if isinstance(origin, PostgresOrigin):
        with psycopg.connect(origin.url, autocommit=True) as connection:
            connection.execute("alter table events alter amount type numeric")
    origin.insert([event(number, amount=number + 0.5) for number in numbers])


def test_rows_with_a_refused_value_are_given_as_they_came_and_the_read_goes_on(origin: Origin, reader: SourceReader) -> None:
    origin.insert([event(number) for number in range(40)])
    bad_rows(origin, [50, 51])
    refused: list[RefusedRows] = []
    with reader.snapshot() as snapshot:
        with pytest.raises(ValueRefused):
            read(snapshot)
        assert rows_of(snapshot.read(EVENTS, None, refused.append)) == [event(number) for number in range(40)]
        window = Window(T0 + 39 * HOUR, T0 + 51 * HOUR)
        assert rows_of(snapshot.read(EVENTS, window, lambda rows: None)) == [event(39)]
    known = [row for rows in refused for row in rows.known.to_pylist()]
    assert sorted(known, key=str) == [{"id": f"e{n:05}", "created_at": T0 + n * HOUR} for n in (50, 51)]
    assert {column for rows in refused for column in rows.columns} == {"amount"}
    assert all("int64 holds exactly" in reason for rows in refused for reason in rows.reasons)
    if origin.kind == "postgres":
        originals = [row for rows in refused for row in rows.originals.to_pylist()]
        assert sorted(row["amount"] for row in originals) == ["50.5", "51.5"]
    else:
        documents = [bson.decode(data) for rows in refused for data in rows.originals.column(0).to_pylist()]
        assert sorted(document["amount"] for document in documents) == [50.5, 51.5]


def test_refused_rows_are_read_again_as_the_table_is_declared_today(origin: Origin, reader: SourceReader) -> None:
    bad_rows(origin, range(5))
    refused: list[RefusedRows] = []
    with reader.snapshot() as snapshot:
        assert rows_of(snapshot.read(EVENTS, None, refused.append)) == []
    originals = [original for rows in refused for original in originals_of(rows)]
    today = replace(
        EVENTS, columns=tuple(Column("amount", "string", mixed="widen") if c.name == "amount" else c for c in COLUMNS)
    )
    with closing(reader_of(origin, today)) as other, other.snapshot() as snapshot:
        still: list[RefusedRows] = []
        rows = rows_of(snapshot.again(EVENTS, refused[0].form, originals, still.append))
        assert (rows, sum(found.known.num_rows for found in still)) == ([], 5)
        rows = rows_of(snapshot.again(today, refused[0].form, originals, still.append))
    assert rows == [event(number, amount=str(number + 0.5)) for number in range(5)]


def originals_of(rows: RefusedRows) -> list[bytes]:
    if rows.form == "bson":
        return [bytes(data) for data in rows.originals.column(0).to_pylist()]
    return [json.dumps(row).encode() for row in rows.originals.to_pylist()]
