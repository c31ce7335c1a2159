"""Iceberg tables folded by DuckDB and committed by pyiceberg, on one machine."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import Transaction
from pyiceberg.table.snapshots import Operation, Snapshot

from lakehouse.errors import CommitConflict, DamagedData, WrongUse
from lakehouse.rows.checksum import EMPTY
from lakehouse.rows.duck import connect_duckdb
from lakehouse.settings import Settings
from lakehouse.spec import FieldSpec, LogEntry, Marker, RowChecksum, Table
from lakehouse.stores import ObjectStore
from lakehouse.tables import marker as markers
from lakehouse.tables.batches import LocalBatch, fetch_batches, needed_entries
from lakehouse.tables.columns import arrow_schema
from lakehouse.tables.engine import Applied, TableState, TableVersion
from lakehouse.tables.evolution import evolved_fields
from lakehouse.tables.folding import Fold, FoldResult
from lakehouse.tables.iceberg.catalog import LakeCatalog
from lakehouse.tables.iceberg.commit import MOVED, UNKNOWN, StoredFile, commit_snapshot
from lakehouse.tables.iceberg.files import LiveFile, download, file_batches, live_files
from lakehouse.tables.iceberg.schema import (
    check_spec,
    field_ids,
    fields_of,
    new_schema,
    new_spec,
    stage_evolution,
    type_properties,
)
from lakehouse.tables.partitions import PartitionScheme
from lakehouse.tables.scratch import scratch_folder

NEVER = Marker(0, 0, f"{EMPTY.value:016x}")
"""The marker of a table that holds nothing yet."""


@dataclass(frozen=True)
class Base:
    """What an apply starts from, all of it read from one handle."""

    handle: IcebergTable | None
    marker: Marker
    fields: tuple[FieldSpec, ...]

    @property
    def snapshot_id(self) -> int | None:
        """The snapshot that is current, None for a table without one."""
        snapshot = self.handle.current_snapshot() if self.handle else None
        return snapshot.snapshot_id if snapshot else None


class EmbeddedIceberg:
    """LakeTables over Iceberg: see `lakehouse.tables.engine`."""

    def __init__(self, settings: Settings, store: ObjectStore) -> None:
        self._settings = settings
        self._store = store
        self._catalog = LakeCatalog(settings, store.url)

    def state(self, source: str, table: Table) -> TableState | None:
        handle = self._catalog.load(source, table.name)
        return _state(source, table, handle) if handle and handle.current_snapshot() else None

    def apply(self, source: str, table: Table, entries: Sequence[LogEntry], files_root: str) -> Applied:
        base = self._base(source, table)
        pending = _pending(source, table, base.marker.sequence, entries)
        if not pending:
            state = _state(source, table, base.handle) if base.handle and base.snapshot_id is not None else None
            if state is None:
                raise WrongUse(
                    f"applying to {source}.{table.name}, which is not there yet",
                    value="no log entries",
                    allowed="at least the first entry of its raw log",
                    remedy="Extract the table first (`lakehouse run`).",
                )
            return Applied(state, 0, (), (), 0)
        fields = evolved_fields(source, table, base.fields, [entry.manifest for entry in pending])
        transaction = self._transaction(source, table, base, fields)
        with scratch_folder(self._settings.home / "tmp") as folder:
            batches = fetch_batches(self._store, files_root, needed_entries(table, pending), folder / "raw")
            work = _Work(self, source, table, base, transaction, fields, batches, folder)
            return work.commit(pending)

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
        snapshot = _snapshot(source, table, handle, version)
        schema = _schema_at(handle, snapshot)
        for file in live_files(handle, PartitionScheme.of(table.partition, schema), snapshot.snapshot_id):
            if partitions is None or file.partition in partitions:
                yield from file_batches(handle, file, schema, columns=columns)

    def partitions(self, source: str, table: Table, *, version: int | None = None) -> dict[str, int]:
        handle = self._existing(source, table)
        snapshot = _snapshot(source, table, handle, version)
        schema = _schema_at(handle, snapshot)
        rows: dict[str, int] = {}
        for file in live_files(handle, PartitionScheme.of(table.partition, schema), snapshot.snapshot_id):
            if file.task.delete_files:
                count = sum(batch.num_rows for batch in file_batches(handle, file, schema))
            else:
                count = file.task.file.record_count
            rows[file.partition] = rows.get(file.partition, 0) + count
        return dict(sorted(rows.items()))

    def changed_partitions(self, source: str, table: Table, since: int) -> tuple[str, ...] | None:
        handle = self._existing(source, table)
        current = _snapshot(source, table, handle, None)
        then = _snapshot_at_sequence(handle, since)
        if then is None:
            return None
        scheme = PartitionScheme.of(table.partition, _schema_at(handle, current))
        sides = [
            {(file.path, frozenset(deleted.file_path for deleted in file.task.delete_files)): file.partition
             for file in live_files(handle, scheme, snapshot.snapshot_id)}
            for snapshot in (then, current)
        ]  # fmt: skip
        return tuple(sorted({(sides[0].get(key) or sides[1][key]) for key in sides[0].keys() ^ sides[1].keys()}))

    def history(self, source: str, table: Table) -> list[TableVersion]:
        handle = self._existing(source, table)
        snapshots = sorted(handle.metadata.snapshots, key=lambda snapshot: snapshot.sequence_number or 0)
        return [_version(source, table, handle, snapshot) for snapshot in snapshots]

    def rollback(self, source: str, table: Table, version: int) -> TableState:
        handle = self._existing(source, table)
        target = _snapshot(source, table, handle, version)
        if handle.metadata.current_snapshot_id != target.snapshot_id:
            handle.metadata.properties["commit.retry.num-retries"] = "0"
            try:
                handle.manage_snapshots().set_current_snapshot(snapshot_id=target.snapshot_id).commit()
            except MOVED as error:
                raise _conflict(f"rolling {source}.{table.name} back to version {version}", error) from error
        return _state(source, table, self._existing(source, table))

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

    def _base(self, source: str, table: Table) -> Base:
        handle = self._catalog.load(source, table.name)
        if handle is None:
            return Base(None, NEVER, ())
        check_spec(f"applying to {source}.{table.name}", handle.spec(), table.partition, handle.schema())
        snapshot = handle.current_snapshot()
        marker = _marker(source, table, handle, snapshot) if snapshot else NEVER
        return Base(handle, marker, fields_of(handle.schema(), handle.properties))

    def _transaction(self, source: str, table: Table, base: Base, fields: Sequence[FieldSpec]) -> Transaction:
        if base.handle is not None:
            transaction = base.handle.transaction()
            stage_evolution(transaction, base.fields, fields)
            return transaction
        PartitionScheme.of(table.partition, arrow_schema(fields))
        schema = new_schema(fields, table.key)
        properties = {"lakehouse.source": source, "lakehouse.table": table.name, **type_properties(fields)}
        if table.description:
            properties["comment"] = table.description
        return self._catalog.creation(source, table.name, schema, new_spec(table.partition, schema), properties)


class _Work:
    """One apply, from its base to its commit."""

    def __init__(
        self,
        engine: EmbeddedIceberg,
        source: str,
        table: Table,
        base: Base,
        transaction: Transaction,
        fields: Sequence[FieldSpec],
        batches: Sequence[LocalBatch],
        folder: Path,
    ) -> None:
        self._engine = engine
        self._source = source
        self._table = table
        self._base = base
        self._transaction = transaction
        self._batches = batches
        self._folder = folder
        self._commit_id = uuid.uuid4().hex
        self._schema = arrow_schema(fields)
        self._scheme = PartitionScheme.of(table.partition, self._schema)
        self._old: dict[str, list[LiveFile]] = {}
        if base.handle is not None:
            for file in live_files(base.handle, self._scheme, base.snapshot_id):
                self._old.setdefault(file.partition, []).append(file)

    def commit(self, pending: Sequence[LogEntry]) -> Applied:
        """Fold, upload, commit."""
        result = self._fold()
        marker = self._marker(pending[-1].sequence, result)
        days, partitions = tuple(sorted(result.days)), tuple(sorted(result.changed))
        properties = markers.marker_properties(marker, changed_days=days, partitions=partitions, commit_id=self._commit_id)
        stored = self._upload(result)
        removed = [file.task.file for name in partitions for file in self._old.get(name, ())]
        tried = f"committing entries {pending[0].sequence} to {pending[-1].sequence} to {self._source}.{self._table.name}"
        try:
            handle = commit_snapshot(self._transaction, self._base.handle, removed=removed, added=stored, properties=properties)
        except (*MOVED, *UNKNOWN) as error:
            handle = self._after_failure(tried, stored, error)
        rows = sum(new.rows for _, new in result.changed.values())
        return Applied(_state(self._source, self._table, handle), len(pending), partitions, days, rows)

    def _fold(self) -> FoldResult:
        settings = self._engine._settings
        connection = connect_duckdb(
            threads=settings.threads, memory_limit_mb=settings.memory_limit_mb, temp_directory=self._folder / "spill"
        )
        try:
            self._scheme.prepare(connection)
            fold = Fold(
                connection=connection,
                table=self._table,
                schema=self._schema,
                scheme=self._scheme,
                field_ids=field_ids(self._transaction.table_metadata.schema()),
                batches=self._batches,
                folder=self._folder / "fold",
                old_files=self._old_files,
            )
            new = fold.new_partitions()
            return fold.run(sorted(self._touched(fold, {name for names in new.values() for name in names})), new)
        except duckdb.InvalidInputException as error:
            raise DamagedData(
                f"folding batches of {self._source}.{self._table.name}",
                value=str(error),
                allowed="raw files with the columns that their manifests name",
                remedy="Extract the window again.",
            ) from error
        finally:
            connection.close()

    def _touched(self, fold: Fold, new: set[str]) -> set[str]:
        if self._table.mode == "snapshot":
            return new | self._old.keys()
        if self._table.mode == "append":
            windows = [batch.manifest.window for batch in self._batches if batch.manifest.window is not None]
            return new | self._scheme.overlapped(list(self._old), windows)
        if fold.separable:
            return new
        return new | self._holding_touched_keys(fold, new)

    def _holding_touched_keys(self, fold: Fold, known: set[str]) -> set[str]:
        """Partitions with old versions of the batches' keys: their key columns are read."""
        fold.touched_keys()
        handle = self._base.handle
        found = set()
        key = list(self._table.key)
        schema = pa.schema([self._schema.field(name) for name in key])
        for name, files in self._old.items():
            if name in known or handle is None:
                continue
            for file in files:
                batches = file_batches(handle, file, self._schema, columns=key)
                if fold.holds_touched_key(pa.RecordBatchReader.from_batches(schema, batches)):
                    found.add(name)
                    break
        return found

    def _old_files(self, partition: str) -> list[Path]:
        handle = self._base.handle
        folder = self._folder / "old"
        folder.mkdir(exist_ok=True)
        files = self._old.get(partition, ())
        return [
            download(handle, file, self._schema, folder / f"{uuid.uuid4().hex}.parquet") for file in files if handle is not None
        ]

    def _marker(self, sequence: int, result: FoldResult) -> Marker:
        total = markers.row_checksum(self._base.marker)
        for old, new in result.changed.values():
            total = total - old + new
        return Marker(sequence, total.rows, RowChecksum(total.rows, total.value).hex)

    def _upload(self, result: FoldResult) -> list[StoredFile]:
        location = self._transaction.table_metadata.location
        stored = []
        for index, file in enumerate(result.files):
            folder = "" if self._table.partition.column is None else f"{file.partition}/"
            url = f"{location}/data/{folder}{self._commit_id}-{index}.parquet"
            self._engine._store.upload(file.path, self._path(url))
            stored.append(StoredFile(url, self._scheme.value(file.partition), file.path))
        return stored

    def _path(self, url: str) -> str:
        return url.removeprefix(self._engine._store.url + "/")

    def _after_failure(self, tried: str, stored: Sequence[StoredFile], error: Exception) -> IcebergTable:
        """The table, if the commit went through although its answer did not come; CommitConflict otherwise."""
        handle = self._engine._catalog.load(self._source, self._table.name)
        if handle is not None:
            for snapshot in handle.metadata.snapshots:
                if _properties(snapshot).get(markers.COMMIT) == self._commit_id:
                    return handle
        if isinstance(error, MOVED):
            for file in stored:
                self._engine._store.delete(self._path(file.url))
        raise _conflict(tried, error) from error


