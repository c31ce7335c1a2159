"""Compare a source with the fold of its raw log, row by row, where it can be compared.

A row may have changed in the source since it was read; that is life, not loss. So a difference counts against the copies only
when the next run could not explain it:

- `append`: a landed row must still be there, as it was; a row that is in the source alone counts when its day was closed.
- `upsert`: a row with the same cursor must be the same; a row in the source alone counts when its cursor is older than the
  window that the next run reads. A row that is gone, or has a newer cursor, is pending.
- `snapshot`: the table has no closed window; a difference is pending.

Columns that only one side has are left out: the next run reads rows again that were landed without a column of the source, and
a column that the source has dropped keeps its old values here.

What is pending is counted, and left out of rows and checksum on the side of the source.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa

from lakehouse.pipeline.column_types import landed_types
from lakehouse.pipeline.verify_copies import NOTHING
from lakehouse.pipeline.verify_raw import Digested
from lakehouse.pipeline.verify_record import Parts
from lakehouse.pipeline.windows import closed_days, known_reads
from lakehouse.raw import schema_of
from lakehouse.rows.checksum import DIGEST, digest_schema, partition_checksums
from lakehouse.rows.digest import row_digests
from lakehouse.rows.duck import incoming, literal, quoted
from lakehouse.rows.partition import PARTITION, encoded_partitions
from lakehouse.spec import LogEntry, RowChecksum, Table
from lakehouse.spec.types import arrow_type, declared_type, field_paths


@dataclass
class Compared:
    """What was found of a source, stretch by stretch.

    parts: rows of the source without what is pending, by partition. differs: the partitions that differ. pending: how many rows
    are. read: rows that were read. whole: whether both sides had the same columns.
    """

    parts: Parts = field(default_factory=dict)
    differs: set[str] = field(default_factory=set)
    pending: int = 0
    read: int = 0
    whole: bool = True


class SourceComparison:
    """One table compared in stretches: load the source's rows, then those of raw, then judge; then the next stretch."""

    def __init__(self, table: Table, entries: Sequence[LogEntry], connection: duckdb.DuckDBPyConnection) -> None:
        self.found = Compared()
        self._table = table
        self._connection = connection
        self._entries = entries
        self._pending = _pending_sql(table, entries)
        whole = [entry.manifest for entry in entries if entry.manifest.kind != "delete"]
        self._landed = {name: arrow_type(type_) for name, type_ in landed_types(entries).items()}
        self._schema = schema_of(whole[-1])
        self._shared = set(self._landed)

    def anew(self) -> SourceComparison:
        """A comparison that has found nothing yet."""
        return SourceComparison(self._table, self._entries, self._connection)

    def totals(self, batches: Iterator[pa.RecordBatch]) -> Parts:
        """Rows and checksum of rows of the source, by partition; nothing is compared."""
        parts = Parts()
        for batch, digests in self._digested(batches):
            partition_checksums(batch, digests, self._table.partition, parts)
        return parts

    def load_source(self, batches: Iterator[pa.RecordBatch]) -> None:
        """The source's rows of a stretch, protected as they would land."""
        self._load("source_digests", self._digested(batches))

    def _digested(self, batches: Iterator[pa.RecordBatch]) -> Iterator[Digested]:
        self._shared = set(self._landed)
        for batch in batches:
            landed = self._landed
            known = [f.with_type(_without_new(f.type, landed[f.name])) for f in batch.schema if f.name in landed]
            shared = [field for field in known if _paths(field.type) == _paths(landed[field.name])]
            self._shared = {field.name for field in shared}
            self.found.whole = self.found.whole and shared == [*batch.schema] and len(shared) == len(landed)
            self.found.read += batch.num_rows
            yield batch, row_digests(_as_fields(batch, shared), pa.schema(shared))

    def load_raw(self, rows: Iterator[Digested]) -> None:
        """The rows of raw of the same stretch, compared by the columns that both sides have, with the same fields in structs."""

        def shared() -> Iterator[Digested]:
            for batch, digests in rows:
                if self._shared.issuperset(batch.schema.names):
                    yield batch, digests
                else:
                    yield batch, row_digests(batch, _part(batch.schema, self._shared))

        self._load("raw_digests", shared())

    def judge(self) -> None:
        """Add what the stretch says to what was found."""
        connection = self._connection
        connection.execute(f"create or replace temp table differences as {_differences_sql(self._table)}")
        connection.execute(
            f"create or replace temp table judged as select *, coalesce({self._pending}, false) as pending from differences"
        )
        wrapped = "% 18446744073709551616::hugeint"
        rows = connection.execute(
            f"select {PARTITION}, count(*), sum(digest::hugeint) {wrapped} from source_digests group by all"
        ).fetchall()
        pending = connection.execute(
            f"select {PARTITION}, count(*), sum(source_rows), sum(source_total) {wrapped} from judged where pending group by all"
        ).fetchall()
        differs = connection.execute(f"select distinct {PARTITION} from judged where not pending").fetchall()
        for name, count, value in rows:
            self._add(str(name), RowChecksum(int(count), int(value)))
        for name, count, later, value in pending:
            self.found.pending += int(count)
            self.found.parts[str(name)] = self.found.parts.get(str(name), NOTHING) - RowChecksum(int(later), int(value))
        self.found.differs |= {str(name) for (name,) in differs}

    def _add(self, name: str, part: RowChecksum) -> None:
        self.found.parts[name] = self.found.parts.get(name, NOTHING) + part

    def _load(self, name: str, rows: Iterator[Digested]) -> None:
        """A temporary table of key, time, partition and digest of each row."""
        connection, table = self._connection, self._table
        first = next(rows, None) or (pa.RecordBatch.from_pylist([], schema=self._schema), np.zeros(0, np.uint64))
        time = table.cursor if table.mode == "upsert" else table.event_time
        names = list(dict.fromkeys([*table.key, *([time] if time else [])]))
        kept = pa.schema([*(first[0].schema.field(column) for column in names), pa.field(PARTITION, pa.string())])
        whole = digest_schema(kept)

        def prepared() -> Iterator[pa.RecordBatch]:
            for batch, digests in itertools.chain([first], rows):
                own = [batch.column(column).cast(kept.field(column).type) for column in names]
                partitions = encoded_partitions(batch, table.partition).dictionary_decode()
                yield pa.RecordBatch.from_arrays([*own, partitions, pa.array(digests, pa.uint64())], schema=whole)

        key = ", ".join(f"{quoted(column)} as {quoted('key_' + column)}" for column in table.key)
        moment = quoted(time) if time else "null::timestamptz"
        chosen = f"{key}, {moment} as moment, {PARTITION}, {DIGEST} as digest"
        with incoming(connection, "incoming_rows", prepared(), whole):
            connection.execute(f"create or replace temp table {name} as select {chosen} from incoming_rows")


