"""Postgres as a source: its catalog gives the schema, an exported snapshot one consistent view, page ranges a parallel scan."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from lakehouse.errors import SourceMismatch, ValueRefused
from lakehouse.rows.duck import quoted
from lakehouse.sources.postgres.catalog import Relation, find_relation
from lakehouse.sources.postgres.columns import ReadColumn, beyond_years, read_columns
from lakehouse.sources.postgres.connect import Connection, connect, connection_string, reading
from lakehouse.sources.postgres.scan import RefusedValue, Scan, SnapshotScanner, page_ranges
from lakehouse.sources.postgres.snapshot import ExportedSnapshot, exported_snapshot, joined
from lakehouse.sources.reader import SourceSnapshot
from lakehouse.spec import Position, Source, Table, Window
from lakehouse.spec.types import declared_type

__all__ = ["PostgresReader"]

_HAS_KEYS = ("r", "p")


class PostgresReader:
    """The reader of one Postgres database; safe for several threads, each read has connections of its own."""

    def __init__(self, source: Source, url: str) -> None:
        self._source = source
        self._conninfo = connection_string(url, source.name)
        self._relations: dict[str, Relation] = {}
        self._lock = threading.Lock()

    def check(self, tables: Sequence[Table]) -> None:
        """Compare the declaration with the catalog; raises as `SourceReader.check` says."""
        with connect(self._conninfo, self.name) as connection:
            for table in tables:
                relation = self._find(connection, table)
                with self._lock:
                    self._relations[table.name] = relation
                columns = read_columns(relation, self.name, table)
                _check_readable(connection, Scan(relation.sql, columns, ()), self.name, table)
                _check_key(relation, self.name, table)
                _check_times(connection, relation, columns, self.name, table)

    def schema(self, table: Table) -> pa.Schema:
        """The Arrow schema of the rows, from the catalog; it stays the same while this reader is open."""
        return pa.schema([column.field for column in self._columns(table)])

    @contextmanager
    def _snapshot(self) -> Iterator[SourceSnapshot]:
        with connect(self._conninfo, self.name) as connection, exported_snapshot(connection, self.name) as exported:
            snapshot = PostgresSnapshot(self, exported)
            try:
                yield snapshot
            finally:
                snapshot.scanner.close()

    def snapshot(self) -> AbstractContextManager[SourceSnapshot]:
        """One consistent view of the database, shared by every read of the context."""
        return self._snapshot()

    def warnings(self, table: Table) -> tuple[str, ...]:
        """Nothing is looked for yet."""
        return ()

    def close(self) -> None:
        """Nothing is held between calls."""

    @property
    def name(self) -> str:
        """The source's name."""
        return self._source.name

    @property
    def conninfo(self) -> str:
        """The libpq connection string."""
        return self._conninfo

    def relation(self, table: Table) -> Relation:
        """The relation of a table, looked up once."""
        with self._lock:
            if table.name not in self._relations:
                with connect(self._conninfo, self.name) as connection:
                    self._relations[table.name] = self._find(connection, table)
            return self._relations[table.name]

    def _find(self, connection: Connection, table: Table) -> Relation:
        with reading(f"looking for table {table.name!r} of source {self.name!r}"):
            return find_relation(connection, self.name, table)

    def _columns(self, table: Table) -> tuple[ReadColumn, ...]:
        return read_columns(self.relation(table), self.name, table)


