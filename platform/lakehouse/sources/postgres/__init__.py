"""Postgres as a source: its catalog gives the schema, an exported snapshot one consistent view, page ranges a parallel scan."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from lakehouse.errors import SourceMismatch, ValueRefused
from lakehouse.rows.duck import quoted
from lakehouse.sources.patience import Patience
from lakehouse.sources.postgres.catalog import Relation, find_oids, find_relation
from lakehouse.sources.postgres.columns import ReadColumn, beyond_years, read_columns
from lakehouse.sources.postgres.connect import PATIENT, Connection, answer_bound, connect, connection_string, reading
from lakehouse.sources.postgres.oversize import parted
from lakehouse.sources.postgres.refusal import refusal, unreadable
from lakehouse.sources.postgres.refused import RefusedScan, as_relations
from lakehouse.sources.postgres.scan import RefusedValue, Scan, SnapshotScanner, UnreadableText, page_ranges
from lakehouse.sources.postgres.snapshot import ExportedSnapshot, exported_snapshot, joined
from lakehouse.sources.postgres.storage import StorageWatch, files_behind
from lakehouse.sources.reader import Refuse, SourceSnapshot
from lakehouse.spec import Position, Source, Table, Window
from lakehouse.spec.quarantine import SourceForm

__all__ = ["PostgresReader"]

_HAS_KEYS = ("r", "p")


class PostgresReader:
    """The reader of one Postgres database; safe for several threads, each read has connections of its own."""

    def __init__(self, source: Source, url: str, replica_url: str | None = None, patience: Patience = PATIENT) -> None:
        """replica_url: where everything is read, if not from `url`, which then says only up to when nothing is missing."""
        self._source = source
        self._answer = answer_bound(source.load, patience)
        self._conninfo = connection_string(url, source.name, source.load, patience=patience)
        self._primary: str | None = None
        if replica_url:
            self._primary = self._conninfo
            self._conninfo = connection_string(replica_url, source.name, source.load, "REPLICA_URL", patience)
        self._relations: dict[str, Relation] = {}
        self._lock = threading.Lock()

    def check(self, tables: Sequence[Table]) -> None:
        """Compare the declaration with the catalog; raises as `SourceReader.check` says."""
        with connect(self._conninfo, self.name, self._answer) as connection:
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
        with connect(self._conninfo, self.name, self._answer) as connection:
            with reading(f"looking at the tables of source {self.name!r}"):
                files = files_behind(connection, find_oids(connection, self._source.tables))
            with (
                exported_snapshot(connection, self.name, self._primary, self._answer) as exported,
                closing(StorageWatch(self._conninfo, self.name, files, self._answer)) as watch,
                closing(SnapshotScanner(self._conninfo, exported.id, self._source.load, self._answer)) as scanner,
            ):
                yield PostgresSnapshot(self, exported, scanner, watch)

    def snapshot(self) -> AbstractContextManager[SourceSnapshot]:
        """One consistent view of the database, shared by every read of the context."""
        return self._snapshot()

    def warnings(self, table: Table) -> tuple[str, ...]:
        """None: what makes reading slow is not looked for."""
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

    @property
    def answer(self) -> float | None:
        """Seconds in which a statement must be answered."""
        return self._answer

    def relation(self, table: Table) -> Relation:
        """The relation of a table, looked up once."""
        with self._lock:
            if table.name not in self._relations:
                with connect(self._conninfo, self.name, self._answer) as connection:
                    self._relations[table.name] = self._find(connection, table)
            return self._relations[table.name]

    def _find(self, connection: Connection, table: Table) -> Relation:
        with reading(f"looking for table {table.name!r} of source {self.name!r}"):
            return find_relation(connection, self.name, table)

    def _columns(self, table: Table) -> tuple[ReadColumn, ...]:
        return read_columns(self.relation(table), self.name, table)


class PostgresSnapshot:
    """One exported snapshot."""

    def __init__(self, reader: PostgresReader, exported: ExportedSnapshot, scanner: SnapshotScanner, watch: StorageWatch) -> None:
        self._reader = reader
        self._exported = exported
        self._scanner = scanner
        self._watch = watch

    @property
    def position(self) -> Position:
        """Where the database stood."""
        return self._exported.position

    def extent(
        self, table: Table, column: str, near: tuple[datetime, datetime] | None = None
    ) -> tuple[datetime, datetime] | None:
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
        with self._joined() as connection:
            low, high, refused = _one(connection, query, self._tried(table))
            if refused:
                raise refusal(connection, table, relation, (read,), "true", self._tried(table))
        self._watch.check(relation.oid, self._tried(table))
        if low is None:
            return None
        return _in_utc(low), _in_utc(high)

    def read(self, table: Table, window: Window | None = None, refuse: Refuse | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of the table, or of a window of its event time (mode `append`) or cursor (mode `upsert`)."""
        relation = self._reader.relation(table)
        columns = read_columns(relation, self._reader.name, table)
        within = "true" if window is None else self._window(table, window)
        if relation.is_heap and (window is None or window.low is None):
            ranges = page_ranges(relation.pages, relation.leaves)
            conditions = ranges if window is None else tuple(f"{condition} and {within}" for condition in ranges)
        else:
            conditions = (within,)
        return self._scan(table, columns, conditions, within, refuse)

    def keys(self, table: Table, refuse: Refuse | None = None) -> Iterator[pa.RecordBatch]:
        """The key columns of every row."""
        relation = self._reader.relation(table)
        by_name = {column.field.name: column for column in read_columns(relation, self._reader.name, table)}
        conditions = page_ranges(relation.pages, relation.leaves) if relation.is_heap else ("true",)
        return self._scan(table, tuple(by_name[name] for name in table.key), conditions, "true", refuse)

    def again(self, table: Table, form: SourceForm, originals: Sequence[bytes], refuse: Refuse) -> Iterator[pa.RecordBatch]:
        """Rows that were refused before; the server reads their text as the types of its columns."""
        relation = self._reader.relation(table)
        columns = read_columns(relation, self._reader.name, table)
        for rows in as_relations(relation, columns, originals):
            yield from self._tolerant(table, replace(relation, made=rows), columns, ("true",), "true", False, refuse)

    def _scan(
        self,
        table: Table,
        columns: Sequence[ReadColumn],
        conditions: Sequence[str],
        within: str,
        refuse: Refuse | None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of all conditions, which together are those `within`."""
        tried, relation = self._tried(table), self._reader.relation(table)
        read = {column.field.name for column in columns}
        self._watch.check(relation.oid, tried)
        large = False
        if relation.may_have_large_rows:
            with self._joined() as connection, reading(tried):
                wide = [column for column in relation.columns if column.name in read]
                whole, conditions = conditions, parted(connection, relation, wide, conditions, within)
                large = len(conditions) > len(whole)
        try:
            if refuse is None:
                yield from self._scanner.scan(Scan(relation.sql, tuple(columns), tuple(conditions), large), tried)
            else:
                yield from self._tolerant(table, relation, columns, conditions, within, large, refuse)
        except RefusedValue:
            with self._joined() as connection:
                raise refusal(connection, table, relation, columns, within, tried) from None
        except UnreadableText as error:
            with self._joined() as connection:
                raise unreadable(connection, table, relation, columns, within, tried, str(error)) from None
        self._watch.check(relation.oid, tried)

    def _tolerant(
        self,
        table: Table,
        relation: Relation,
        columns: Sequence[ReadColumn],
        conditions: Sequence[str],
        within: str,
        large: bool,
        refuse: Refuse,
    ) -> Iterator[pa.RecordBatch]:
        """The rows that no column refuses, and then the others, as many as were left out."""
        tried, dropped = self._tried(table), list[int]()
        yield from self._scanner.scan(Scan(relation.sql, tuple(columns), tuple(conditions), large), tried, dropped.append)
        if not dropped:
            return
        refused, found = RefusedScan(table, relation, columns, within), 0
        for batch in self._scanner.scan(refused.scan, tried):
            rows = refused.rows(batch)
            found += batch.num_rows
            refuse(rows)
        if found != sum(dropped):
            raise ValueRefused(
                tried,
                value=f"{sum(dropped):,} rows with values that their types cannot hold, and {found:,} when they were looked for",
                allowed="the same rows twice, on one snapshot",
                remedy="Read the table itself if it is a view that gives other rows each time; declare it with "
                "on_refused='stop' to be told of the rows.",
            )

    def _joined(self) -> AbstractContextManager[Connection]:
        return joined(self._reader.conninfo, self._reader.name, self._exported.id, self._reader.answer)

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


def _one(connection: Connection, query: str, tried: str) -> tuple[object, ...]:
    with reading(tried):
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return tuple(row)