def _pending(source: str, table: Table, watermark: int, entries: Sequence[LogEntry]) -> list[LogEntry]:
    """The entries after the watermark; they must follow on it without a gap, or rows would be lost."""
    pending = sorted((entry for entry in entries if entry.sequence > watermark), key=lambda entry: entry.sequence)
    for expected, entry in enumerate(pending, start=watermark + 1):
        if entry.sequence != expected:
            raise CommitConflict(
                f"applying to {source}.{table.name}, whose watermark is {watermark}",
                value=f"entry {entry.sequence} where {expected} should follow",
                allowed="all entries after the watermark, in order",
                remedy="Read the watermark and the raw log again, then apply; the table may have been rolled back meanwhile.",
            )
    return pending


def _conflict(tried: str, error: Exception) -> CommitConflict:
    return CommitConflict(
        tried,
        value=f"{type(error).__name__}: {error}",
        allowed="a table that nobody moved since it was read",
        remedy="Call it again: it reads the watermark anew and applies what is left.",
    )


def _properties(snapshot: Snapshot) -> dict[str, str]:
    return dict(snapshot.summary.additional_properties) if snapshot.summary else {}


def _marker(source: str, table: Table, handle: IcebergTable, snapshot: Snapshot) -> Marker:
    """The marker of a snapshot; a compaction by another tool has its parent's, for it changes no rows."""
    at: Snapshot | None = snapshot
    while at is not None:
        if found := markers.marker_of(_properties(at)):
            return found
        if at.summary is None or at.summary.operation != Operation.REPLACE or at.parent_snapshot_id is None:
            break
        at = handle.snapshot_by_id(at.parent_snapshot_id)
    raise DamagedData(
        f"reading the marker of {source}.{table.name}, version {snapshot.snapshot_id}",
        value="a commit without one",
        allowed="commits by this platform, and rewrites that change no rows",
        remedy=f"Another tool wrote to the table: roll back to a version of ours (`lakehouse rollback {source}.{table.name}`).",
    )


