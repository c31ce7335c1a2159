"""One apply of log entries to one Iceberg table: base, fold, upload, commit."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import duckdb
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import Transaction

from lakehouse.errors import CommitConflict, StoreUnavailable
from lakehouse.rows.checksum import EMPTY
from lakehouse.rows.duck import connect_duckdb
from lakehouse.settings import Settings
from lakehouse.spec import FieldSpec, LogEntry, Marker, Table
from lakehouse.stores import ObjectStore, refuse_late, started
from lakehouse.tables import marker as markers
from lakehouse.tables.batches import LocalBatch, fetch_batches, needed_entries
from lakehouse.tables.columns import arrow_schema, field_specs
from lakehouse.tables.engine import Applied
from lakehouse.tables.evolution import evolved_fields, rewrites_text
from lakehouse.tables.folding import Fold, FoldResult, OldPartition, folding
from lakehouse.tables.iceberg.catalog import LakeCatalog
from lakehouse.tables.iceberg.commit import MOVED, UNKNOWN, StoredFile, commit_snapshot
from lakehouse.tables.iceberg.files import LiveFile, download, file_batches, file_name, live_files
from lakehouse.tables.iceberg.schema import (
    check_spec,
    field_ids,
    fields_of,
    new_schema,
    new_spec,
    stage_evolution,
    type_properties,
)
from lakehouse.tables.iceberg.versions import marker_at, properties_of, schema_at, state_of
from lakehouse.tables.partitions import PartitionScheme
from lakehouse.tables.scratch import scratch_folder

NEVER = Marker(0, 0, EMPTY.hex)
"""The marker of a table that holds nothing yet."""

TRANSFERS = 4
"""Files that are copied to or from the store at once."""

LONGEST_FOLDER = 120
"""Characters of a partition's folder beyond which it is named by a number: file systems allow 255 bytes."""


@dataclass(frozen=True)
class Base:
    """What an apply starts from, all of it read from one handle.

    fields: the columns of the table. marked: those it had when the marker's checksum was taken; older ones after a rollback.
    """

    handle: IcebergTable | None
    marker: Marker
    fields: tuple[FieldSpec, ...]
    marked: tuple[FieldSpec, ...]

    @property
    def snapshot_id(self) -> int | None:
        """The snapshot that is current, None for a table without one."""
        snapshot = self.handle.current_snapshot() if self.handle else None
        return snapshot.snapshot_id if snapshot else None


def read_base(catalog: LakeCatalog, source: str, table: Table) -> Base:
    """The table as it stands; SchemaChanged when it is partitioned in another way than it is declared."""
    base = read_unmarked_base(catalog, source, table)
    handle, fields = base.handle, base.fields
    snapshot = handle.current_snapshot() if handle is not None else None
    if handle is None or snapshot is None:
        return base
    return Base(handle, marker_at(source, table, handle, snapshot), fields, field_specs(schema_at(handle, snapshot)))


def read_unmarked_base(catalog: LakeCatalog, source: str, table: Table) -> Base:
    """The table as if it held nothing: what a fold of the whole log starts from. Raises as `read_base`, without its marker."""
    handle = catalog.load(source, table.name)
    if handle is None:
        return Base(None, NEVER, (), ())
    check_spec(f"applying to {source}.{table.name}", handle.spec(), table.partition, handle.schema())
    fields = fields_of(handle.schema(), handle.properties)
    return Base(handle, NEVER, fields, fields)


def pending_entries(source: str, table: Table, watermark: int, entries: Sequence[LogEntry]) -> list[LogEntry]:
    """The entries after the watermark; CommitConflict when they do not follow on it without a gap, for rows would be lost.

    What comes before a snapshot may have a gap: nothing of it counts any more.
    """
    pending = sorted((entry for entry in entries if entry.sequence > watermark), key=lambda entry: entry.sequence)
    begun = max((index for index, entry in enumerate(pending) if entry.manifest.kind == "snapshot"), default=None)
    followed = pending if begun is None else pending[begun:]
    for expected, entry in enumerate(followed, start=watermark + 1 if begun is None else followed[0].sequence):
        if entry.sequence != expected:
            raise CommitConflict(
                f"applying to {source}.{table.name}, whose watermark is {watermark}",
                value=f"entry {entry.sequence} where {expected} should follow",
                allowed="all entries after the watermark, in order",
                remedy="Read the watermark and the raw log again, then apply; the table may have been rolled back meanwhile.",
            )
    return pending


