"""One fold on the local disk: from a table's old files and its new batches to new files, checksums and changed days.

Knows DuckDB and Parquet, no table format. Memory is DuckDB's (`memory_limit`, then the disk): each partition is folded by itself
where rows cannot move between partitions, all touched ones together where they can.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.rows.checksum import EMPTY, row_digest_sql
from lakehouse.rows.duck import literal, quoted
from lakehouse.rows.fold import FoldEntry, fold_sql
from lakehouse.spec import RowChecksum, Table
from lakehouse.spec.types import declared_type
from lakehouse.tables.batches import LocalBatch
from lakehouse.tables.columns import cast_columns, duck_type
from lakehouse.tables.partitions import PartitionScheme

FILE_BYTES = 512 << 20
"""About the largest data file that is written."""

_PARTITION = "_partition"
_STAGED = "_partition"


@dataclass(frozen=True)
class NewFile:
    """A data file that the fold wrote on the local disk."""

    partition: str
    path: Path


@dataclass
class FoldResult:
    """What a fold changed; partitions whose rows came out equal are not in it.

    changed: name of each changed partition with the checksum of its old and its new rows.
    """

    files: list[NewFile] = field(default_factory=list)
    changed: dict[str, tuple[RowChecksum, RowChecksum]] = field(default_factory=dict)
    days: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Fold:
    """A table with its new batches, on one DuckDB connection.

    schema: the columns of the result. field_ids: DuckDB's FIELD_IDS argument for them. old_files: fetches the files of old rows
    of a partition to the local disk (called once for each partition that is folded).
    """

    connection: duckdb.DuckDBPyConnection
    table: Table
    schema: pa.Schema
    scheme: PartitionScheme
    field_ids: str
    batches: Sequence[LocalBatch]
    folder: Path
    old_files: Callable[[str], Sequence[Path]]

    @property
    def separable(self) -> bool:
        """Whether no row can move from one partition to another."""
        column = self.table.partition.column
        return self.table.mode != "upsert" or column is None or column in self.table.key

    def new_partitions(self) -> dict[int, tuple[str, ...]]:
        """For each batch, by sequence, the partitions of its rows; nothing for one that does not bring the partition column."""
        column = self.table.partition.column
        found: dict[int, tuple[str, ...]] = {}
        for batch in self.batches:
            if column is not None and column not in batch.columns:
                continue
            query = f"select distinct {self.scheme.name_sql()} from {batch.relation(self.schema)}"
            found[batch.sequence] = tuple(sorted(name for (name,) in self.connection.execute(query).fetchall()))
        return found

    def touched_keys(self) -> None:
        """Make the temporary table `touched_keys`: the distinct keys of all batches."""
        key = ", ".join(quoted(name) for name in self.table.key)
        parts = " union all ".join(f"select {key} from {batch.relation(self.schema)}" for batch in self.batches)
        self.connection.execute(f"create or replace temp table touched_keys as select distinct {key} from ({parts})")

    def holds_touched_key(self, keys: pa.RecordBatchReader) -> bool:
        """Whether any of the rows (key columns) has a key of `touched_keys`."""
        match = " and ".join(f"k.{quoted(name)} is not distinct from t.{quoted(name)}" for name in self.table.key)
        self.connection.register("old_keys", keys)
        try:
            query = f"select 1 from old_keys k where exists (select 1 from touched_keys t where {match}) limit 1"
            return self.connection.execute(query).fetchone() is not None
        finally:
            self.connection.unregister("old_keys")

    def run(self, touched: Sequence[str], new: Mapping[int, tuple[str, ...]]) -> FoldResult:
        """Fold the touched partitions."""
        result = FoldResult()
        self.folder.mkdir(parents=True)
        for index, (group, entries) in enumerate(self._groups(touched, new)):
            folder = self.folder / f"group-{index}"
            folder.mkdir()
            self._run_group(group, entries, folder, result)
        return result

    def _groups(
        self, touched: Sequence[str], new: Mapping[int, tuple[str, ...]]
    ) -> Iterator[tuple[tuple[str, ...], list[FoldEntry]]]:
        if not self.separable or len(touched) <= 1:
            if touched:
                yield tuple(touched), [self._entry(batch, batch.relation(self.schema)) for batch in self.batches]
            return
        staged = {batch.sequence: self._stage(batch) for batch in self.batches if len(new.get(batch.sequence, ())) > 1}
        for name in touched:
            entries = []
            for batch in self.batches:
                if batch.sequence in staged and name in staged[batch.sequence]:
                    path = staged[batch.sequence][name] / "*.parquet"
                    entries.append(self._entry(batch, f"read_parquet({literal(str(path))}, hive_partitioning = false)"))
                elif name in new.get(batch.sequence, ()):
                    entries.append(self._entry(batch, batch.relation(self.schema)))
                elif self._replaces(batch, name):
                    entries.append(self._entry(batch, batch.no_rows(self.schema)))
            yield (name,), entries

    def _replaces(self, batch: LocalBatch, partition: str) -> bool:
        if self.table.mode == "append":
            window = batch.manifest.window
            return window is None or bool(self.scheme.overlapped([partition], [window]))
        return self.table.mode == "snapshot"

    def _entry(self, batch: LocalBatch, relation: str) -> FoldEntry:
        manifest = batch.manifest
        return FoldEntry(batch.sequence, manifest.kind, manifest.window, relation, batch.columns)

    def _stage(self, batch: LocalBatch) -> dict[str, Path]:
        """A batch cut into its partitions, so that each is read once."""
        folder = self.folder / f"staged-{batch.sequence}"
        rows = f"select *, {self.scheme.name_sql()} as {_PARTITION} from {batch.relation(self.schema)}"
        self.connection.execute(
            f"copy ({rows}) to {literal(str(folder))} (format parquet, compression lz4, row_group_size 20480, "
            f"partition_by ({_PARTITION}), write_partition_columns false)"
        )
        return {_partition_of(path): path for path in folder.iterdir()}

    def _run_group(self, group: tuple[str, ...], entries: Sequence[FoldEntry], folder: Path, result: FoldResult) -> None:
        old_paths = [path for name in group for path in self.old_files(name)]
        old = old_rows(self.schema, old_paths)
        files = self._write(group, fold_sql(self.table, self.schema, old, entries), folder)
        new = old_rows(self.schema, [file.path for file in files])
        changed = self._compare(group, old, new)
        for name, sums in changed.items():
            result.changed[name] = sums
        result.files += [file for file in files if file.partition in changed]
        for file in files:
            if file.partition not in changed:
                file.path.unlink()
        if self.table.event_time is not None and changed:
            result.days |= self._changed_days(changed)

    def _write(self, group: tuple[str, ...], query: str, folder: Path) -> list[NewFile]:
        options = f"format parquet, compression zstd, row_group_size 122880, field_ids {self.field_ids}"
        if len(group) == 1:
            self.connection.execute(
                f"copy ({query}) to {literal(str(folder))} ({options}, file_size_bytes {FILE_BYTES}, overwrite)"
            )
            return [NewFile(group[0], path) for path in _not_empty(folder)]
        rows = f"select *, {self.scheme.name_sql()} as {_PARTITION} from ({query})"
        self.connection.execute(
            f"copy ({rows}) to {literal(str(folder))} ({options}, partition_by ({_PARTITION}), write_partition_columns false, "
            "overwrite_or_ignore)"
        )
        return [NewFile(_partition_of(sub), path) for sub in sorted(folder.iterdir()) for path in _not_empty(sub)]

    def _compare(self, group: tuple[str, ...], old: str | None, new: str | None) -> dict[str, tuple[RowChecksum, RowChecksum]]:
        """Digest old and new rows into the temporary table `digests`; the partitions whose checksum changed."""
        name = literal(group[0]) if len(group) == 1 else self.scheme.name_sql()
        day = f"{quoted(self.table.event_time)}::date" if self.table.event_time else "null::date"
        sides = [(relation, side) for relation, side in ((old, -1), (new, 1)) if relation]
        parts = [f"select {name} as partition, {side}::tinyint as side, {day} as day, {row_digest_sql(self.schema)} as digest "
                 f"from {relation}" for relation, side in sides]  # fmt: skip
        self.connection.execute(
            "create or replace temp table digests (partition varchar, side tinyint, day date, digest ubigint)"
        )
        for part in parts:
            self.connection.execute(f"insert into digests {part}")
        sums: dict[str, dict[int, RowChecksum]] = {}
        query = (
            "select partition, side, count(*), sum(digest::hugeint) % 18446744073709551616::hugeint from digests group by 1, 2"
        )
        for partition, side, rows, value in self.connection.execute(query).fetchall():
            sums.setdefault(partition, {})[side] = RowChecksum(int(rows), int(value))
        pairs = {partition: (found.get(-1, EMPTY), found.get(1, EMPTY)) for partition, found in sums.items()}
        return {partition: pair for partition, pair in pairs.items() if pair[0] != pair[1]}

    def _changed_days(self, changed: Mapping[str, object]) -> set[str]:
        names = ", ".join(literal(name) for name in changed)
        query = (
            f"select distinct day::varchar from (select day, digest from digests where partition in ({names}) "
            "and day is not null group by day, digest having sum(side) <> 0)"
        )
        return {day for (day,) in self.connection.execute(query).fetchall()}


def old_rows(schema: pa.Schema, paths: Sequence[Path]) -> str | None:
    """A parenthesised query for the rows of Parquet files as `schema` has them, a missing column as null; None for no files."""
    by_columns: dict[tuple[str, ...], list[Path]] = {}
    for path in paths:
        by_columns.setdefault(tuple(pq.read_schema(path).names), []).append(path)
    parts = []
    for present, group in by_columns.items():
        files = ", ".join(literal(str(path)) for path in group)
        columns = [
            cast_columns(schema, [name])
            if name in present
            else f"null::{duck_type(declared_type(schema.field(name)))} as {quoted(name)}"
            for name in schema.names
        ]
        parts.append(f"select {', '.join(columns)} from read_parquet([{files}], hive_partitioning = false)")
    return "(" + " union all ".join(parts) + ")" if parts else None


def remove_folder(folder: Path) -> None:
    """Free the disk; a folder that is not there is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def _partition_of(folder: Path) -> str:
    return unquote(folder.name.partition("=")[2])


def _not_empty(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.parquet")) if pq.read_metadata(path).num_rows]