def _snapshot(source: str, table: Table, handle: IcebergTable, version: int | None) -> Snapshot:
    snapshot = handle.current_snapshot() if version is None else handle.snapshot_by_id(version)
    if snapshot is None:
        raise WrongUse(
            f"reading {source}.{table.name} at a version",
            value=version,
            allowed=", ".join(str(known.snapshot_id) for known in handle.metadata.snapshots[-10:]),
            remedy=f"See `lakehouse show {source}.{table.name}` for the versions that can still be read.",
        )
    return snapshot


def _snapshot_at_sequence(handle: IcebergTable, sequence: int) -> Snapshot | None:
    found = [
        snapshot
        for snapshot in handle.metadata.snapshots
        if (marker := markers.marker_of(_properties(snapshot))) is not None and marker.sequence == sequence
    ]
    return max(found, key=lambda snapshot: snapshot.sequence_number or 0) if found else None


def _schema_at(handle: IcebergTable, snapshot: Snapshot) -> pa.Schema:
    schema = handle.schemas().get(snapshot.schema_id, handle.schema()) if snapshot.schema_id is not None else handle.schema()
    return arrow_schema(fields_of(schema, handle.properties))


def _version(source: str, table: Table, handle: IcebergTable, snapshot: Snapshot) -> TableVersion:
    properties = _properties(snapshot)
    return TableVersion(
        version=snapshot.snapshot_id,
        parent=snapshot.parent_snapshot_id,
        committed_at=datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC),
        operation=snapshot.summary.operation.value if snapshot.summary else "",
        marker=_marker(source, table, handle, snapshot),
        changed_days=markers.days_of_ranges(properties.get(markers.CHANGED_DAYS, "")),
        partitions=markers.partitions_of(properties) or (),
    )


def _state(source: str, table: Table, handle: IcebergTable) -> TableState:
    snapshot = handle.current_snapshot()
    assert snapshot is not None
    properties = _properties(snapshot)
    return TableState(
        current=_version(source, table, handle, snapshot),
        schema=arrow_schema(fields_of(handle.schema(), handle.properties)),
        files=int(properties.get("total-data-files", 0)),
        bytes=int(properties.get("total-files-size", 0)),
    )
