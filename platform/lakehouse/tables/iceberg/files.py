"""Live data files of an Iceberg snapshot, and their rows, with memory bounded by one row group.

Neither Iceberg nor Parquet, as DuckDB writes it, keeps a checksum of a file. So a file's name ends with the first 16 hexadecimal
digits of its SHA-256: whoever reads it whole can prove it. Files of other writers are taken as they are.
"""

from __future__ import annotations

import hashlib
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

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
_DIGITS = 16
_PROVABLE = re.compile(r"-\d+-([0-9a-f]{16})\.parquet$")


@dataclass(frozen=True)
class LiveFile:
    """One data file of a snapshot, with the partition that it belongs to."""

    task: FileScanTask
    partition: str

    @property
    def path(self) -> str:
        """Its address in the store."""
        return str(self.task.file.file_path)


_UNPARSED = (ValueError, TypeError, KeyError, IndexError, AssertionError, EOFError, AttributeError, struct.error, zlib.error)
"""What pyiceberg's Avro reader raises for bytes that are no manifest."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def file_name(commit_id: str, index: int, local: Path) -> str:
    """The name of a data file in the store: unique by its commit, and proof of its bytes."""
    with local.open("rb") as file:
        return f"{commit_id}-{index}-{hashlib.file_digest(file, 'sha256').hexdigest()[:_DIGITS]}.parquet"


def live_files(handle: IcebergTable, scheme: PartitionScheme, snapshot_id: int | None) -> list[LiveFile]:
    """The data files of a snapshot (None: a table without one), sorted by address."""
    if snapshot_id is None:
        return []
    tried = f"planning a scan of {handle.location()}"
    with reading(tried, handle):
        try:
            tasks = list(handle.scan(snapshot_id=snapshot_id).plan_files())
        except _UNPARSED as error:
            raise _damaged(tried, f"{type(error).__name__}: {error}", "manifests as they were written") from error
    files = [LiveFile(task, scheme.name(task.file.partition[0] if len(task.file.partition) else None)) for task in tasks]
    return sorted(files, key=lambda file: file.path)


def referenced_files(handle: IcebergTable) -> frozenset[str]:
    """All files that the table's metadata names, of any snapshot, live or deleted; DamagedData when some of it cannot be read."""
    metadata = handle.metadata
    found = {handle.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    found |= {file.statistics_path for file in (*metadata.statistics, *metadata.partition_statistics)}
    seen: set[str] = set()
    tried = f"looking for the files of {handle.location()}"
    with reading(tried, handle):
        try:
            for snapshot in metadata.snapshots:
                found.add(snapshot.manifest_list)
                for manifest in snapshot.manifests(handle.io):
                    if manifest.manifest_path not in seen:
                        seen.add(manifest.manifest_path)
                        entries = manifest.fetch_manifest_entry(handle.io, discard_deleted=False)
                        found |= {entry.data_file.file_path for entry in entries}
        except _UNPARSED as error:
            raise _damaged(tried, f"{type(error).__name__}: {error}", "manifests as they were written") from error
    return frozenset(found | seen)


def file_batches(
    handle: IcebergTable, file: LiveFile, schema: pa.Schema, *, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a data file as `schema` has them (or its `columns`); a column that the file lacks is null."""
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    with reading(f"reading {file.path}", handle):
        if file.task.delete_files:
            yield from (_as(batch, wanted) for batch in _without_deleted(handle, file))
            return
        with _opened(handle, file, whole=columns is None) as stream:
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
    with reading(f"reading {file.path}", handle), handle.io.new_input(file.path).open() as source, open(local, "wb") as target:
        _copy_proved(source, target, file.path)
    return local


@contextmanager
def _opened(handle: IcebergTable, file: LiveFile, *, whole: bool) -> Iterator[IO[bytes]]:
    """A data file to read from. One that is wanted whole is copied to the local disk and proved before any row of it is seen."""
    with handle.io.new_input(file.path).open() as source:
        if not (whole and _PROVABLE.search(file.path)):
            yield source  # type: ignore[misc]  # pyarrow's file, which its Parquet reader takes
            return
        with tempfile.TemporaryFile(prefix="lakehouse-") as local:
            _copy_proved(source, local, file.path)
            local.seek(0)
            yield local


def _copy_proved(source: _Readable, target: IO[bytes], path: str) -> None:
    """Copy a file; DamagedData, naming it, when its bytes are not those that its name stands for."""
    digest = hashlib.sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
        target.write(block)
    named = _PROVABLE.search(path)
    if named and not digest.hexdigest().startswith(named[1]):
        raise _damaged(f"reading {path}", f"SHA-256 {digest.hexdigest()[:_DIGITS]}…", f"SHA-256 {named[1]}…, as its name says")


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
def reading(tried: str, handle: IcebergTable) -> Iterator[None]:
    """Turn what pyarrow's file systems and Parquet raise into the platform's errors."""
    try:
        yield
    except FileNotFoundError as error:
        raise _damaged(tried, str(error), "every file that the table's metadata names") from error
    except pa.ArrowInvalid as error:
        raise _damaged(tried, str(error), "a file as it was written") from error
    except OSError as error:
        if _is_content(error):
            raise _damaged(tried, str(error), "a file as it was written") from error
        raise StoreUnavailable(
            tried,
            value=str(error),
            allowed=f"an answer from {handle.io.properties.get('s3.endpoint', 'the object store')}",
            remedy="Look at the store, then run this again.",
        ) from error


def _is_content(error: OSError) -> bool:
    """Whether pyarrow means what is in a file: such an error has no number of the system's, nor is it the service's."""
    return error.errno is None and "AWS Error" not in str(error) and not isinstance(error, ConnectionError | TimeoutError)


def _damaged(tried: str, found: str, allowed: str) -> DamagedData:
    return DamagedData(
        tried,
        value=found,
        allowed=allowed,
        remedy="Run `lakehouse repair` on the table: it is folded anew from its raw log.",
    )
