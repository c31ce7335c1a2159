"""MongoDB as a source: raw batches from the server, decoded in lockstep into the declared columns."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pyarrow as pa
from bson.datetime_ms import DatetimeMS
from pymongo.errors import PyMongoError

from lakehouse.errors import SourceMismatch, ValueRefused
from lakehouse.sources.mongodb.columns import PathColumn, RefusedValue, decode
from lakehouse.sources.mongodb.connect import Client, address, connect_error, open_client, read_error
from lakehouse.sources.mongodb.cutting import shortest
from lakehouse.sources.mongodb.extended_json import EXACT
from lakehouse.sources.mongodb.extent import Documents, NotADate, date_extent
from lakehouse.sources.mongodb.values import FIRST_MILLISECOND, LAST_MILLISECOND
from lakehouse.sources.prefetch import prefetched
from lakehouse.sources.reader import SourceSnapshot
from lakehouse.spec import Column, Position, Source, Table, Window
from lakehouse.spec.declaration import DOCUMENT
from lakehouse.spec.types import arrow_field, declared_type

__all__ = ["MongoReader"]

_REPLY_DOCUMENTS = 5_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_WHOLE = PathColumn(
    arrow_field(DOCUMENT, "binary", nullable=False, doc="The whole document as BSON, without its personal fields."), ()
)


class MongoReader:
    """The reader of one MongoDB database; safe for several threads."""

    def __init__(self, source: Source, url: str) -> None:
        self._source = source
        self._url = url
        self._lock = threading.Lock()
        self._opened: tuple[Client, str] | None = None

    @property
    def name(self) -> str:
        """The source's name."""
        return self._source.name

    def check(self, tables: Sequence[Table]) -> None:
        """Compare the declaration with the database; raises as `SourceReader.check` says."""
        for table in tables:
            self.columns(table)
        client, database = self._client()
        tried = self._connecting()
        try:
            there = sorted(client[database].list_collection_names(authorizedCollections=True, nameOnly=True))
        except PyMongoError as error:
            raise connect_error(error, tried, self.name) from None
        for table in tables:
            if (table.relation or table.name) not in there:
                raise SourceMismatch(
                    f"looking for table {table.name!r} of source {self.name!r} as {table.relation or table.name!r}",
                    value=f"no such collection in database {database!r}",
                    allowed=", ".join(there) or "nothing: the database has no collections",
                    remedy="Correct the table's name, or give relation='collection' as the database spells it.",
                )
            self._check_times(table)

    def schema(self, table: Table) -> pa.Schema:
        """The Arrow schema of the declared columns."""
        return pa.schema([column.field for column in self.columns(table)])

    def snapshot(self) -> AbstractContextManager[SourceSnapshot]:
        """The database as it is read: MongoDB keeps no view for long, so closed ranges of dates stand in for one."""
        return self._snapshot()

    @contextmanager
    def _snapshot(self) -> Iterator[SourceSnapshot]:
        client, _ = self._client()
        try:
            hello = client.admin.command("hello")
            build = client.admin.command("buildInfo")
        except PyMongoError as error:
            raise connect_error(error, self._connecting(), self.name) from None
        yield MongoSnapshot(self, _position(hello, build), embedded="secantusVersion" in build)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._opened is not None:
                self._opened[0].close()
                self._opened = None

    def columns(self, table: Table) -> tuple[PathColumn, ...]:
        """The declared columns but for those that are dropped for privacy; SourceMismatch for a name that is not declared."""
        declared = [column.name for column in table.columns]
        named = {
            **dict.fromkeys(table.personal, "personal"),
            **({table.partition.column: "partition"} if table.partition.column else {}),
            **({table.event_time: "event_time"} if table.event_time else {}),
            **({table.cursor: "cursor"} if table.cursor else {}),
            **dict.fromkeys(table.key, "key"),
        }
        for name, field in named.items():
            if name not in declared:
                raise SourceMismatch(
                    f"reading table {table.name!r} of source {self.name!r}: {field} names column {name!r}",
                    value="no such column is declared",
                    allowed=", ".join(declared),
                    remedy=f'Add Column("{name}", …) to columns: a collection has no schema to find it in.',
                )
        kept = tuple(_path_column(column, table) for column in table.columns if table.personal.get(column.name) != "drop")
        return (*kept, _WHOLE) if table.keep_document else kept

    def documents(self, table: Table) -> Documents:
        """The collection of a table, decoding exactly."""
        client, database = self._client()
        return client[database].get_collection(table.relation or table.name, codec_options=EXACT)

    def time_path(self, table: Table, column: str) -> str:
        """The dotted path of a column of dates; SourceMismatch when it is none."""
        for found in self.columns(table):
            if found.field.name == column and declared_type(found.field) in ("timestamp", "date"):
                return ".".join(found.path)
        raise SourceMismatch(
            f"reading table {table.name!r} of source {self.name!r} by column {column!r}",
            value="not a column that is declared as timestamp or date",
            allowed="a date field, declared as timestamp",
            remedy="Name such a column, or declare mode='snapshot'.",
        )

    def _check_times(self, table: Table) -> None:
        """No document is without the date that windows are cut by, or beyond all windows: it would never be read."""
        column = {"append": table.event_time, "upsert": table.cursor}.get(table.mode)
        if column is None:
            return
        path = self.time_path(table, column)
        tried = f"checking table {table.name!r} of source {self.name!r}"
        conditions = (None, {"$lt": DatetimeMS(FIRST_MILLISECOND)}, {"$gt": DatetimeMS(LAST_MILLISECOND)})
        for condition in conditions:
            try:
                beyond = next(iter(self.documents(table).find({path: condition}, {"_id": 1}).limit(1)), None)
            except PyMongoError as error:
                raise read_error(error, tried) from None
            if beyond is not None:
                raise ValueRefused(
                    f"{tried}: column {column!r}",
                    value=f"{condition or 'nothing'} at {path!r} in the document with _id {beyond['_id']}",
                    allowed="a date of the years 1 to 9999 in every document: others are in no window that is read",
                    remedy=f"Set {path} in those documents, or declare mode='snapshot'.",
                )

    def _client(self) -> tuple[Client, str]:
        with self._lock:
            if self._opened is None:
                self._opened = open_client(self._url, self.name)
            return self._opened

    def _connecting(self) -> str:
        return f"connecting to source {self.name!r} at {address(self._url)}"


