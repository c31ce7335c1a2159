"""One Iceberg table as it stood when it was loaded, in the terms of `lakehouse.tables.format`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.refs import SnapshotRefType

from lakehouse.spec import FieldSpec, Marker, Partitioning, Table
from lakehouse.tables import marker as markers
from lakehouse.tables.datafiles import DataFiles, as_schema
from lakehouse.tables.engine import TableState, TableVersion
from lakehouse.tables.format import DataFile
from lakehouse.tables.iceberg.files import live_files, referenced_files, spec_of, without_deleted
from lakehouse.tables.iceberg.schema import check_spec, fields_of, partitioning_of
from lakehouse.tables.iceberg.versions import (
    find_marker,
    marked_snapshot,
    marker_at,
    properties_of,
    schema_at,
    schema_of,
    snapshot_at_sequence,
    snapshot_of,
    state_of,
    version_of,
)
from lakehouse.tables.partitions import PartitionScheme


class IcebergHandle:
    """TableHandle over pyiceberg's table."""

    def __init__(self, source: str, table: Table, handle: IcebergTable) -> None:
        self.iceberg = handle
        self._source = source
        self._table = table

        def opened(url: str) -> AbstractContextManager[IO[bytes]]:
            return handle.io.new_input(url).open()  # type: ignore[return-value]  # pyarrow's file

        self._reader = DataFiles(opened, handle.io.properties.get("s3.endpoint", "the object store"))

    @property
    def current(self) -> int | None:
        snapshot = self.iceberg.current_snapshot()
        return snapshot.snapshot_id if snapshot else None

    @property
    def address(self) -> str:
        return self.iceberg.metadata_location

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        return fields_of(self.iceberg.schema(), self.iceberg.properties)

    def check_partitioning(self, table: Table) -> None:
        check_spec(f"applying to {self._source}.{table.name}", self.iceberg.spec(), table.partition, self.iceberg.schema())

    def partitioning(self, version: int) -> Partitioning:
        snapshot = snapshot_of(self._source, self._table, self.iceberg, version)
        return partitioning_of(spec_of(self.iceberg, self._reader, snapshot), schema_of(self.iceberg, snapshot))

    def version(self, version: int | None) -> int:
        return snapshot_of(self._source, self._table, self.iceberg, version).snapshot_id

    def schema(self, version: int) -> pa.Schema:
        return schema_at(self.iceberg, snapshot_of(self._source, self._table, self.iceberg, version))

    def marker(self, version: int) -> Marker:
        snapshot = snapshot_of(self._source, self._table, self.iceberg, version)
        return marker_at(self._source, self._table, self.iceberg, snapshot)

    def at_sequence(self, sequence: int) -> int | None:
        snapshot = snapshot_at_sequence(self.iceberg, sequence)
        return snapshot.snapshot_id if snapshot else None

    def committed(self, commit_id: str) -> int | None:
        snapshots = self.iceberg.metadata.snapshots
        return next((at.snapshot_id for at in snapshots if properties_of(at).get(markers.COMMIT) == commit_id), None)

    def history(self) -> list[TableVersion]:
        snapshots = sorted(self.iceberg.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
        return [
            version_of(self._source, self._table, self.iceberg, snapshot)
            for snapshot in snapshots
            if find_marker(self.iceberg, snapshot)
        ]

    def state(self, version: int | None = None) -> TableState:
        snapshot = snapshot_of(self._source, self._table, self.iceberg, version)
        return state_of(self._source, self._table, self.iceberg, snapshot)

    def tags(self) -> Mapping[str, int]:
        refs = self.iceberg.metadata.refs
        return {name: ref.snapshot_id for name, ref in refs.items() if ref.snapshot_ref_type == SnapshotRefType.TAG}

    def files(self, version: int, scheme: PartitionScheme) -> list[DataFile]:
        return live_files(self.iceberg, self._reader, scheme, version)

    def batches(self, file: DataFile, schema: pa.Schema, *, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        if not file.deletes:
            yield from self._reader.batches(file.url, schema, columns=columns)
            return
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        with self._reader.reading(f"reading {file.url}"):
            yield from (as_schema(batch, wanted) for batch in without_deleted(self.iceberg, file))

    def encoded_batches(
        self, file: DataFile, schema: pa.Schema, *, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        if file.deletes:
            yield from self.batches(file, schema, columns=columns)
        else:
            yield from self._reader.encoded_batches(file.url, schema, columns=columns)

    def download(self, file: DataFile, schema: pa.Schema, local: Path) -> Path:
        if not file.deletes:
            return self._reader.copy(file.url, local)
        with pq.ParquetWriter(local, schema) as writer:
            for batch in self.batches(file, schema):
                writer.write_batch(batch)
        return local

    def superseded(self) -> Mapping[int, datetime]:
        metadata = self.iceberg.metadata
        left = {snapshot.snapshot_id: snapshot.timestamp_ms for snapshot in metadata.snapshots}
        for entry, following in pairwise(metadata.snapshot_log):
            if entry.snapshot_id in left:
                left[entry.snapshot_id] = following.timestamp_ms
        return {version: _time(at) for version, at in left.items() if version != self.current}

    def currents(self) -> Sequence[tuple[int, datetime]]:
        return [(entry.snapshot_id, _time(entry.timestamp_ms)) for entry in self.iceberg.metadata.snapshot_log]

    def expirable(self, kept: Collection[int]) -> tuple[int, ...]:
        metadata = self.iceberg.metadata
        held = {*kept, *(ref.snapshot_id for ref in metadata.refs.values())}
        if self.current is not None:
            held.add(self.current)
        for snapshot in [snapshot for snapshot in metadata.snapshots if snapshot.snapshot_id in held]:
            marked = marked_snapshot(self.iceberg, snapshot)
            held |= {marked.snapshot_id} if marked is not None else set()
        return tuple(snapshot.snapshot_id for snapshot in metadata.snapshots if snapshot.snapshot_id not in held)

    def referenced(self) -> frozenset[str]:
        return referenced_files(self.iceberg, self._reader)


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
