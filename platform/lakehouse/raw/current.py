"""The rows of a table from its raw log alone: what verify compares with and rebuild starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from lakehouse.errors import WrongUse
from lakehouse.raw.manifest import schema_of
from lakehouse.raw.windows import standing
from lakehouse.rows.duck import literal, quoted
from lakehouse.rows.fold import POSITION, FoldEntry, fold_sql
from lakehouse.spec import LogEntry, Table, since_rebuilt
from lakehouse.spec.types import arrow_field, declared_type


@dataclass(frozen=True)
class CurrentRows:
    """The rows of a table: `relation` is SQL that can follow `from`; it has the columns and types of `schema`."""

    relation: str
    schema: pa.Schema


def fold_entries(
    table: Table,
    entries: Sequence[LogEntry],
    schema: pa.Schema | None,
    connection: duckdb.DuckDBPyConnection,
    fetch: Callable[[LogEntry], Sequence[Path]],
    *,
    base: str | None = None,
) -> CurrentRows:
    """The fold of log entries over local copies of their files.

    base: a relation of the rows that were before the first of them, with all columns of `schema`, which is then needed.
    schema: the columns wanted; None: all that came, in order of appearance, each in the narrowest type that holds every batch's.
    fetch: gives an entry's files, in their order, already verified; called only for entries that can still have a row.
    """
    if schema is None and not entries:
        raise WrongUse(
            f"reading the raw rows of table {table.name!r}",
            value="an empty log and no schema",
            allowed="a log with an entry, or a schema",
            remedy="Extract the table first, or look at head() before.",
        )
    parts = [_relation(entry, fetch(entry), connection) for entry in standing(entries)]
    found = schema if schema is not None else _schema_of_all(table, entries, parts, connection)
    types = duckdb_types(connection, found)
    columns = ", ".join(f"{quoted(name)}::{type_} as {quoted(name)}" for name, type_ in zip(found.names, types, strict=True))
    return CurrentRows(f"(select {columns} from ({fold_sql(table, found, base, parts)}))", found)


def duckdb_types(connection: duckdb.DuckDBPyConnection, schema: pa.Schema) -> list[str]:
    """The DuckDB types of the columns of `schema`, as SQL."""
    return [str(type_) for type_ in connection.from_arrow(schema.empty_table()).types]


def _relation(entry: LogEntry, files: Sequence[Path], connection: duckdb.DuckDBPyConnection) -> FoldEntry:
    schema = schema_of(entry.manifest)
    columns = ", ".join(f"{quoted(f.in_files)} as {quoted(f.name)}" for f in entry.manifest.fields)
    start = 0
    parts = []
    for file, local in zip(entry.manifest.files, files, strict=True):
        scan = f"read_parquet({literal(str(local))}, file_row_number=true, hive_partitioning=false)"
        parts.append(f"select {columns}, file_row_number + {start} as {POSITION} from {scan}")
        start += file.rows
    if not parts:
        typed = zip(schema.names, duckdb_types(connection, schema), strict=True)
        nulls = ", ".join(f"null::{type_} as {quoted(name)}" for name, type_ in typed)
        parts.append(f"select {nulls}, 0::bigint as {POSITION} where false")
    relation = f"({' union all '.join(parts)})"
    return FoldEntry(entry.sequence, entry.manifest.kind, entry.manifest.window, relation, schema.names)


def _schema_of_all(
    table: Table, entries: Sequence[LogEntry], parts: Sequence[FoldEntry], connection: duckdb.DuckDBPyConnection
) -> pa.Schema:
    fields: dict[str, pa.Field] = {}
    whole = [schema_of(entry.manifest) for entry in since_rebuilt(entries) if entry.manifest.kind != "delete"]
    for schema in whole:
        fields.update({field.name: field for field in schema})
    required = {name for name in fields if all(name in schema.names and not schema.field(name).nullable for schema in whole)}
    names = pa.schema([(name, pa.null()) for name in fields])
    folded = connection.sql(f"select * from ({fold_sql(table, names, None, parts)}) limit 0").to_arrow_table().schema
    merged = []
    for field, found in zip(fields.values(), folded, strict=True):
        same = declared_type(pa.field(field.name, field.type)) == declared_type(pa.field(found.name, found.type))
        merged.append(
            (field if same else arrow_field(field.name, declared_type(found))).with_nullable(field.name not in required)
        )
    return pa.schema(merged)