def conflict(tried: str, error: Exception) -> CommitConflict:
    """The error of a commit that did not go through because the table moved."""
    return CommitConflict(
        tried,
        value=f"{type(error).__name__}: {error}",
        allowed="a table that nobody moved since it was read",
        remedy="Call it again: it reads the watermark anew and applies what is left.",
    )


@dataclass
class Apply:
    """Log entries that are to be folded into a table as `base` shows it.

    rebuild: nothing of the table's rows is read or kept, since they may be damaged; `base` then has the marker of an empty table.
    """

    settings: Settings
    store: ObjectStore
    catalog: LakeCatalog
    source: str
    table: Table
    base: Base
    pending: Sequence[LogEntry]
    rebuild: bool = False
    commit_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.anew = self.rebuild or (self.table.mode != "snapshot" and _has_snapshot(self.pending))
        manifests = [entry.manifest for entry in self.pending]
        self.fields = evolved_fields(self.source, self.table, self.base.fields, manifests)
        self.schema = arrow_schema(self.fields)
        self.scheme = PartitionScheme.of(self.table.partition, self.schema)
        self.every_row = rewrites_text(self.base.marked, self.fields)

    def run(self, files_root: str) -> Applied:
        """Fetch, fold, upload, commit."""
        with scratch_folder(self.settings.home / "tmp") as folder:
            batches = fetch_batches(self.store, files_root, needed_entries(self.table, self.pending), folder / "raw")
            transaction = self._transaction()
            old: dict[str, list[LiveFile]] = {}
            if self.base.handle is not None and not self.anew:
                for file in live_files(self.base.handle, self.scheme, self.base.snapshot_id):
                    old.setdefault(file.partition, []).append(file)
            result = self._fold(transaction, batches, old, folder)
            return self._commit(transaction, old, result)

    def _transaction(self) -> Transaction:
        if self.base.handle is not None:
            transaction = self.base.handle.transaction()
            stage_evolution(transaction, self.base.fields, self.fields)
            return transaction
        schema = new_schema(self.fields, self.table.key)
        properties = {
            "lakehouse.source": self.source,
            "lakehouse.table": self.table.name,
            **type_properties(self.fields),
        }
        if self.table.description:
            properties["comment"] = self.table.description
        spec = new_spec(self.table.partition, schema)
        return self.catalog.creation(self.source, self.table.name, schema, spec, properties)

    def _fold(
        self, transaction: Transaction, batches: Sequence[LocalBatch], old: dict[str, list[LiveFile]], folder: Path
    ) -> FoldResult:
        limit = self.settings.memory_limit_mb
        tried = f"folding {self.source}.{self.table.name}"
        spill = folder / "spill"
        with (
            connect_duckdb(threads=self.settings.threads, memory_limit_mb=limit, temp_directory=spill) as connection,
            connect_duckdb(threads=1, memory_limit_mb=max(limit // 4, 64), temp_directory=spill / "aside") as aside,
            folding(tried, limit),
        ):
            return self._fold_with(connection, aside, transaction, batches, old, folder)

    def _fold_with(
        self,
        connection: duckdb.DuckDBPyConnection,
        aside: duckdb.DuckDBPyConnection,
        transaction: Transaction,
        batches: Sequence[LocalBatch],
        old: dict[str, list[LiveFile]],
        folder: Path,
    ) -> FoldResult:
        self.scheme.prepare(connection)
        fold = Fold(
            connection=connection,
            aside=aside,
            table=self.table,
            schema=self.schema,
            scheme=self.scheme,
            field_ids=field_ids(transaction.table_metadata.schema()),
            batches=batches,
            folder=folder / "fold",
            old={name: self._old_partition(files, folder / "old") for name, files in old.items()},
            memory_bytes=self.settings.memory_limit_mb << 20,
            every_row=self.every_row,
        )
        new = fold.new_rows()
        if self.table.mode == "upsert":
            fold.collect_keys()
        touched = self._touched(fold, {name for rows in new.values() for name in rows}, old)
        return fold.run(sorted(touched), new)

    def _old_partition(self, files: Sequence[LiveFile], folder: Path) -> OldPartition:
        return OldPartition(sum(file.task.file.file_size_in_bytes for file in files), partial(self._fetch, files, folder))

    def _fetch(self, files: Sequence[LiveFile], folder: Path) -> list[Path]:
        handle = self.base.handle
        assert handle is not None
        folder.mkdir(exist_ok=True)
        with ThreadPoolExecutor(TRANSFERS) as pool:
            return list(pool.map(lambda file: download(handle, file, self.schema, folder / f"{uuid.uuid4().hex}.parquet"), files))

    def _touched(self, fold: Fold, new: set[str], old: dict[str, list[LiveFile]]) -> set[str]:
        """The partitions whose rows can change."""
        if self.table.mode == "snapshot" or self.every_row:
            return new | old.keys()
        if self.table.mode == "append":
            windows = [batch.manifest.window for batch in fold.batches if batch.manifest.window is not None]
            return new | self.scheme.overlapped(list(old), windows)
        if fold.separable:
            return new
        return new | {name for name, files in old.items() if name not in new and self._holds_touched_key(fold, files)}

    def _holds_touched_key(self, fold: Fold, files: Sequence[LiveFile]) -> bool:
        """Whether a partition has an old version of a key that the batches bring: its key columns are read."""
        handle = self.base.handle
        assert handle is not None
        key = list(self.table.key)
        return any(fold.holds_touched_key(file_batches(handle, file, self.schema, columns=key)) for file in files)

    def _commit(self, transaction: Transaction, old: dict[str, list[LiveFile]], result: FoldResult) -> Applied:
        marker, days = self._marker(result), tuple(sorted(result.days))
        partitions = tuple(sorted({self.scheme.shown(name) for name in result.changed}))
        properties = markers.marker_properties(marker, changed_days=days, partitions=partitions, commit_id=self.commit_id)
        began = started()
        stored = self._upload(transaction, result)
        refuse_late(f"committing to {self.source}.{self.table.name}", began, self.settings.longest_write_hours)
        removed = None if self.anew else [file.task.file for name in result.changed for file in old.get(name, ())]
        try:
            handle = commit_snapshot(transaction, self.base.handle, removed=removed, added=stored, properties=properties)
        except (*MOVED, *UNKNOWN) as error:
            handle = self._after_failure(stored, error)
        rows = sum(file.rows for file in result.files)
        return Applied(state_of(self.source, self.table, handle), len(self.pending), partitions, days, rows)

    def _marker(self, result: FoldResult) -> Marker:
        whole = self.every_row or self.anew
        total = EMPTY if whole else markers.row_checksum(self.base.marker)
        for old, new in result.sums.values():
            total = total + new if whole else total - old + new
        return Marker(self.pending[-1].sequence, total.rows, total.hex)

    def _upload(self, transaction: Transaction, result: FoldResult) -> list[StoredFile]:
        location = transaction.table_metadata.location
        stored = []
        for index, file in enumerate(result.files):
            folder = "" if self.table.partition.column is None else f"{_folder_name(file.partition)}/"
            url = f"{location}/data/{folder}{file_name(self.commit_id, index, file.path)}"
            stored.append(StoredFile(url, self.scheme.value(file.partition), file.path))
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda file: self.store.upload(file.local, self._path(file.url)), stored))
        return stored

    def _path(self, url: str) -> str:
        return url.removeprefix(self.store.url + "/")

    def _after_failure(self, stored: Sequence[StoredFile], error: Exception) -> IcebergTable:
        """The table, if the commit went through although its answer did not come; CommitConflict otherwise."""
        handle = self.catalog.load(self.source, self.table.name)
        if handle is not None:
            for snapshot in handle.metadata.snapshots:
                if properties_of(snapshot).get(markers.COMMIT) == self.commit_id:
                    return handle
        if isinstance(error, MOVED):
            for file in stored:
                self.store.delete(self._path(file.url))
        tried = f"committing entries {self.pending[0].sequence} to {self.pending[-1].sequence} to {self.source}.{self.table.name}"
        if isinstance(error, OSError):
            raise StoreUnavailable(
                tried,
                value=str(error),
                allowed=f"an answer from {self.settings.store.endpoint or 'the object store'}",
                remedy="Look at the store, then run this again: nothing was committed.",
            ) from error
        raise conflict(tried, error) from error


def _has_snapshot(entries: Sequence[LogEntry]) -> bool:
    return any(entry.manifest.kind == "snapshot" for entry in entries)


def _folder_name(partition: str) -> str:
    if len(partition) <= LONGEST_FOLDER:
        return partition
    return f"{partition[:60]}~{uuid.uuid5(uuid.NAMESPACE_URL, partition).hex}"
