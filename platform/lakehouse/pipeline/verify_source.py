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

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.windows import closed_days, known_reads
from lakehouse.rows.checksum import DIGEST, digest_schema, with_digests
from lakehouse.rows.duck import incoming, literal, quoted
from lakehouse.rows.partition import PARTITION, with_partition
from lakehouse.rows.privacy import protected
from lakehouse.sources.reader import SourceSnapshot
from lakehouse.spec import LogEntry, RowChecksum, Source, Table, Window


@dataclass(frozen=True)
class Compared:
    """Rows of the source without what is pending, the partitions that differ, and how many rows are pending."""

    rows: RowChecksum
    differs: tuple[str, ...]
    pending: int


def compare_source(
    deployment: Deployment,
    source: Source,
    table: Table,
    snapshot: SourceSnapshot,
    folded: duckdb.DuckDBPyConnection,
    connection: duckdb.DuckDBPyConnection,
) -> Compared:
    """Compare the source's rows with the table `raw_rows` of `folded`, the fold of the raw log; `connection` does the work."""
    entries = deployment.log(source, table).entries()
    key = deployment.settings.privacy_key.get_secret_value()
    schema = folded.execute("select * from raw_rows limit 0").to_arrow_table().schema
    batches = protected(_source_rows(table, snapshot, entries), table, key)
    columns = _load(connection, "source_digests", batches, table, schema, schema.names)
    raw = folded.execute("select * from raw_rows").to_arrow_reader(65536)
    _load(connection, "raw_digests", iter(raw), table, schema, columns)
    connection.execute(f"create or replace temp table differences as {_differences_sql(table)}")
    legitimate = _pending_sql(table, entries)
    connection.execute(
        f"create or replace temp table judged as select *, coalesce({legitimate}, false) as pending from differences"
    )
    return _judge(connection)


def _source_rows(table: Table, snapshot: SourceSnapshot, entries: list[LogEntry]) -> Iterator[pa.RecordBatch]:
    if table.mode != "append":
        yield from snapshot.read(table)
        return
    for day in sorted(closed_days(entries)):
        yield from snapshot.read(table, Window.of_day(day))


def _load(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    batches: Iterator[pa.RecordBatch],
    table: Table,
    schema: pa.Schema,
    columns: Collection[str],
) -> list[str]:
    """A temporary table of key, time, partition and digest of each row; the columns that the digest covers, of `columns`."""
    time = table.cursor if table.mode == "upsert" else table.event_time
    key = ", ".join(f"{quoted(column)} as {quoted('key_' + column)}" for column in table.key)
    first = next(batches, None)
    if first is None:
        first = pa.RecordBatch.from_pylist([], schema=schema)
    compared = [field for field in first.schema if field.name in columns]

    def everything() -> Iterator[pa.RecordBatch]:
        yield first
        yield from batches

    moment = quoted(time) if time else "null::timestamptz"
    kept = pa.schema([*_fields(first.schema, table.key, time), pa.field(PARTITION, pa.string())])
    digested = with_digests(with_partition(everything(), table.partition), pa.schema(compared), kept)
    with incoming(connection, "incoming_rows", digested, digest_schema(kept)):
        chosen = f"{key}, {moment} as moment, {PARTITION}, {DIGEST} as digest"
        connection.execute(f"create or replace temp table {name} as select {chosen} from incoming_rows")
    return [field.name for field in compared]


def _fields(schema: pa.Schema, key: Sequence[str], time: str | None) -> list[pa.Field]:
    names = dict.fromkeys([*key, *([time] if time else [])])
    return [schema.field(name) for name in names]


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


def _pending_sql(table: Table, entries: list[LogEntry]) -> str:
    """Whether a difference is one that the next run explains."""
    if table.mode == "snapshot":
        return "true"
    if table.mode == "append":
        open_days = [day for day, closed in closed_days(entries).items() if not closed]
        days = ", ".join(f"date {literal(day.isoformat())}" for day in open_days) or "null"
        return f"raw_rows = 0 and (source_moment at time zone 'UTC')::date in ({days})"
    last = next(
        (e.manifest.window for e in reversed(known_reads(entries)) if e.manifest.kind == "upsert" and e.manifest.window), None
    )
    if last is None or last.high is None:
        return "true"
    reread = literal((last.high - table.lookback).isoformat())
    moved = "(raw_rows = 0 or source_moment is distinct from raw_moment)"
    return f"source_rows = 0 or ({moved} and source_moment >= {reread}::timestamptz)"


def _judge(connection: duckdb.DuckDBPyConnection) -> Compared:
    rows, value = connection.execute(
        "select count(*), coalesce(sum(digest::hugeint) % 18446744073709551616::hugeint, 0) from source_digests"
    ).fetchall()[0]
    pending, pending_rows, pending_value = connection.execute(
        "select count(*), coalesce(sum(source_rows), 0), coalesce(sum(source_total) % 18446744073709551616::hugeint, 0)"
        " from judged where pending"
    ).fetchall()[0]
    differs = connection.execute(f"select distinct {PARTITION} from judged where not pending order by 1").fetchall()
    found = RowChecksum(int(rows), int(value)) - RowChecksum(int(pending_rows), int(pending_value))
    return Compared(found, tuple(str(name) for (name,) in differs), int(pending))