def _without_new(type_: pa.DataType, landed: pa.DataType) -> pa.DataType:
    """A type of the source without the fields of structs that were never landed."""
    if pa.types.is_list(type_) and pa.types.is_list(landed):
        return pa.list_(type_.value_field.with_type(_without_new(type_.value_type, landed.value_type)))
    if pa.types.is_struct(type_) and pa.types.is_struct(landed):
        known = {field.name: field.type for field in landed}
        return pa.struct([f.with_type(_without_new(f.type, known[f.name])) for f in type_ if f.name in known])
    return type_


def _paths(type_: pa.DataType) -> frozenset[tuple[str, ...]]:
    return field_paths([("", declared_type(pa.field("", type_)))])


def _as_fields(batch: pa.RecordBatch, fields: Sequence[pa.Field]) -> pa.RecordBatch:
    columns = [(batch.column(field.name), field) for field in fields]
    arrays = [column if column.type == field.type else column.cast(field.type) for column, field in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)) if arrays else batch


def _part(schema: pa.Schema, names: Collection[str]) -> pa.Schema:
    return pa.schema([field for field in schema if field.name in names])


def _differences_sql(table: Table) -> str:
    """Keys whose rows are not the same, or not as many, on both sides; appended rows are compared with their digest as key."""
    columns = [quoted("key_" + column) for column in table.key]
    if table.mode == "append":
        columns.append("digest")
    key = ", ".join(columns)
    match = " and ".join(f"s.{column} is not distinct from r.{column}" for column in columns)
    grouped = (
        f"select {key}, min(moment) as moment, min({PARTITION}) as {PARTITION}, count(*) as n, sum(digest::hugeint) as total from"
    )
    return (
        f"select coalesce(s.{PARTITION}, r.{PARTITION}) as {PARTITION}, s.moment as source_moment, r.moment as raw_moment,"
        " coalesce(s.n, 0) as source_rows, coalesce(r.n, 0) as raw_rows, coalesce(s.total, 0) as source_total"
        f" from ({grouped} source_digests group by all) s full outer join ({grouped} raw_digests group by all) r on {match}"
        " where s.total is distinct from r.total"
    )


def _pending_sql(table: Table, entries: Sequence[LogEntry]) -> str:
    """Whether a difference is one that the next run explains."""
    if table.mode == "snapshot":
        return "true"
    if table.mode == "append":
        open_days = [day for day, closed in closed_days(entries).items() if not closed]
        days = ", ".join(f"date {literal(day.isoformat())}" for day in open_days) or "null"
        return f"raw_rows = 0 and (source_moment at time zone 'UTC')::date in ({days})"
    low = read_again_from(table, entries)
    if low is None:
        return "true"
    moved = "(raw_rows = 0 or source_moment is distinct from raw_moment)"
    return f"source_rows = 0 or ({moved} and source_moment >= {literal(low.isoformat())}::timestamptz)"


def read_again_from(table: Table, entries: Sequence[LogEntry]) -> datetime | None:
    """The cursor from which the next run reads an `upsert` table again; None when it reads all of it."""
    known = reversed(known_reads(entries))
    last = next((e.manifest.window for e in known if e.manifest.kind == "upsert" and e.manifest.window), None)
    return None if last is None or last.high is None else last.high - table.lookback
