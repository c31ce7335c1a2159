"""MongoDB as a source: raw batches from the server, decoded in lockstep into the declared columns."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import pyarrow as pa
from bson.datetime_ms import DatetimeMS
from pymongo.errors import PyMongoError

from lakehouse.errors import SourceMismatch, ValueRefused
from lakehouse.sources.mongodb.columns import PathColumn
from lakehouse.sources.mongodb.connect import PATIENT, Client, address, connect_error, open_client, read_error
from lakehouse.sources.mongodb.extended_json import EXACT
from lakehouse.sources.mongodb.extent import Documents
from lakehouse.sources.mongodb.indexes import has_index
from lakehouse.sources.mongodb.snapshot import MongoSnapshot, path_of
from lakehouse.sources.mongodb.values import FIRST_MILLISECOND, LAST_MILLISECOND
from lakehouse.sources.patience import Patience
from lakehouse.sources.reader import SourceSnapshot
from lakehouse.spec import Column, Source, Table
from lakehouse.spec.declaration import DOCUMENT
from lakehouse.spec.types import arrow_field, declared_type

__all__ = ["MongoReader"]

_WHOLE = PathColumn(
    arrow_field(DOCUMENT, "binary", nullable=False, doc="The whole document as BSON, without its personal fields."), ()
)


class MongoReader:
    """The reader of one MongoDB database; safe for several threads."""

    def __init__(self, source: Source, url: str, patience: Patience = PATIENT) -> None:
        self._source = source
        self._patience = patience
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
        """The database at one cluster time; where the server has none, closed ranges of dates stand in for one view."""
        return self._snapshot()

    @contextmanager
    def _snapshot(self) -> Iterator[SourceSnapshot]:
        client, _ = self._client()
        try:
            hello = client.admin.command("hello", read_preference=client.read_preference)
            build = client.admin.command("buildInfo", read_preference=client.read_preference)
        except PyMongoError as error:
            raise connect_error(error, self._connecting(), self.name) from None
        yield MongoSnapshot(self, client, hello, build)

    def warnings(self, table: Table) -> tuple[str, ...]:
        """A missing index on the column that windows are cut by: each window is a scan of the collection then."""
        column = {"append": table.event_time, "upsert": table.cursor}.get(table.mode)
        if column is None:
            return ()
        path = self.time_path(table, column)
        try:
            if has_index(self.documents(table), path):
                return ()
        except PyMongoError as error:
            raise read_error(error, f"looking for an index on {path!r} of table {table.name!r}") from None
        collection = table.relation or table.name
        return (
            f"no index on {path!r} of collection {collection!r}: each window reads the whole collection; "
            f'create it with db.getCollection("{collection}").createIndex({{"{path}": 1}})',
        )

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
                self._opened = open_client(self._url, self.name, self._patience)
            return self._opened

    def _connecting(self) -> str:
        return f"connecting to source {self.name!r} at {address(self._url)}"


def _path_column(column: Column, table: Table) -> PathColumn:
    nullable = column.nullable and column.name not in table.key
    field = arrow_field(column.name, "".join(column.type.split()), nullable=nullable, doc=column.description)
    return PathColumn(field, path_of(column), column.mixed)
