"""The reads of one run of a MongoDB source: at one cluster time where the server has one, by closed ranges of dates."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from bson.datetime_ms import DatetimeMS
from bson.timestamp import Timestamp
from pymongo.client_session import ClientSession
from pymongo.errors import PyMongoError

from lakehouse.errors import SourceMismatch, ValueRefused
from lakehouse.sources.mongodb.bson_scan import Chunk, following
from lakehouse.sources.mongodb.columns import PathColumn, RefusedValue, decode
from lakehouse.sources.mongodb.connect import Client, read_error
from lakehouse.sources.mongodb.cutting import Path, shortest
from lakehouse.sources.mongodb.extent import NotADate, date_extent
from lakehouse.sources.mongodb.refused import decode_some, refused_rows
from lakehouse.sources.mongodb.replies import chunks
from lakehouse.sources.mongodb.values import FIRST_MILLISECOND, LAST_MILLISECOND
from lakehouse.sources.mongodb.whole import id_ranges, split
from lakehouse.sources.prefetch import prefetched
from lakehouse.sources.reader import Refuse
from lakehouse.spec import Column, Position, Table, Window
from lakehouse.spec.quarantine import SourceForm
from lakehouse.spec.types import declared_type

if TYPE_CHECKING:
    from lakehouse.sources.mongodb import MongoReader

REPLY_DOCUMENTS = 8_000
CONNECTIONS = 2
"""Of one read of a window; secantusdb answers one query at a time, so there it is one."""
_RANGES = 4
"""Ranges that a connection reads one after the other: documents are seldom spread evenly."""
_SNAPSHOT_READS = 13
"""The wire version of MongoDB 5.0, the first with snapshot reads outside of transactions."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

Condition = dict[str, Any]


class MongoSnapshot:
    """Reads of one run; its methods may be called from several threads."""

    def __init__(self, reader: MongoReader, client: Client, hello: dict[str, Any], build: dict[str, Any]) -> None:
        """hello, build: what the server says of itself. secantusdb takes a cluster time, but reads what is there now."""
        self._reader = reader
        self._client = client
        self._embedded = "secantusVersion" in build
        self._time = None if self._embedded else cluster_time(hello)
        self._connections = 1 if self._embedded else CONNECTIONS
        preference = client.read_preference.name
        self._position = _position(hello, build, self._time, "" if preference == "Primary" else preference)

    @property
    def position(self) -> Position:
        """Where the server's clock stood."""
        return self._position

    def extent(
        self, table: Table, column: str, near: tuple[datetime, datetime] | None = None
    ) -> tuple[datetime, datetime] | None:
        """The least and the greatest date of a column."""
        path = self._reader.time_path(table, column)
        hint = (_milliseconds_from(near[0]), _milliseconds_from(near[1])) if near else None
        found = self._extent(table, path, column, hint)
        if found is None:
            return None
        low, high = (_EPOCH + timedelta(milliseconds=value) for value in found)
        return low, high

    def read(self, table: Table, window: Window | None = None, refuse: Refuse | None = None) -> Iterator[pa.RecordBatch]:
        """The documents of the collection, or of a window of its event time (mode `append`) or cursor (mode `upsert`)."""
        conditions = self._whole(table) if window is None else self._window(table, window)
        return self._read(table, conditions, self._reader.columns(table), refuse)

    def again(self, table: Table, form: SourceForm, originals: Sequence[bytes], refuse: Refuse) -> Iterator[pa.RecordBatch]:
        """Documents that were refused before."""
        columns = self._reader.columns(table)
        for start in range(0, len(originals), REPLY_DOCUMENTS):
            reply = following(b"".join(originals[start : start + REPLY_DOCUMENTS]))
            yield self._decoded(table, columns, _personal(table), refuse, reply)

    def keys(self, table: Table, refuse: Refuse | None = None) -> Iterator[pa.RecordBatch]:
        """The key columns of every document."""
        by_name = {column.field.name: column for column in self._reader.columns(table)}
        return self._read(table, self._whole(table), [by_name[name] for name in table.key], refuse)

    def _whole(self, table: Table) -> list[Condition]:
        """All documents, in ranges where the server answers several queries at a time."""
        if self._connections == 1:
            return [{}]
        try:
            with self._session() as session:
                documents, parts = self._reader.documents(table), _RANGES * self._connections
                return id_ranges(documents, parts, parts * REPLY_DOCUMENTS, session)
        except PyMongoError as error:
            raise read_error(error, self._tried(table)) from None

    def _extent(self, table: Table, path: str, column: str, near: tuple[int, int] | None = None) -> tuple[int, int] | None:
        now = _milliseconds_from(self._position.taken_at)
        try:
            with self._session() as session:
                documents = self._reader.documents(table)
                return date_extent(documents, path, now, near, limit_stops=not self._embedded, session=session)
        except PyMongoError as error:
            raise read_error(error, self._tried(table)) from None
        except NotADate as error:
            raise ValueRefused(
                f"{self._tried(table)}: column {column!r}",
                value=f"{error} as its least or greatest value",
                allowed="one date in each document",
                remedy="Correct the documents, or declare another column as the one that windows are cut by.",
            ) from None

    @contextmanager
    def _session(self) -> Iterator[ClientSession | None]:
        """A session of this thread that reads at the run's cluster time; None where the server has none."""
        if self._time is None:
            yield None
            return
        with self._client.start_session(snapshot=True) as session:
            session._snapshot_time = self._time  # type: ignore[assignment]  # the driver has no public way to share one time between sessions
            yield session

    def _read(
        self, table: Table, conditions: Sequence[Condition], columns: Sequence[PathColumn], refuse: Refuse | None
    ) -> Iterator[pa.RecordBatch]:
        """Receive replies in threads, decode them here."""
        threads = min(self._connections, len(conditions))

        def reading(part: Sequence[Condition]) -> Callable[[], Generator[Chunk, None, None]]:
            return lambda: self._replies(table, part, columns)

        replies = prefetched([reading(conditions[k::threads]) for k in range(threads)], ahead=threads)
        with closing(replies):
            yield from map(partial(self._decoded, table, columns, _personal(table), refuse), replies)

    def _replies(
        self, table: Table, conditions: Sequence[Condition], columns: Sequence[PathColumn]
    ) -> Generator[Chunk, None, None]:
        try:
            documents, projection = self._reader.documents(table), self._projection(table, columns)
            with self._session() as session:
                for condition in conditions:
                    yield from chunks(documents, condition, projection, REPLY_DOCUMENTS, session)
        except PyMongoError as error:
            raise read_error(error, self._tried(table)) from None

    def _projection(self, table: Table, columns: Sequence[PathColumn]) -> dict[str, int] | None:
        """The fields that leave the server: never one that is dropped for privacy, whatever object it is in."""
        fields = dict.fromkeys((column.path[0] for column in columns if column.path), 1)
        if fields.keys() == {"_id"}:
            return fields
        kept = {column.path for column in columns}
        dropped = [path_of(column) for column in table.columns if table.personal.get(column.name) == "drop"]
        if excluded := [path for path in dropped if path not in kept]:
            return {".".join(path): 0 for path in shortest(excluded)}
        whole = any(not column.path for column in columns)
        return None if self._embedded or whole else fields

    def _decoded(
        self,
        table: Table,
        columns: Sequence[PathColumn],
        personal: Sequence[Path],
        refuse: Refuse | None,
        reply: Chunk,
    ) -> pa.RecordBatch:
        try:
            if refuse is None:
                return decode(reply, columns, personal)
            batch, left_out = decode_some(reply, columns, personal)
            if left_out:
                refuse(refused_rows(table, reply, left_out, columns, personal))
            return batch
        except RefusedValue as refused:
            type_ = next((declared_type(c.field) for c in columns if c.field.name == refused.column), "one value")
            raise ValueRefused(
                f"{self._tried(table)}: field {refused.column!r} of the document with _id {refused.document_id}",
                value=refused.found,
                allowed=f"what {type_} holds exactly",
                remedy=f'Correct the document, or declare Column("{refused.column}", "json") to keep any value.',
            ) from None

    def _window(self, table: Table, window: Window) -> list[Condition]:
        """The ranges that make up a window, as conditions."""
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
        path = self._reader.time_path(table, column)
        inner = (low, high)
        parts = _RANGES * self._connections if self._connections > 1 else 1
        if parts > 1 and (window.low is None or window.high is None):
            inner = self._extent(table, path, column) or inner
        return [{path: {"$gte": DatetimeMS(first), "$lte": DatetimeMS(last)}} for first, last in split(low, high, inner, parts)]

    def _tried(self, table: Table) -> str:
        return f"reading table {table.name!r} of source {self._reader.name!r}"


