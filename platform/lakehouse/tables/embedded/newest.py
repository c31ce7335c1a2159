"""The rows of an upserted table after some batches, found by their keys first: wide columns only ever stream.

`lakehouse.rows.fold` decides which row of each touched key stands. It is given the key, the cursor and each row's place alone,
for the keys that the batches touch alone; then the files are read once more, and of the old rows those that lost are left out,
of the new ones those that stand are taken. Memory follows the number of keys in the batches, not
the width of rows or the table's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa

from lakehouse.rows.duck import quoted
from lakehouse.rows.fold import FoldEntry, fold_sql
from lakehouse.spec import Table
from lakehouse.tables.embedded.batches import BatchRows
from lakehouse.tables.embedded.localrows import ROW, LocalRows, all_rows

PLACE = "_place"
"""The column that tells a row from all others of a fold: its file's number times `_FILE_ROWS`, and its place in the file."""

_FILE_ROWS = 2**40
"""More than the rows of any file."""

KEYS = "touched_keys"
"""The temporary table of the distinct keys of all batches."""


def collect_keys(connection: duckdb.DuckDBPyConnection, table: Table, schema: pa.Schema, batches: Sequence[BatchRows]) -> None:
    """Make the temporary table `touched_keys`."""
    key = ", ".join(quoted(name) for name in table.row_key)
    rows = all_rows(
        pa.schema([schema.field(name) for name in table.row_key]), [file for batch in batches for file in batch.files]
    )
    connection.execute(f"create or replace temp table {KEYS} as select distinct {key} from {rows}")


def is_touched(table: Table, alias: str) -> str:
    """A condition on the rows of a relation: its key is in `touched_keys`."""
    match = " and ".join(f"t.{quoted(name)} is not distinct from {alias}.{quoted(name)}" for name in table.row_key)
    return f"exists (select 1 from {KEYS} as t where {match})"


def newest_rows(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    schema: pa.Schema,
    old: Sequence[LocalRows],
    batches: Sequence[BatchRows],
) -> str:
    """A query for the rows in the order of `schema`; it reads temporary tables that are made anew here.

    old: the files of the rows before the first batch; with any, `touched_keys` is needed.
    """
    narrow = pa.schema([schema.field(name) for name in dict.fromkeys([*table.key, *([table.cursor] if table.cursor else [])])])
    origins = {file: index for index, file in enumerate([*old, *(file for batch in batches for file in batch.files)])}
    before = placed(narrow, {file: origins[file] for file in old}, f" where {is_touched(table, 'r')}") if old else None
    entries = [
        FoldEntry(
            rows.batch.sequence,
            rows.batch.manifest.kind,
            rows.batch.manifest.window,
            placed(narrow, {file: origins[file] for file in rows.files}),
            (*rows.batch.columns, PLACE),
        )
        for rows in batches
    ]
    folded = fold_sql(table, narrow.append(pa.field(PLACE, pa.int64())), before, entries)
    connection.execute(f"create or replace temp table standing as select {PLACE} from ({folded})")
    parts = []
    if before is not None:
        won = f"exists (select 1 from standing as s where s.{PLACE} = r.{PLACE})"
        connection.execute(f"create or replace temp table lost as select {PLACE} from {before} as r where not {won}")
        parts.append((list(old), f"not exists (select 1 from lost as s where s.{PLACE} = r.{PLACE})"))
    parts.append(
        ([file for rows in batches for file in rows.files], f"exists (select 1 from standing as s where s.{PLACE} = r.{PLACE})")
    )
    columns = ", ".join(quoted(name) for name in schema.names)
    return " union all ".join(
        f"select {columns} from {placed(schema, {file: origins[file] for file in files})} as r where {found}"
        for files, found in parts
    )


def placed(schema: pa.Schema, origins: Mapping[LocalRows, int], where: str = "") -> str:
    """A parenthesised query for columns of files' rows, with place and position of each. origins: the numbers of the files."""
    if not origins:
        return f"(select *, 0::bigint as {PLACE} from {all_rows(schema, [])})"
    parts = [
        f"select * exclude ({ROW}), {number * _FILE_ROWS} + {ROW} as {PLACE} from {file.relation(schema)} as r{where}"
        for file, number in origins.items()
    ]
    return "(" + " union all ".join(parts) + ")"