class PostgresSnapshot:
    """One exported snapshot."""

    def __init__(self, reader: PostgresReader, exported: ExportedSnapshot) -> None:
        self._reader = reader
        self._exported = exported
        self.scanner = SnapshotScanner(reader.conninfo, exported.id)

    @property
    def position(self) -> Position:
        """Where the database stood."""
        return self._exported.position

    def extent(self, table: Table, column: str) -> tuple[datetime, datetime] | None:
        """The least and the greatest value of a timestamp or date column."""
        relation, read = self._column(table, column)
        name = quoted(column)
        type_ = next(found.type for found in relation.columns if found.name == column)
        bad_low, bad_high = beyond_years("low", type_), beyond_years("high", type_)
        query = (
            f"select case when {bad_low} then null else low end, case when {bad_high} then null else high end, "
            f"coalesce({bad_low} or {bad_high}, false) "
            f"from (select min({name}) as low, max({name}) as high from {relation.sql}) as e"
        )
        with joined(self._reader.conninfo, self._reader.name, self._exported.id) as connection:
            low, high, refused = _one(connection, query, self._tried(table))
            if refused:
                raise self._refusal(connection, table, relation, (read,), "true")
        if low is None:
            return None
        return _in_utc(low), _in_utc(high)

    def read(self, table: Table, window: Window | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of the table, or of a window of its event time (mode `append`) or cursor (mode `upsert`)."""
        relation = self._reader.relation(table)
        columns = read_columns(relation, self._reader.name, table)
        if window is None:
            conditions = page_ranges(relation.pages) if relation.is_heap else ("true",)
        else:
            conditions = (self._window(table, window),)
        return self._scan(table, Scan(relation.sql, columns, conditions))

    def keys(self, table: Table) -> Iterator[pa.RecordBatch]:
        """The key columns of every row."""
        relation = self._reader.relation(table)
        by_name = {column.field.name: column for column in read_columns(relation, self._reader.name, table)}
        conditions = page_ranges(relation.pages) if relation.is_heap else ("true",)
        return self._scan(table, Scan(relation.sql, tuple(by_name[name] for name in table.key), conditions))

    def _scan(self, table: Table, scan: Scan) -> Iterator[pa.RecordBatch]:
        tried = self._tried(table)
        try:
            yield from self.scanner.scan(scan, tried)
        except RefusedValue:
            with joined(self._reader.conninfo, self._reader.name, self._exported.id) as connection:
                condition = " or ".join(f"({condition})" for condition in scan.conditions)
                raise self._refusal(connection, table, self._reader.relation(table), scan.columns, condition) from None

    def _refusal(
        self, connection: Connection, table: Table, relation: Relation, columns: Sequence[ReadColumn], condition: str
    ) -> ValueRefused:
        """Find, on the same snapshot, a value that a column refuses, and the keys of the first rows that have one."""
        keys = ", ".join(f"{quoted(name)}::text" for name in table.key)
        for column in columns:
            if column.refused is None:
                continue
            name = column.field.name
            query = (
                f"select {quoted(name)}::text, {keys} from {relation.sql} "
                f"where ({condition}) and {column.refused} order by {keys} limit 5"
            )
            with reading(self._tried(table)):
                rows = connection.execute(query.encode()).fetchall()
            if rows:
                found = "; ".join(f"{row[0]} in {_named(table.key, row[1:])}" for row in rows)
                return ValueRefused(
                    f"{self._tried(table)}: column {name!r}",
                    value=found,
                    allowed=_ALLOWED.get(declared_type(column.field), f"what {declared_type(column.field)} holds exactly"),
                    remedy=f'Correct the rows, or declare Column("{name}", "string") to keep its text.',
                )
        return ValueRefused(
            self._tried(table), value="a value that its type cannot hold", remedy="Declare the table's columns as string."
        )

    def _window(self, table: Table, window: Window) -> str:
        column = table.cursor if table.mode == "upsert" else table.event_time
        if column is None:
            raise SourceMismatch(
                f"{self._tried(table)}: by a window",
                value=f"mode {table.mode!r}",
                allowed="mode append (a window of event_time) or upsert (of cursor)",
                remedy="Read the whole table.",
            )
        relation, _ = self._column(table, column)
        type_ = next(c.type for c in relation.columns if c.name == column)
        parts = []
        for bound, operator in ((window.low, ">="), (window.high, "<")):
            if bound is not None:
                parts.append(f"{quoted(column)} {operator} {_bound(bound, type_)}")
        return " and ".join(parts) or f"{quoted(column)} is not null"

    def _column(self, table: Table, column: str) -> tuple[Relation, ReadColumn]:
        relation = self._reader.relation(table)
        for read in read_columns(relation, self._reader.name, table):
            if read.field.name == column:
                _check_time(relation, column, self._reader.name, table)
                return relation, read
        raise SourceMismatch(
            f"{self._tried(table)}: column {column!r}",
            value="no such column among those that are read",
            allowed=", ".join(c.name for c in relation.columns),
            remedy="Name a timestamp column of the table.",
        )

    def _tried(self, table: Table) -> str:
        return f"reading table {table.name!r} of source {self._reader.name!r}"


_ALLOWED = {
    "timestamp": "finite times of the years 1 to 9999",
    "date": "finite dates of the years 1 to 9999",
}
_TIMES = ("timestamptz", "timestamp", "date")


def _check_readable(connection: Connection, scan: Scan, source: str, table: Table) -> None:
    """The role may read the columns: the server plans the read's own query, and gives no row."""
    with reading(f"checking table {table.name!r} of source {source!r}"):
        connection.execute(scan.query("false").encode())


def _check_key(relation: Relation, source: str, table: Table) -> None:
    """A table's rows must be told apart by the declared key; a view's cannot be checked."""
    if relation.kind not in _HAS_KEYS or any(set(key) <= set(table.key) for key in relation.unique_keys):
        return
    there = "; ".join(f"({', '.join(key)})" for key in relation.unique_keys)
    raise SourceMismatch(
        f"checking table {table.name!r} of source {source!r}: key ({', '.join(table.key)})",
        value="no primary key, nor a unique index of columns that are not null, says that these columns identify a row",
        allowed=there or "nothing: the table has no such index",
        remedy="Declare one of these keys, or create a unique index in the source.",
    )


def _check_times(connection: Connection, relation: Relation, columns: Sequence[ReadColumn], source: str, table: Table) -> None:
    """The column that windows are cut by is a time, and no row is without it: it would never be read."""
    column = {"append": table.event_time, "upsert": table.cursor}.get(table.mode)
    if column is None:
        return
    _check_time(relation, column, source, table)
    if next(read.field.nullable for read in columns if read.field.name == column):
        tried = f"checking table {table.name!r} of source {source!r}"
        (missing,) = _one(connection, f"select exists (select from {relation.sql} where {quoted(column)} is null)", tried)
        if missing:
            raise ValueRefused(
                f"{tried}: column {column!r}",
                value="rows where it is null",
                allowed="a time in every row: windows of it are read, and these rows would never be",
                remedy=f"Set {column} in those rows, or declare mode='snapshot'.",
            )


def _check_time(relation: Relation, column: str, source: str, table: Table) -> None:
    found = next(c for c in relation.columns if c.name == column)
    if found.type not in _TIMES or found.is_array:
        raise SourceMismatch(
            f"reading table {table.name!r} of source {source!r} by column {column!r}",
            value=found.spelled,
            allowed="timestamp with time zone, timestamp or date",
            remedy="Name a time column, or declare mode='snapshot'.",
        )


def _bound(bound: datetime, type_: str) -> str:
    """A window's edge as a literal of the column's own type, so that an index on it serves."""
    at = bound.astimezone(UTC).replace(tzinfo=None)
    if type_ == "date":
        midnight = datetime(at.year, at.month, at.day)
        day = midnight if at == midnight else midnight + timedelta(days=1)
        return f"'{day.date().isoformat()}'::date"
    if type_ == "timestamp":
        return f"'{at.isoformat()}'::timestamp"
    return f"'{at.isoformat()}+00'::timestamptz"


def _in_utc(value: object) -> datetime:
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    day = value
    return datetime.combine(day, datetime.min.time(), tzinfo=UTC)  # type: ignore[arg-type]


def _named(names: Sequence[str], values: Sequence[object]) -> str:
    return "row " + ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


def _one(connection: Connection, query: str, tried: str) -> tuple[object, ...]:
    with reading(tried):
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return tuple(row)