def cluster_time(hello: dict[str, Any]) -> Timestamp | None:
    """A time at which a replica set or a sharded cluster can be read as a whole; None for a server that has none."""
    member = "setName" in hello or hello.get("msg") == "isdbgrid"
    if not member or "logicalSessionTimeoutMinutes" not in hello or hello.get("maxWireVersion", 0) < _SNAPSHOT_READS:
        return None
    found = hello.get("operationTime")
    return found if isinstance(found, Timestamp) else None


def _personal(table: Table) -> list[Path]:
    return [path_of(column) for column in table.columns if column.name in table.personal]


def path_of(column: Column) -> Path:
    """Where a document has a column."""
    return tuple((column.path or column.name).split("."))


def _milliseconds_from(at: datetime) -> int:
    """The first millisecond at or after a time: BSON dates have no finer part."""
    return -((_EPOCH - at) // _MILLISECOND)


def _utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _position(hello: dict[str, Any], build: dict[str, Any], time: Timestamp | None, preference: str) -> Position:
    now = bound = _utc(hello["localTime"])
    detail = {
        "server": f"MongoDB {build.get('version', 'unknown')}"
        + (f" (secantusdb {build['secantusVersion']})" if "secantusVersion" in build else ""),
        "inexact": "documents carry times of the applications' clocks, and MongoDB does not show writes that are under way",
    }
    if time is not None:
        detail["cluster_time"] = f"{time.time}.{time.inc}"
    else:
        detail["consistency"] = "each reply as it was when it was read: this server cannot be read as it was at one cluster time"
        if "operationTime" in hello:
            stamp = hello["operationTime"]
            detail["operation_time"] = f"{stamp.time}.{stamp.inc}"
    if "setName" in hello:
        detail["set"] = str(hello["setName"])
    if preference:
        detail["read_preference"] = preference
    if hello.get("secondary"):
        detail["member"] = "secondary"
        written = hello.get("lastWrite", {}).get("lastWriteDate")
        bound = min(now, _utc(written)) if written else now
    return Position(now, bound, False, detail)
