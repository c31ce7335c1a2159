"""Iceberg as a TableFormat: pyiceberg's catalog and metadata, snapshots of our own making."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from pyiceberg.table import Transaction
from pyiceberg.table.update.snapshot import ExpireSnapshots, ManageSnapshots

from lakehouse.faults import effect
from lakehouse.settings import Settings
from lakehouse.spec import FieldSpec, Table
from lakehouse.stores import ObjectStore
from lakehouse.tables.datafiles import folder_name
from lakehouse.tables.format import CommitMoved, CommitUnknown, DataFile, Staged, StoredFile, TableHandle
from lakehouse.tables.iceberg.anew import stage_anew
from lakehouse.tables.iceberg.catalog import LakeCatalog
from lakehouse.tables.iceberg.commit import MOVED, RETRIES, UNKNOWN, Unmoved, commit_snapshot
from lakehouse.tables.iceberg.handle import IcebergHandle
from lakehouse.tables.iceberg.restoring import METADATA_SUFFIX, restore_metadata
from lakehouse.tables.iceberg.schema import file_schema, new_schema, new_spec, stage_evolution, type_properties
from lakehouse.tables.partitions import PartitionScheme


class IcebergTables:
    """TableFormat over Iceberg."""

    def __init__(self, settings: Settings, store: ObjectStore) -> None:
        self._store = store
        self._catalog = LakeCatalog(settings, store.url)

    def root(self, source: str, table: str) -> str:
        return f"lake/{source}/{table}"

    def is_metadata(self, path: str) -> bool:
        return path.endswith(METADATA_SUFFIX)

    def load(self, source: str, table: Table) -> IcebergHandle | None:
        handle = self._catalog.load(source, table.name)
        return IcebergHandle(source, table, handle) if handle is not None else None

    def check(self, source: str, table: Table, fields: Sequence[FieldSpec]) -> None:
        """Iceberg takes every name."""

    def stage(
        self, source: str, table: Table, handle: TableHandle | None, fields: Sequence[FieldSpec], scheme: PartitionScheme
    ) -> Staged:
        if handle is not None:
            assert isinstance(handle, IcebergHandle)
            transaction = handle.iceberg.transaction()
            stage_evolution(transaction, handle.fields, fields, table.names_today({field.name for field in handle.fields}))
            return StagedSnapshot(source, table, transaction, handle, scheme)
        schema = new_schema(fields, table.key)
        properties = {"lakehouse.source": source, "lakehouse.table": table.name, **type_properties(fields)}
        if table.description:
            properties["comment"] = table.description
        created = self._catalog.creation(source, table.name, schema, new_spec(table.partition, schema), properties)
        return StagedSnapshot(source, table, created, None, scheme)

    def stage_anew(
        self, source: str, table: Table, handle: TableHandle, fields: Sequence[FieldSpec], scheme: PartitionScheme
    ) -> Staged:
        assert isinstance(handle, IcebergHandle)
        transaction = handle.iceberg.transaction()
        stage_anew(transaction, table, fields)
        return StagedSnapshot(source, table, transaction, handle, scheme)

    def rollback(self, source: str, table: Table, handle: TableHandle, version: int) -> TableHandle:
        assert isinstance(handle, IcebergHandle)
        with _once(handle) as transaction, effect("lake.rollback"):
            ManageSnapshots(transaction).set_current_snapshot(snapshot_id=version).commit()
            transaction.commit_transaction()
        return handle

    def tag(self, source: str, table: Table, handle: TableHandle, name: str, version: int | None) -> None:
        assert isinstance(handle, IcebergHandle)
        with _once(handle) as transaction, effect("lake.tag"):
            snapshots = ManageSnapshots(transaction)
            (snapshots.remove_tag(name) if version is None else snapshots.create_tag(version, name)).commit()
            transaction.commit_transaction()

    def expire(self, source: str, table: Table, handle: TableHandle, versions: Collection[int]) -> TableHandle:
        assert isinstance(handle, IcebergHandle)
        with _once(handle) as transaction, effect("lake.expire"):
            ExpireSnapshots(transaction).by_ids(list(versions)).commit()
            transaction.commit_transaction()
        return handle

    def restore(self, source: str, table: Table) -> str | None:
        return restore_metadata(self._catalog, self._store, source, table.name)


@contextmanager
def _once(handle: IcebergHandle) -> Iterator[Transaction]:
    """A transaction that goes through only if nobody has committed anything since the handle was loaded, and is tried once.

    pyiceberg itself would expire versions, or name them, over whatever was committed in between: over a rollback to one of them.
    Its errors are those of the seam.
    """
    handle.iceberg.metadata.properties[RETRIES] = "0"
    transaction = handle.iceberg.transaction()
    transaction._stage((), (Unmoved.since(handle.iceberg.metadata),))  # type: ignore[arg-type]  # it knows its own only
    try:
        yield transaction
    except MOVED as error:
        raise CommitMoved(str(error)) from error
    except UNKNOWN as error:
        raise CommitUnknown(str(error)) from error


@dataclass(frozen=True)
class StagedSnapshot:
    """Staged: one snapshot in one transaction of pyiceberg's."""

    source: str
    table: Table
    transaction: Transaction
    handle: IcebergHandle | None
    scheme: PartitionScheme

    rewrites = False

    @property
    def file_schema(self) -> pa.Schema:
        metadata = self.transaction.table_metadata
        return file_schema(metadata.schema(), metadata.properties)

    def address(self, partition: str, name: str) -> str:
        folder = "" if self.table.partition.column is None else f"{folder_name(partition)}/"
        return f"{self.transaction.table_metadata.location}/data/{folder}{name}"

    def commit(
        self,
        *,
        removed: Collection[DataFile] | None,
        added: Sequence[StoredFile],
        properties: Mapping[str, str],
        same_rows: bool = False,
    ) -> TableHandle:
        before = self.handle.iceberg if self.handle is not None else None
        gone = None if removed is None else [file.own.file for file in removed]
        place = self.transaction, before, self.scheme
        try:
            committed = commit_snapshot(*place, removed=gone, added=added, properties=properties, same_rows=same_rows)
        except MOVED as error:
            raise CommitMoved(str(error)) from error
        except UNKNOWN as error:
            raise CommitUnknown(str(error)) from error
        return IcebergHandle(self.source, self.table, committed)
