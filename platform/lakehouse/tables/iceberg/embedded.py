"""Iceberg tables folded by DuckDB and committed by pyiceberg, on one machine."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.snapshots import Snapshot

from lakehouse.errors import WrongUse
from lakehouse.faults import effect
from lakehouse.settings import Settings
from lakehouse.spec import LogEntry, Table
from lakehouse.stores import ObjectStore
from lakehouse.tables.engine import Applied, TableState, TableVersion
from lakehouse.tables.iceberg.applying import Apply, conflict, pending_entries, read_base, read_unmarked_base
from lakehouse.tables.iceberg.catalog import LakeCatalog
from lakehouse.tables.iceberg.commit import MOVED, UNKNOWN
from lakehouse.tables.iceberg.contents import encoded_batches, partition_contents
from lakehouse.tables.iceberg.files import file_batches, live_files, referenced_files
from lakehouse.tables.iceberg.restoring import restore_metadata
from lakehouse.tables.iceberg.versions import find_marker, schema_at, snapshot_at_sequence, snapshot_of, state_of, version_of
from lakehouse.tables.partitions import PartitionScheme


class EmbeddedIceberg:
    """LakeTables over Iceberg: see `lakehouse.tables.engine`."""

    def __init__(self, settings: Settings, store: ObjectStore) -> None:
        self._settings = settings
        self._store = store
        self._catalog = LakeCatalog(settings, store.url)

    def state(self, source: str, table: Table) -> TableState | None:
        handle = self._catalog.load(source, table.name)
        return state_of(source, table, handle) if handle and handle.current_snapshot() else None

    def apply(self, source: str, table: Table, entries: Sequence[LogEntry], files_root: str) -> Applied:
        base = read_base(self._catalog, source, table)
        pending = pending_entries(source, table, base.marker.sequence, entries)
        if pending:
            return Apply(self._settings, self._store, self._catalog, source, table, base, pending).run(files_root)
        if base.handle is None or base.snapshot_id is None:
            raise WrongUse(
                f"applying to {source}.{table.name}, which is not there yet",
                value="no log entries",
                allowed="at least the first entry of its raw log",
                remedy="Extract the table first (`lakehouse run`).",
            )
        return Applied(state_of(source, table, base.handle), 0, (), (), 0)

    def rebuild(self, source: str, table: Table, entries: Sequence[LogEntry], files_root: str) -> Applied:
        base = read_unmarked_base(self._catalog, source, table)
        pending = pending_entries(source, table, 0, entries)
        apply = Apply(self._settings, self._store, self._catalog, source, table, base, pending, rebuild=True)
        return apply.run(files_root)

    def restore(self, source: str, table: Table) -> str | None:
        return restore_metadata(self._catalog, self._store, source, table.name)

    def scan(
        self,
        source: str,
        table: Table,
        *,
        partitions: Sequence[str] | None = None,
        version: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        handle = self._existing(source, table)
        snapshot = snapshot_of(source, table, handle, version)
        schema = schema_at(handle, snapshot)
        scheme = PartitionScheme.of(table.partition, schema)
        for file in live_files(handle, scheme, snapshot.snapshot_id):
            if partitions is None or scheme.shown(file.partition) in partitions:
                yield from file_batches(handle, file, schema, columns=columns)

    def scan_by_partition(
        self,
        source: str,
        table: Table,
        *,
        partitions: Collection[str] | None = None,
        version: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        handle = self._existing(source, table)
        snapshot = snapshot_of(source, table, handle, version)
        schema = schema_at(handle, snapshot)
        scheme = PartitionScheme.of(table.partition, schema)
        wanted = None if partitions is None else set(partitions)
        for file in live_files(handle, scheme, snapshot.snapshot_id):
            name = scheme.shown(file.partition)
            if wanted is None or name in wanted:
                for batch in encoded_batches(handle, file, schema, columns=columns):
                    yield name, batch

    def contents(self, source: str, table: Table, *, version: int | None = None) -> dict[str, str]:
        handle = self._existing(source, table)
        snapshot = snapshot_of(source, table, handle, version)
        scheme = PartitionScheme.of(table.partition, schema_at(handle, snapshot))
        return partition_contents(self._store, scheme, live_files(handle, scheme, snapshot.snapshot_id))

    def partitions(self, source: str, table: Table, *, version: int | None = None) -> dict[str, int]:
        handle = self._existing(source, table)
        snapshot = snapshot_of(source, table, handle, version)
        schema = schema_at(handle, snapshot)
        scheme, rows = PartitionScheme.of(table.partition, schema), dict[str, int]()
        for file in live_files(handle, scheme, snapshot.snapshot_id):
            if file.task.delete_files:
                count = sum(batch.num_rows for batch in file_batches(handle, file, schema))
            else:
                count = file.task.file.record_count
            name = scheme.shown(file.partition)
            rows[name] = rows.get(name, 0) + count
        return dict(sorted(rows.items()))

    def changed_partitions(self, source: str, table: Table, since: int) -> tuple[str, ...] | None:
        handle = self._existing(source, table)
        current = snapshot_of(source, table, handle, None)
        then = snapshot_at_sequence(handle, since)
        if then is None:
            return None
        scheme = PartitionScheme.of(table.partition, schema_at(handle, current))
        sides = [_files_and_deletes(handle, scheme, snapshot) for snapshot in (then, current)]
        differing = dict(sides[0].items() ^ sides[1].items())
        return tuple(sorted({scheme.shown(name) for name in differing.values()}))

    def history(self, source: str, table: Table) -> list[TableVersion]:
        handle = self._existing(source, table)
        snapshots = sorted(handle.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
        return [version_of(source, table, handle, snapshot) for snapshot in snapshots if find_marker(handle, snapshot)]

    def referenced(self, source: str, table: Table) -> frozenset[str] | None:
        handle = self._catalog.load(source, table.name)
        return referenced_files(handle) if handle is not None else None

    def rollback(self, source: str, table: Table, version: int) -> TableState:
        handle = self._existing(source, table)
        target = snapshot_of(source, table, handle, version)
        if handle.metadata.current_snapshot_id != target.snapshot_id:
            handle.metadata.properties["commit.retry.num-retries"] = "0"
            try:
                with effect("lake.rollback"):
                    handle.manage_snapshots().set_current_snapshot(snapshot_id=target.snapshot_id).commit()
            except (*MOVED, *UNKNOWN) as error:
                if self._existing(source, table).metadata.current_snapshot_id != target.snapshot_id:
                    raise conflict(f"rolling {source}.{table.name} back to version {version}", error) from error
        return state_of(source, table, self._existing(source, table))

    def _existing(self, source: str, table: Table) -> IcebergTable:
        handle = self._catalog.load(source, table.name)
        if handle is None or handle.current_snapshot() is None:
            raise WrongUse(
                f"reading lake table {source}.{table.name}",
                value="the table is not there",
                allowed="a table that was built",
                remedy=f"Build it first: `lakehouse run --select {source}.{table.name}`.",
            )
        return handle


def _files_and_deletes(
    handle: IcebergTable, scheme: PartitionScheme, snapshot: Snapshot
) -> dict[tuple[str, frozenset[str]], str]:
    """The data files of a snapshot, each with the delete files that bear on it, and their partitions."""
    return {
        (file.path, frozenset(deleted.file_path for deleted in file.task.delete_files)): file.partition
        for file in live_files(handle, scheme, snapshot.snapshot_id)
    }
