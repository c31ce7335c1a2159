"""Parquet files on the local disk as relations: the columns that a table has now, and each row's own place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.rows.duck import literal, quoted
from lakehouse.rows.fold import POSITION
from lakehouse.spec.types import declared_type
from lakehouse.tables.columns import duck_type

ROW = "_row"
"""The column that gives each row its number in its file."""


@dataclass(frozen=True)
class LocalRows:
    """One Parquet file. columns: those that it has. position: SQL for a row's place in its batch. where: which rows are meant.

    stored: the names of columns that the file calls otherwise.
    """

    path: Path
    columns: tuple[str, ...]
    position: str = "file_row_number"
    where: str = ""
    stored: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, path: Path) -> LocalRows:
        """A data file, with the columns that its footer names."""
        return cls(path, tuple(pq.read_schema(path).names))

    def relation(self, schema: pa.Schema) -> str:
        """A parenthesised query: the columns of `schema`, cast to its types, a missing one as null; and `_row`, `_position`."""
        columns = [
            f"{quoted(self.stored.get(f.name, f.name)) if f.name in self.columns else 'null'}::{duck_type(declared_type(f))} "
            f"as {quoted(f.name)}"
            for f in schema
        ]
        source = f"read_parquet({literal(str(self.path))}, file_row_number = true, hive_partitioning = false)"
        where = f" where {self.where}" if self.where else ""
        return f"(select {', '.join(columns)}, file_row_number as {ROW}, {self.position} as {POSITION} from {source}{where})"


def all_rows(schema: pa.Schema, files: Sequence[LocalRows]) -> str:
    """A parenthesised query for the rows of all files, with `_position`; it may have none."""
    if files:
        return "(" + " union all ".join(f"select * exclude ({ROW}) from {file.relation(schema)}" for file in files) + ")"
    columns = [f"null::{duck_type(declared_type(field))} as {quoted(field.name)}" for field in schema]
    return f"(select {', '.join(columns)}, 0::bigint as {POSITION} where false)"


def bytes_per_row(files: Sequence[LocalRows]) -> int:
    """About the bytes that a row takes in memory, as the files' footers tell."""
    rows = size = 0
    for file in files:
        footer = pq.read_metadata(file.path)
        rows += footer.num_rows
        size += sum(footer.row_group(index).total_byte_size for index in range(footer.num_row_groups))
    return size // max(1, rows)