class MongoSnapshot:
    """Reads of one run; its methods may be called from several threads."""

    def __init__(self, reader: MongoReader, position: Position, *, embedded: bool) -> None:
        """embedded: the server is secantusdb, where a limit stops nothing and naming fields costs more than it saves."""
        self._reader = reader
        self._position = position
        self._embedded = embedded

    @property
    def position(self) -> Position:
        """Where the server's clock stood."""
        return self._position

    def extent(self, table: Table, column: str) -> tuple[datetime, datetime] | None:
        """The least and the greatest date of a column."""
        path = self._reader.time_path(table, column)
        now = _milliseconds_from(self._position.taken_at)
        try:
            found = date_extent(self._reader.documents(table), path, now, limit_stops=not self._embedded)
        except PyMongoError as error:
            raise read_error(error, self._tried(table)) from None
        except NotADate as error:
            raise ValueRefused(
                f"{self._tried(table)}: column {column!r}",
                value=f"{error} as its least or greatest value",
                allowed="one date in each document",
                remedy="Correct the documents, or declare another column as the one that windows are cut by.",
            ) from None
        if found is None:
            return None
        low, high = (_EPOCH + timedelta(milliseconds=value) for value in found)
        return low, high

    def read(self, table: Table, window: Window | None = None) -> Iterator[pa.RecordBatch]:
        """The documents of the collection, or of a window of its event time (mode `append`) or cursor (mode `upsert`)."""
        condition = {} if window is None else self._window(table, window)
        return self._read(table, condition, self._reader.columns(table))

    def keys(self, table: Table) -> Iterator[pa.RecordBatch]:
        """The key columns of every document."""
        by_name = {column.field.name: column for column in self._reader.columns(table)}
        return self._read(table, {}, [by_name[name] for name in table.key])

    def _read(self, table: Table, condition: dict[str, Any], columns: Sequence[PathColumn]) -> Iterator[pa.RecordBatch]:
        """Receive replies in a thread, decode them here."""
        for reply in prefetched([lambda: self._replies(table, condition, columns)], ahead=2):
            yield self._decoded(table, reply, columns)

    def _replies(self, table: Table, condition: dict[str, Any], columns: Sequence[PathColumn]) -> Generator[bytes, None, None]:
        try:
            documents = self._reader.documents(table)
            with documents.find_raw_batches(condition, self._projection(table, columns), batch_size=_REPLY_DOCUMENTS) as cursor:
                for reply in cursor:
                    if reply:
                        yield cast("bytes", reply)  # the driver types them as documents
        except PyMongoError as error:
            raise read_error(error, self._tried(table)) from None

    def _projection(self, table: Table, columns: Sequence[PathColumn]) -> dict[str, int] | None:
        """The fields that leave the server: never one that is dropped for privacy, whatever object it is in."""
        kept = {column.path for column in columns}
        dropped = [_path(column) for column in table.columns if table.personal.get(column.name) == "drop"]
        if excluded := [path for path in dropped if path not in kept]:
            return {".".join(path): 0 for path in shortest(excluded)}
        return None if self._embedded or _WHOLE in columns else dict.fromkeys((column.path[0] for column in columns), 1)

    def _decoded(self, table: Table, reply: bytes, columns: Sequence[PathColumn]) -> pa.RecordBatch:
        try:
            return decode(reply, columns, [_path(column) for column in table.columns if column.name in table.personal])
        except RefusedValue as refused:
            type_ = next((declared_type(c.field) for c in columns if c.field.name == refused.column), "one value")
            raise ValueRefused(
                f"{self._tried(table)}: field {refused.column!r} of the document with _id {refused.document_id}",
                value=refused.found,
                allowed=f"what {type_} holds exactly",
                remedy=f'Correct the document, or declare Column("{refused.column}", "json") to keep any value.',
            ) from None

    def _window(self, table: Table, window: Window) -> dict[str, Any]:
        column = table.cursor if table.mode == "upsert" else table.event_time
        if column is None:
            raise SourceMismatch(
                f"{self._tried(table)}: by a window",
                value=f"mode {table.mode!r}",
                allowed="mode append (a window of event_time) or upsert (of cursor)",
                remedy="Read the whole table.",
            )
        low = FIRST_MILLISECOND if window.low is None else _milliseconds_from(window.low)
        high = LAST_MILLISECOND if window.high is None else _milliseconds_from(window.high) - 1
        return {self._reader.time_path(table, column): {"$gte": DatetimeMS(low), "$lte": DatetimeMS(high)}}

    def _tried(self, table: Table) -> str:
        return f"reading table {table.name!r} of source {self._reader.name!r}"


