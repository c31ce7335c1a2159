"""The rows of an upserted table after some batches, found by their keys first: wide columns only ever stream.

`lakehouse.rows.fold` decides which row of each touched key stands. It is given the key, the cursor and each row's place alone,
for the keys that the batches touch alone; then the files are read once more, and of the old rows those that lost are left out,
of the new ones those that stand are taken. Memory follows the number of keys in the batches, not
the width of rows or the table's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from lakehouse.rows.duck import quoted
from lakehouse.rows.fold import FoldEntry, fold_sql
from lakehouse.spec import Table
from lakehouse.tables.embedded.batches import BatchRows
from lakehouse.tables.embedded.localrows import ROW, LocalRows, all_rows

ORIGIN = "_origin"
"""The column that tells which file a row is from."""

KEYS = "touched_keys"
"""The temporary table of the distinct keys of all batches."""


def collect_keys(connection: duckdb.DuckDBPyConnection, table: Table, schema: pa.Schema, batches: Sequence[BatchRows]) -> None:
    """Make the temporary table `touched_keys`."""
    key = ", ".join(quoted(name) for name in table.key)
    rows = all_rows(pa.schema([schema.field(name) for name in table.key]), [file for batch in batches for file in batch.files])
    connection.execute(f"create or replace temp table {KEYS} as select distinct {key} from {rows}")


def is_touched(table: Table, alias: str) -> str:
    """A condition on the rows of a relation: its key is in `touched_keys`."""
    match = " and ".join(f"t.{quoted(name)} is not distinct from {alias}.{quoted(name)}" for name in table.key)
    return f"exists (select 1 from {KEYS} as t where {match})"


def newest_rows(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    schema: pa.Schema,
    old: Sequence[LocalRows],
    batches: Sequence[BatchRows],
) -> str:
    """A query for the rows in the order of `schema`; it reads the temporary tables `standing` and `lost`, made anew here.

    old: the files of the rows before the first batch. Needs `touched_keys`.
    """
    narrow = pa.schema([schema.field(name) for name in dict.fromkeys([*table.key, *([table.cursor] if table.cursor else [])])])
    placed = narrow.append(pa.field(ORIGIN, pa.int32())).append(pa.field(ROW, pa.int64()))
    origins = {file: index for index, file in enumerate([*old, *(file for batch in batches for file in batch.files)])}
    before = _placed(narrow, old, origins, f" where {is_touched(table, 'r')}")
    entries = [
        FoldEntry(
            rows.batch.sequence,
            rows.batch.manifest.kind,
            rows.batch.manifest.window,
            _placed(narrow, rows.files, origins),
            (*rows.batch.columns, ORIGIN, ROW),
        )
        for rows in batches
    ]
    place = f"{ORIGIN}, {ROW}"
    folded = fold_sql(table, placed, before if old else None, entries)
    connection.execute(f"create or replace temp table standing as select {place} from ({folded})")
    won = f"exists (select 1 from standing as s where s.{ORIGIN} = r.{ORIGIN} and s.{ROW} = r.{ROW})"
    connection.execute(f"create or replace temp table lost as select {place} from {before} as r where not {won}")
    columns = ", ".join(quoted(name) for name in schema.names)
    parts = []
    for file, origin in origins.items():
        found = f"exists (select 1 from standing as s where s.{ORIGIN} = {origin} and s.{ROW} = r.{ROW})"
        if file in old:
            found = f"not exists (select 1 from lost as s where s.{ORIGIN} = {origin} and s.{ROW} = r.{ROW})"
        parts.append(f"select {columns} from {file.relation(schema)} as r where {found}")
    return " union all ".join(parts) or f"select {columns} from {all_rows(schema, [])}"


def _placed(narrow: pa.Schema, files: Sequence[LocalRows], origins: dict[LocalRows, int], where: str = "") -> str:
    """A parenthesised query for the narrow columns of files' rows, each with its place and its position in the batch."""
    if not files:
        return f"(select *, 0::integer as {ORIGIN}, 0::bigint as {ROW} from {all_rows(narrow, [])})"
    parts = [f"select *, {origins[file]}::integer as {ORIGIN} from {file.relation(narrow)} as r{where}" for file in files]
    return "(" + " union all ".join(parts) + ")"
