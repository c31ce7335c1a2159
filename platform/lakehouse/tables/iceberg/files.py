"""Live data files of an Iceberg snapshot, and every file that the metadata names."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import ManifestContent
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.table import FileScanTask
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.snapshots import Snapshot

from lakehouse.tables.datafiles import DataFiles, damaged
from lakehouse.tables.format import DataFile
from lakehouse.tables.partitions import PartitionScheme

_UNPARSED = (ValueError, TypeError, KeyError, IndexError, AssertionError, EOFError, AttributeError, struct.error, zlib.error)
"""What pyiceberg's Avro reader raises for bytes that are no manifest."""


def live_files(handle: IcebergTable, reader: DataFiles, scheme: PartitionScheme, snapshot_id: int) -> list[DataFile]:
    """The data files of a snapshot, sorted by address; `own` is the task of pyiceberg's plan."""
    tried = f"planning a scan of {handle.location()}"
    with reader.reading(tried):
        try:
            tasks = list(_as_it_was(handle, snapshot_id).scan(snapshot_id=snapshot_id).plan_files())
        except _UNPARSED as error:
            raise damaged(tried, f"{type(error).__name__}: {error}", "manifests as they were written") from error
    return sorted((_data_file(task, scheme) for task in tasks), key=lambda file: file.url)


def spec_of(handle: IcebergTable, reader: DataFiles, snapshot: Snapshot) -> PartitionSpec:
    """The partition spec of the files of a snapshot: of all of them, for whoever changes it replaces every file.

    Where the table has had just one, nothing is read for it; else the snapshot's list of manifests is.
    """
    specs = handle.specs()
    if len(specs) == 1:
        return handle.spec()
    tried = f"reading the manifests of {handle.location()}"
    with reader.reading(tried):
        try:
            manifests = snapshot.manifests(handle.io)
        except _UNPARSED as error:
            raise damaged(tried, f"{type(error).__name__}: {error}", "manifests as they were written") from error
    live = (manifest for manifest in manifests if manifest.content == ManifestContent.DATA)
    return specs[next((manifest.partition_spec_id for manifest in live), handle.spec().spec_id)]


def _as_it_was(handle: IcebergTable, snapshot_id: int) -> IcebergTable:
    """The table with the columns that a snapshot had: those of its partitions may be gone since, and pyiceberg asks for them."""
    snapshot = handle.snapshot_by_id(snapshot_id)
    if snapshot is None or snapshot.schema_id in (None, handle.metadata.current_schema_id):
        return handle
    metadata = handle.metadata.model_copy(update={"current_schema_id": snapshot.schema_id})
    return IcebergTable(handle.name(), metadata, handle.metadata_location, handle.io, handle.catalog, handle.config)


def _data_file(task: FileScanTask, scheme: PartitionScheme) -> DataFile:
    return DataFile(
        url=str(task.file.file_path),
        partition=scheme.name(task.file.partition[0] if len(task.file.partition) else None),
        rows=task.file.record_count,
        bytes=task.file.file_size_in_bytes,
        deletes=tuple(deleted.file_path for deleted in task.delete_files),
        own=task,
    )


def without_deleted(handle: IcebergTable, file: DataFile) -> Iterator[pa.RecordBatch]:
    """The rows of a data file that no delete file has deleted."""
    scan = ArrowScan(handle.metadata, handle.io, handle.schema(), AlwaysTrue())
    yield from scan.to_record_batches([file.own])


def referenced_files(handle: IcebergTable, reader: DataFiles) -> frozenset[str]:
    """All files that the table's metadata names, of any snapshot, live or deleted; DamagedData when some of it cannot be read."""
    metadata = handle.metadata
    found = {handle.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    found |= {file.statistics_path for file in (*metadata.statistics, *metadata.partition_statistics)}
    seen: set[str] = set()
    tried = f"looking for the files of {handle.location()}"
    with reader.reading(tried):
        try:
            for snapshot in metadata.snapshots:
                found.add(snapshot.manifest_list)
                for manifest in snapshot.manifests(handle.io):
                    if manifest.manifest_path not in seen:
                        seen.add(manifest.manifest_path)
                        entries = manifest.fetch_manifest_entry(handle.io, discard_deleted=False)
                        found |= {entry.data_file.file_path for entry in entries}
        except _UNPARSED as error:
            raise damaged(tried, f"{type(error).__name__}: {error}", "manifests as they were written") from error
    return frozenset(found | seen)
