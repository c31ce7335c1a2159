"""One fold on the local disk: from a table's old files and its new batches to new files, checksums and changed days.

Knows DuckDB and Parquet, no table format. Partitions are folded in groups that fit into memory, as long as no row can move
between partitions; where rows can, all touched partitions are one group, and DuckDB spills to the disk what does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.errors import ConfigurationError, DamagedData
from lakehouse.rows.checksum import EMPTY, digest_schema, with_digests
from lakehouse.rows.duck import incoming, literal, quoted
from lakehouse.rows.fold import POSITION, FoldEntry, fold_sql
from lakehouse.rows.partition import WHOLE
from lakehouse.spec import History, RowChecksum, Table
from lakehouse.spec.types import declared_type
from lakehouse.stores import disk_full
from lakehouse.tables.columns import duck_type
from lakehouse.tables.embedded.batches import BatchRows, LocalBatch
from lakehouse.tables.embedded.intervals import HistoryFold
from lakehouse.tables.embedded.localrows import LocalRows, all_rows, bytes_per_row
from lakehouse.tables.embedded.newest import collect_keys, is_touched, newest_rows
from lakehouse.tables.embedded.stages import STAGE, Stages
from lakehouse.tables.partitions import PartitionScheme, day_sql
from lakehouse.threads import side_by_side

FILE_BYTES = 512 << 20
"""About the largest data file that is written."""

MOST_WINDOWS = 8
"""Day partitions of one group: each row is held against each window of its group, so that their cost is the product."""

MOST_FOLDERS = 48
"""Folders that rows are cut into at once. With more than a hundred open files DuckDB closes and opens them all the time: 10M rows
cut into 365 days at once became a thousand files a day, in minutes."""

ROW_GROUP = 122880
"""Rows of a row group, as DuckDB likes them best."""

MOST_ROW_GROUP_BYTES = 128 << 20

GROUP_SHARE = 16
"""The part of the memory for the Parquet files of one group: decoded, sorted and encoded again they are larger."""

DIGEST_BYTES = 4 << 20
"""About how much is digested at a time."""

_FULL = ("No space left on device", "File too large", "Disk quota exceeded")
_FOLDER = "_folder"
_MODULUS = "18446744073709551616::hugeint"

NewRows = Mapping[int, Mapping[str, int]]
"""For each batch, by sequence, the rows that it brings to each partition."""


@dataclass(frozen=True)
class NewFile:
    """A data file that the fold wrote on the local disk."""

    partition: str
    path: Path
    rows: int


@dataclass(frozen=True)
class OldPartition:
    """What a partition holds: bytes of its files, and how to bring them to the local disk."""

    bytes: int
    fetch: Callable[[], Sequence[Path]]


@dataclass
class FoldResult:
    """What a fold did; see `lakehouse.tables.folds.Folded`."""

    files: list[NewFile] = field(default_factory=list)
    sums: dict[str, tuple[RowChecksum, RowChecksum]] = field(default_factory=dict)
    days: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Fold:
    """A table with its new batches, on one DuckDB connection.

    aside: another database, for the digests: what one database streams cannot be the input of another statement of its own.
    schema: the columns of the result. field_ids: DuckDB's FIELD_IDS argument for them, if files are to have ids. old: the
    partitions as they are. memory_bytes, threads: what DuckDB may use. every_row: digest also rows whose keys no batch touches.
    rewrite: keep the new files of all partitions.
    """

    connection: duckdb.DuckDBPyConnection
    aside: duckdb.DuckDBPyConnection
    table: Table
    schema: pa.Schema
    scheme: PartitionScheme
    field_ids: str | None
    batches: Sequence[LocalBatch]
    folder: Path
    old: Mapping[str, OldPartition]
    memory_bytes: int
    threads: int
    every_row: bool = False
    rewrite: bool = False

    @property
    def separable(self) -> bool:
        """Whether no row can move from one partition to another."""
        column = self.table.partition.column
        return self.table.mode != "upsert" or column is None or column in self.table.key

    def new_rows(self) -> dict[int, dict[str, int]]:
        """The rows that each batch brings to each partition; none for a batch that lacks the partition column."""
        column = self.table.partition.column
        schema = self.schema if column is None else pa.schema([self.schema.field(column)])
        found: dict[int, dict[str, int]] = {}
        for batch in self.batches:
            found[batch.sequence] = {}
            if column is None:
                found[batch.sequence] = {WHOLE: batch.manifest.rows} if batch.manifest.rows else {}
            elif column in batch.columns:
                query = f"select {self.scheme.key_sql()}, count(*) from {all_rows(schema, batch.files())} group by 1"
                counted = self.connection.execute(query).fetchall()
                found[batch.sequence] = {self.scheme.named(key): rows for key, rows in counted}
        return found

    def collect_keys(self) -> None:
        """Note the keys that the batches of an upserted table touch; comes before `holds_touched_key` and `run`."""
        collect_keys(self.connection, self.table, self.schema, [BatchRows(batch, batch.files()) for batch in self.batches])

    def holds_touched_key(self, keys: Iterator[pa.RecordBatch]) -> bool:
        """Whether any of the rows (key columns) has a key that the batches touch."""
        schema = pa.schema([self.schema.field(name) for name in self.table.row_key])
        with incoming(self.connection, "old_keys", keys, schema):
            query = f"select 1 from old_keys as r where {is_touched(self.table, 'r')} limit 1"
            return self.connection.execute(query).fetchone() is not None

    def run(self, touched: Sequence[str], new: NewRows) -> FoldResult:
        """Fold the touched partitions."""
        result = FoldResult()
        self.folder.mkdir(parents=True)
        groups = self._groups(touched, new)
        stages = Stages(self.scheme, groups, MOST_FOLDERS)
        staged: dict[int, Path] = {}
        if len(groups) > 1:
            stages.prepare(self.connection)
            staged = {batch.sequence: self._stage(batch, stages) for batch in self.batches if len(new[batch.sequence]) > 1}
        for index, group in enumerate(groups):
            batches = [BatchRows(batch, batch.files()) for batch in self.batches]
            if len(groups) > 1:
                batches = list(self._batches_of(index, group, new, stages, staged))
            self._run_group(group, batches, self.folder / f"group-{index}", result)
        return result

    def _groups(self, touched: Sequence[str], new: NewRows) -> list[tuple[str, ...]]:
        if not self.separable:
            return [tuple(touched)] if touched else []
        groups: list[list[str]] = []
        filled = 0
        for name in touched:
            weight = self._weight(name, new)
            full = groups and len(groups[-1]) >= (MOST_WINDOWS if self.table.mode == "append" else MOST_FOLDERS)
            if not groups or full or filled + weight > self.memory_bytes // GROUP_SHARE:
                groups.append([])
                filled = 0
            groups[-1].append(name)
            filled += weight
        return [tuple(group) for group in groups]

    def _weight(self, partition: str, new: NewRows) -> int:
        """Bytes of Parquet that a partition's fold reads, about."""
        weight = self.old[partition].bytes if partition in self.old else 0
        for batch in self.batches:
            if rows := new[batch.sequence].get(partition):
                weight += sum(file.bytes for file in batch.manifest.files) * rows // max(rows, batch.manifest.rows)
        return weight

    def _batches_of(
        self, index: int, group: Sequence[str], new: NewRows, stages: Stages, staged: Mapping[int, Path]
    ) -> Iterator[BatchRows]:
        """What the batches mean to a group: the rows that they bring to it, and the windows that replace rows of it."""
        for batch in self.batches:
            brings = not new[batch.sequence].keys().isdisjoint(group)
            if brings and batch.sequence in staged:
                paths = sorted((staged[batch.sequence] / f"{STAGE}={stages.of_group(index)}").glob("*.parquet"))
                yield BatchRows(batch, tuple(LocalRows(path, batch.columns, POSITION, stages.where(index)) for path in paths))
            elif brings:
                yield BatchRows(batch, batch.files())
            elif self._replaces(batch, group):
                yield BatchRows(batch, ())

    def _replaces(self, batch: LocalBatch, group: Sequence[str]) -> bool:
        if self.table.mode == "append":
            window = batch.manifest.window
            return window is None or bool(self.scheme.overlapped(group, [window]))
        return self.table.mode == "snapshot" or batch.manifest.kind == "snapshot"

    def _stage(self, batch: LocalBatch, stages: Stages) -> Path:
        """A batch cut into stages, so that no group reads all rows of the others; the folder that they are in."""
        files, folder = batch.files(), self.folder / f"staged-{batch.sequence}"
        present = pa.schema([field for field in self.schema if field.name in batch.columns])
        self._cut(stages.staged_sql(all_rows(present, files)), STAGE, files, len(stages), folder, self.scratch_options)
        return folder

    def _cut(self, query: str, column: str, files: Sequence[LocalRows], folders: int, folder: Path, options: str) -> None:
        """Write rows into a folder for each value of a column, which is left out.

        files: where the rows come from. DuckDB keeps the rows of each folder until there are enough to write; how many that is
        follows from their width.
        """
        enough = self.memory_bytes // 8 // max(1, folders) // max(64, bytes_per_row(files))
        self.connection.execute(f"set partitioned_write_flush_threshold = {min(max(enough, 2048), ROW_GROUP)}")
        cut = f"partition_by ({column}), write_partition_columns false"
        self.connection.execute(f"copy ({query}) to {literal(str(folder))} ({options}, {cut})")

    def _partitioned(
        self, query: str, files: Sequence[LocalRows], partitions: Sequence[str], folder: Path, options: str
    ) -> dict[str, Path]:
        """Write rows into a folder for each partition; of many partitions, some at a time out of one file of all rows."""
        rounds = [partitions[first : first + MOST_FOLDERS] for first in range(0, len(partitions), MOST_FOLDERS)]
        if len(rounds) > 1:
            local = self.folder / f"{folder.name}.parquet"
            self.connection.execute(f"copy ({query}) to {literal(str(local))} ({self.scratch_options})")
            query = f"select * from read_parquet({literal(str(local))})"
        folders: dict[str, Path] = {}
        for number, names in enumerate(rounds):
            rows, place = f"select *, {self.scheme.folder_sql()} as {_FOLDER} from ({query})", folder
            if len(rounds) > 1:
                rows, place = f"{rows} where {self.scheme.is_in_sql(names)}", folder / str(number)
                place.parent.mkdir(exist_ok=True)
            self._cut(rows, _FOLDER, files, len(names), place, options)
            folders |= {name: place / f"{_FOLDER}={self.scheme.folder(name)}" for name in names}
        if len(rounds) > 1:
            local.unlink()
        return {name: path for name, path in folders.items() if path.is_dir()}

    def _run_group(self, group: tuple[str, ...], batches: Sequence[BatchRows], folder: Path, result: FoldResult) -> None:
        paths = [path for name in group if name in self.old for path in self.old[name].fetch()]
        old = [LocalRows.of(path) for path in paths]
        files = self._write(group, self._folded(old, batches), [*old, *(file for rows in batches for file in rows.files)], folder)
        sums = self._compare(group, old, [LocalRows.of(file.path) for file in files])
        result.sums |= sums
        changed = {name for name, (before, after) in sums.items() if before != after}
        for file in files:
            if self.rewrite or file.partition in changed:
                result.files.append(file)
            else:
                file.path.unlink()
        for path in paths:
            path.unlink()
        if self.table.event_time is not None and changed:
            result.days |= self._changed_days(anew=not old)

    def _folded(self, old: Sequence[LocalRows], batches: Sequence[BatchRows]) -> str:
        if not batches:
            columns = ", ".join(quoted(name) for name in self.schema.names)
            return f"select {columns} from {all_rows(self.schema, old)}"
        if isinstance(self.table, History):
            fold = HistoryFold(
                self.connection, self.aside, self.table, self.schema, DIGEST_BYTES, self.threads, every_row=self.every_row
            )
            return fold.rows(old, batches)
        if self.table.mode == "upsert":
            for rows in batches:
                fold_sql(self.table, self.schema, None, [_entry(rows, self.schema)])  # refuses a kind that the mode has not
            return newest_rows(self.connection, self.table, self.schema, old, batches)
        base = all_rows(self.schema, old) if old else None
        return fold_sql(self.table, self.schema, base, [_entry(rows, self.schema) for rows in batches])

    def _write(self, group: tuple[str, ...], query: str, sources: Sequence[LocalRows], folder: Path) -> list[NewFile]:
        options = f"format parquet, compression zstd, row_group_size {ROW_GROUP}, row_group_size_bytes {self.row_group_bytes}"
        if self.field_ids is not None:
            options += f", field_ids {self.field_ids}"
        if len(group) == 1:
            self.connection.execute(f"copy ({query}) to {literal(str(folder))} ({options}, file_size_bytes {FILE_BYTES})")
            folders = {group[0]: folder}
        else:
            folders = self._partitioned(query, sources, group, folder, options)
        found = []
        for name, place in folders.items():
            for path in sorted(place.glob("*.parquet")):
                if rows := pq.read_metadata(path).num_rows:
                    found.append(NewFile(name, path, rows))
        return found

    def _compare(
        self, group: tuple[str, ...], old: Sequence[LocalRows], new: Sequence[LocalRows]
    ) -> dict[str, tuple[RowChecksum, RowChecksum]]:
        """Digest the rows that can have changed into the table `digests`; their checksums by partition, old and new."""
        key = self.scheme.key_sql() if len(group) > 1 else "0::bigint"
        time = self.table.event_time
        day = day_sql(quoted(time), self.schema.field(time).type) if time else "null::bigint"
        narrowed = old and self.table.mode == "upsert" and not self.every_row
        where = f" where {is_touched(self.table, 'r')}" if narrowed else ""
        kept = pa.schema([("_partition", self.scheme.key_type), ("_day", pa.int64())])
        columns = f"partition {duck_type(declared_type(kept.field(0)))}, day bigint, digest ubigint, side tinyint"
        self.aside.execute(f"create or replace temp table digests ({columns})")
        for files, side in ((old, -1), (new, 1)):
            rows = f"select {key} as _partition, {day} as _day, * from {all_rows(self.schema, files)} as r{where}"
            at_once = max(2048, min(65_536, DIGEST_BYTES // max(64, bytes_per_row(files))))
            batches = self.connection.execute(rows).to_arrow_reader(at_once)
            digested = side_by_side(lambda batch: with_digests(batch, self.schema, kept), batches, self.threads)
            with incoming(self.aside, "digested", digested, digest_schema(kept)):
                self.aside.execute(f"insert into digests select *, {side} from digested")
        sums: dict[str, dict[int, RowChecksum]] = {partition: {} for partition in group}
        query = f"select partition, side, count(*), sum(digest::hugeint) % {_MODULUS} from digests group by 1, 2"
        for found, side, count, value in self.aside.execute(query).fetchall():
            sums[group[0] if len(group) == 1 else self.scheme.named(found)][side] = RowChecksum(int(count), int(value))
        return {partition: (found.get(-1, EMPTY), found.get(1, EMPTY)) for partition, found in sums.items()}

    def _changed_days(self, *, anew: bool) -> set[str]:
        """The days of `digests` on which the rows differ. anew: there were no old rows, so that all of them do."""
        differing = "select day from digests where day is not null"
        if not anew:
            differing += " group by day, digest having sum(side) <> 0"
        dates = f"select (date '1970-01-01' + day::integer)::varchar from (select distinct day from ({differing}))"
        return {day for (day,) in self.aside.execute(dates).fetchall()}

    @property
    def scratch_options(self) -> str:
        """How a file is written that only this fold reads."""
        return f"format parquet, compression lz4, row_group_size 20480, row_group_size_bytes {self.row_group_bytes}"

    @property
    def row_group_bytes(self) -> int:
        """Bytes of a row group, small enough for each thread to hold several."""
        return min(MOST_ROW_GROUP_BYTES, self.memory_bytes // 16)


@contextmanager
def folding(tried: str, memory_limit_mb: int) -> Iterator[None]:
    """Turn what DuckDB raises in a fold into the platform's errors."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise ConfigurationError(
            tried,
            value=str(error).partition("\n")[0],
            allowed=f"{memory_limit_mb} MiB of memory, and what the disk has room for",
            remedy="Raise LAKEHOUSE_MEMORY_LIMIT_MB, lower LAKEHOUSE_THREADS, or free the disk that LAKEHOUSE_HOME is on.",
        ) from error
    except pa.ArrowInvalid as error:
        raise DamagedData(
            tried,
            value=str(error).partition("\n")[0],
            allowed="files as they were written",
            remedy="Run `lakehouse repair` on the table; nothing was applied.",
        ) from error
    except duckdb.IOException as error:
        if not any(words in str(error) for words in _FULL):
            raise
        raise disk_full(Path("LAKEHOUSE_HOME"), error) from error
    except (duckdb.BinderException, duckdb.ConversionException, duckdb.InvalidInputException) as error:
        raise DamagedData(
            tried,
            value=str(error).partition("\n")[0],
            allowed="raw files with the columns and types that their manifests name",
            remedy="Extract the batch again; nothing was applied.",
        ) from error


def _entry(rows: BatchRows, schema: pa.Schema) -> FoldEntry:
    manifest = rows.batch.manifest
    return FoldEntry(rows.batch.sequence, manifest.kind, manifest.window, all_rows(schema, rows.files), rows.batch.columns)
