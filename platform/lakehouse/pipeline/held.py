"""The rows of a table as its log makes them: those of the lake, with the batches that it has not applied yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import duckdb
import pyarrow as pa

from lakehouse.pipeline.column_types import landed_types
from lakehouse.pipeline.deployment import Deployment
from lakehouse.rows.duck import incoming
from lakehouse.spec import LogEntry, Source, Table
from lakehouse.spec.types import arrow_type

_BASE = "held_in_lake"


@contextmanager
def held_rows(
    deployment: Deployment,
    source: Source,
    table: Table,
    columns: Sequence[str],
    entries: Sequence[LogEntry],
    connection: duckdb.DuckDBPyConnection,
) -> Iterator[str]:
    """A DuckDB relation, to be read once while the context lasts, of columns of the rows that `entries`, all of a log, make.

    Key and time of a row are in it, too. A column that was never landed is null. What the lake has applied is read from there,
    these columns alone; from the raw files only what waits. A lake that has them under other names, or not, is not asked.
    """
    landed = landed_types(entries)
    time = {"append": table.event_time, "upsert": table.cursor}.get(table.mode)
    names = list(dict.fromkeys([*columns, *table.key, *([time] if time else [])]))
    schema = pa.schema([pa.field(name, arrow_type(landed[name]) if name in landed else pa.string()) for name in names])
    state = deployment.lake.state(source.name, table) if entries else None
    watermark = state.current.marker.sequence if state is not None else 0
    waiting = [entry for entry in entries if entry.sequence > watermark]
    in_lake = state is not None and all(name in state.schema.names for name in names if name in landed)
    log = deployment.log(source, table)
    with ExitStack() as stack:
        if state is not None and in_lake and not any(entry.manifest.begins_anew for entry in waiting):
            known = [name for name in names if name in state.schema.names]
            batches = deployment.lake.scan(source.name, table, version=state.current.version, columns=known)
            stack.enter_context(incoming(connection, _BASE, (_as(batch, schema) for batch in batches), schema))
            rows = log.current_rows(connection, schema, after=watermark, upto=_head(entries), base=_BASE)
        else:
            rows = log.current_rows(connection, schema, upto=_head(entries))
        yield stack.enter_context(rows).relation


def _head(entries: Sequence[LogEntry]) -> int:
    return entries[-1].sequence if entries else 0


def _as(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        batch.column(field.name).cast(field.type) if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
