"""The fold engine of one machine: files are brought to the local disk, folded there by DuckDB, and uploaded."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.rows.duck import borrowed_duckdb, connect_duckdb, quoted
from lakehouse.settings import Settings
from lakehouse.stores import ObjectStore
from lakehouse.tables.datafiles import file_name
from lakehouse.tables.embedded.batches import LocalBatch, fetch_batches
from lakehouse.tables.embedded.folding import Fold, FoldResult, NewFile, OldPartition, folding
from lakehouse.tables.embedded.scratch import scratch_folder
from lakehouse.tables.folds import Folded, FoldTask
from lakehouse.tables.format import DataFile, StoredFile

TRANSFERS = 4
"""Files that are copied to or from the store at once."""

_FIELD_ID = b"PARQUET:field_id"


class EmbeddedEngine:
    """FoldEngine on DuckDB."""

    def __init__(self, settings: Settings, store: ObjectStore) -> None:
        self._settings = settings
        self._store = store

    def fold(self, task: FoldTask) -> Folded:
        """See `lakehouse.tables.folds.FoldEngine`."""
        with scratch_folder(self._settings.home / "tmp") as folder:
            batches = fetch_batches(self._store, task.files_root, task.entries, folder / "raw")
            result = self._fold(task, batches, folder)
            with ThreadPoolExecutor(TRANSFERS) as pool:
                stored = list(pool.map(partial(self._upload, task), *zip(*enumerate(result.files), strict=True)))
            return Folded(stored, result.sums, result.days)

    def _upload(self, task: FoldTask, index: int, file: NewFile) -> StoredFile:
        url = task.address(file.partition, file_name(task.commit_id, index, file.path))
        self._store.upload(file.path, url.removeprefix(self._store.url + "/"))
        return StoredFile(url, file.partition, file.path.stat().st_size, pq.read_metadata(file.path))

    def _fold(self, task: FoldTask, batches: Sequence[LocalBatch], folder: Path) -> FoldResult:
        limit = self._settings.memory_limit_mb
        tried = f"folding {task.source}.{task.table.name}"
        spill = folder / "spill"
        # The function that names buckets would stay in a database that others work with afterwards.
        connect = connect_duckdb if task.scheme.partitioning.transform == "bucket" else borrowed_duckdb
        with (
            connect(threads=self._settings.threads, memory_limit_mb=limit, temp_directory=spill) as connection,
            borrowed_duckdb(threads=1, memory_limit_mb=max(limit // 4, 64), temp_directory=spill / "aside") as aside,
            folding(tried, limit),
        ):
            return self._fold_with(connection, aside, task, batches, folder)

    def _fold_with(
        self,
        connection: duckdb.DuckDBPyConnection,
        aside: duckdb.DuckDBPyConnection,
        task: FoldTask,
        batches: Sequence[LocalBatch],
        folder: Path,
    ) -> FoldResult:
        task.scheme.prepare(connection)
        fold = Fold(
            connection=connection,
            aside=aside,
            table=task.table,
            schema=task.schema,
            scheme=task.scheme,
            field_ids=field_ids(task.file_schema),
            batches=batches,
            folder=folder / "fold",
            old={name: _old_partition(task, files, folder / "old") for name, files in task.old.items()},
            memory_bytes=self._settings.memory_limit_mb << 20,
            threads=self._settings.threads,
            every_row=task.every_row,
            rewrite=task.rewrite,
        )
        new = fold.new_rows()
        if task.table.mode == "upsert" and task.old:
            fold.collect_keys()
        return fold.run(sorted(_touched(task, fold, {name for rows in new.values() for name in rows})), new)


def field_ids(schema: pa.Schema) -> str | None:
    """DuckDB's FIELD_IDS argument: the ids under which a Parquet file must hold the columns; None when they have none."""
    if not schema.names or _FIELD_ID not in (schema.field(0).metadata or {}):
        return None
    return "{" + ", ".join(f"{quoted(field.name)}: {_field_id(field)}" for field in schema) + "}"


def _field_id(field: pa.Field) -> str:
    number = field.metadata[_FIELD_ID].decode()
    if pa.types.is_list(field.type):
        return f"{{__duckdb_field_id: {number}, element: {_field_id(field.type.value_field)}}}"
    if pa.types.is_struct(field.type):
        inner = ", ".join(f"{quoted(child.name)}: {_field_id(child)}" for child in field.type)
        return f"{{__duckdb_field_id: {number}, {inner}}}"
    return str(number)


def _old_partition(task: FoldTask, files: Sequence[DataFile], folder: Path) -> OldPartition:
    return OldPartition(sum(file.bytes for file in files), partial(_fetch, task, files, folder))


def _fetch(task: FoldTask, files: Sequence[DataFile], folder: Path) -> list[Path]:
    handle = task.handle
    assert handle is not None
    folder.mkdir(exist_ok=True)
    with ThreadPoolExecutor(TRANSFERS) as pool:
        return list(pool.map(lambda file: handle.download(file, task.schema, folder / f"{uuid.uuid4().hex}.parquet"), files))


def _touched(task: FoldTask, fold: Fold, new: set[str]) -> set[str]:
    """The partitions whose rows can change."""
    if task.table.mode == "snapshot" or task.every_row:
        return new | task.old.keys()
    if task.table.mode == "append":
        windows = [batch.manifest.window for batch in fold.batches if batch.manifest.window is not None]
        return new | task.scheme.overlapped(list(task.old), windows)
    if task.separable:
        return new
    return new | {name for name, files in task.old.items() if name not in new and _holds_touched_key(task, fold, files)}


def _holds_touched_key(task: FoldTask, fold: Fold, files: Sequence[DataFile]) -> bool:
    """Whether a partition has an old version of a key that the batches bring: its key columns are read."""
    handle = task.handle
    assert handle is not None
    key = list(task.table.row_key)
    return any(fold.holds_touched_key(handle.batches(file, task.schema, columns=key)) for file in files)