def _path_column(column: Column, table: Table) -> PathColumn:
    nullable = column.nullable and column.name not in table.key
    field = arrow_field(column.name, "".join(column.type.split()), nullable=nullable, doc=column.description)
    return PathColumn(field, _path(column), column.mixed)


def _path(column: Column) -> tuple[str, ...]:
    return tuple((column.path or column.name).split("."))


def _milliseconds_from(at: datetime) -> int:
    """The first millisecond at or after a time: BSON dates have no finer part."""
    return -((_EPOCH - at) // _MILLISECOND)


def _position(hello: dict[str, Any], build: dict[str, Any]) -> Position:
    now = hello["localTime"].replace(tzinfo=UTC) if hello["localTime"].tzinfo is None else hello["localTime"].astimezone(UTC)
    detail = {
        "server": f"MongoDB {build.get('version', 'unknown')}"
        + (f" (secantusdb {build['secantusVersion']})" if "secantusVersion" in build else ""),
        "inexact": "documents carry times of the applications' clocks, and MongoDB does not show writes that are under way",
    }
    if "operationTime" in hello:
        stamp = hello["operationTime"]
        detail["operation_time"] = f"{stamp.time}.{stamp.inc}"
    if "setName" in hello:
        detail["set"] = str(hello["setName"])
    return Position(now, now, False, detail)
