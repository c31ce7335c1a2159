"""Live data files of an Iceberg snapshot, and their rows, with memory bounded by one row group."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import FileScanTask
from pyiceberg.table import Table as IcebergTable

from lakehouse.errors import DamagedData, StoreUnavailable
from lakehouse.tables.partitions import PartitionScheme

BATCH_ROWS = 65536
_BLOCK = 8 << 20


@dataclass(frozen=True)
class LiveFile:
    """One data file of a snapshot, with the partition that it belongs to."""

    task: FileScanTask
    partition: str

    @property
    def path(self) -> str:
        """Its address in the store."""
        return str(self.task.file.file_path)


def live_files(handle: IcebergTable, scheme: PartitionScheme, snapshot_id: int | None) -> list[LiveFile]:
    """The data files of a snapshot (None: a table without one), sorted by address."""
    if snapshot_id is None:
        return []
    with reading(f"planning a scan of {handle.location()}"):
        tasks = list(handle.scan(snapshot_id=snapshot_id).plan_files())
    files = [LiveFile(task, scheme.name(task.file.partition[0] if len(task.file.partition) else None)) for task in tasks]
    return sorted(files, key=lambda file: file.path)


def file_batches(
    handle: IcebergTable, file: LiveFile, schema: pa.Schema, *, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a data file as `schema` has them (or its `columns`); a column that the file lacks is null."""
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    with reading(f"reading {file.path}"):
        if file.task.delete_files:
            yield from (_as(batch, wanted) for batch in _without_deleted(handle, file))
            return
        with handle.io.new_input(file.path).open() as stream:
            parquet = pq.ParquetFile(stream)
            present = [name for name in wanted.names if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=present):
                yield _as(batch, wanted)


def download(handle: IcebergTable, file: LiveFile, schema: pa.Schema, local: Path) -> Path:
    """The rows of a data file as a local Parquet file; a file on this machine that nobody deleted from is taken where it is."""
    if file.task.delete_files:
        with pq.ParquetWriter(local, schema) as writer:
            for batch in file_batches(handle, file, schema):
                writer.write_batch(batch)
        return local
    with reading(f"reading {file.path}"), handle.io.new_input(file.path).open() as source, open(local, "wb") as target:
        shutil.copyfileobj(source, target, _BLOCK)
    return local


def _without_deleted(handle: IcebergTable, file: LiveFile) -> Iterator[pa.RecordBatch]:
    scan = ArrowScan(handle.metadata, handle.io, handle.schema(), AlwaysTrue())
    yield from scan.to_record_batches([file.task])


def _as(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    names = set(batch.schema.names)
    arrays = [
        batch.column(field.name).cast(field.type) if field.name in names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    if not arrays:
        return batch
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


@contextmanager
def reading(tried: str) -> Iterator[None]:
    """Turn what pyarrow's file systems and Parquet raise into the platform's errors."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedData(
            tried,
            value=str(error),
            allowed="every file that the table's metadata names",
            remedy="Restore the file, or roll back to a version without it: the next run applies the raw log from there.",
        ) from error
    except pa.ArrowInvalid as error:
        raise DamagedData(
            tried,
            value=str(error),
            allowed="a Parquet file as it was written",
            remedy="Restore the file, or roll back to a version without it: the next run applies the raw log from there.",
        ) from error
    except OSError as error:
        raise StoreUnavailable(
            tried,
            value=str(error),
            allowed="an object store that answers",
            remedy="Look at the store, then run this again.",
        ) from error
