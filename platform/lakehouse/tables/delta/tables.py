"""Delta as a TableFormat: commits of our own making."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from lakehouse.errors import StoreUnavailable, Unsupported
from lakehouse.faults import effect
from lakehouse.settings import Settings
from lakehouse.spec import FieldSpec, Marker, Table
from lakehouse.stores import ObjectStore
from lakehouse.tables import marker as markers
from lakehouse.tables.columns import arrow_schema
from lakehouse.tables.datafiles import folder_name
from lakehouse.tables.delta.handle import READER, WRITER, DeltaHandle
from lakehouse.tables.delta.log import CHECKSUM, FIRST, LOG_FOLDER, PROPERTIES, ROWS, SEQUENCE, VERSION, Action, DeltaLog
from lakehouse.tables.delta.opening import open_table
from lakehouse.tables.delta.restoring import restore_log
from lakehouse.tables.delta.schema import partition_column, partition_text, rewritten, schema_json
from lakehouse.tables.delta.statistics import statistics_json
from lakehouse.tables.format import CommitMoved, CommitUnknown, DataFile, Staged, StoredFile, TableHandle
from lakehouse.tables.partitions import PartitionScheme

CHECKPOINT_EVERY = 20
"""Commits after which the state is written as a checkpoint: a reader reads it, and the commits after it."""

CONFIGURATION = {"delta.checkpointInterval": str(CHECKPOINT_EVERY), "delta.enableDeletionVectors": "false"}
ENGINE = "lakehouse"


class DeltaTables:
    """TableFormat over Delta. A table is known by its path alone."""

    def __init__(self, settings: Settings, store: ObjectStore) -> None:
        self._settings = settings
        self._store = store

    def root(self, source: str, table: str) -> str:
        return f"delta/{source}/{table}"

    def is_metadata(self, path: str) -> bool:
        return f"/{LOG_FOLDER}/" in path

    def load(self, source: str, table: Table) -> DeltaHandle | None:
        return self._handle(source, table, None)

    def check(self, source: str, table: Table, fields: Sequence[FieldSpec]) -> None:
        schema_json(f"building Delta table {source}.{table.name}", fields, table.partition)

    def stage(
        self, source: str, table: Table, handle: TableHandle | None, fields: Sequence[FieldSpec], scheme: PartitionScheme
    ) -> Staged:
        assert handle is None or isinstance(handle, DeltaHandle)
        return StagedCommit(self, source, table, handle, tuple(fields), scheme)

    def stage_anew(
        self, source: str, table: Table, handle: TableHandle, fields: Sequence[FieldSpec], scheme: PartitionScheme
    ) -> Staged:
        return self.stage(source, table, handle, fields, scheme)

    def rollback(self, source: str, table: Table, handle: TableHandle, version: int) -> TableHandle:
        assert isinstance(handle, DeltaHandle)
        table = replace(table, partition=handle.partitioning(version))
        scheme = PartitionScheme.of(table.partition, handle.schema(version))
        live, then = ({file.url: file for file in handle.files(at, scheme)} for at in (handle.current, version))
        metadata = handle.at(version).metadata()
        properties = handle.log.properties(version)
        properties |= markers.marker_properties(
            handle.marker(version), changed_days=(), partitions=(), commit_id=uuid.uuid4().hex
        )
        actions = [
            _metadata(metadata.id, table, handle.schema_json(version), metadata.configuration, metadata.created_time or 0),
            *(_remove(file) for url, file in live.items() if url not in then),
            *(
                _add(file.own, file.partition, file.bytes, handle.footer(file), table)
                for url, file in then.items()
                if url not in live
            ),
        ]
        try:
            with effect("lake.rollback"):
                self.write(handle.log, handle.current + 1, "RESTORE", actions, properties)
        except OSError as error:
            raise CommitUnknown(str(error)) from error
        return self.committed(source, table, handle.current + 1)

    def tag(self, source: str, table: Table, handle: TableHandle, name: str, version: int | None) -> None:
        raise Unsupported(
            f"naming a version of {source}.{table.name}",
            value="a Delta table: the format has no tags",
            allowed="tables declared with format='iceberg'",
            remedy="Keep the number of the version, which `lakehouse show` and `lakehouse rollback` take.",
        )

    def expire(self, source: str, table: Table, handle: TableHandle, versions: Collection[int]) -> TableHandle:
        """Files of the log from before the first version that stays are orphans afterwards, as data files are."""
        assert isinstance(handle, DeltaHandle)
        first = max(versions) + 1
        handle.files(first, PartitionScheme.of(handle.partitioning(first), handle.schema(first)))  # the checkpoint can be read
        properties = markers.marker_properties(
            handle.marker(handle.current), changed_days=(), partitions=(), commit_id=uuid.uuid4().hex
        )
        try:
            with effect("lake.expire"):
                self.write(handle.log, handle.current + 1, "VACUUM END", [_transaction(FIRST, first)], properties)
        except OSError as error:
            raise CommitUnknown(str(error)) from error
        committed = self.committed(source, table, handle.current + 1)
        self.checkpoint(committed)
        return committed

    def restore(self, source: str, table: Table) -> str | None:
        root = self.root(source, table.name)
        return restore_log(self._settings.store, self._store, root, f"{source}.{table.name}")

    def write(
        self, log: DeltaLog, version: int, operation: str, actions: Sequence[Action], properties: Mapping[str, str]
    ) -> None:
        """Claim a version with these actions, the marker and the properties; raises CommitMoved or CommitUnknown."""
        marker = markers.marker_of(properties)
        assert marker is not None
        info = {
            "timestamp": time.time_ns() // 1_000_000,
            "operation": operation,
            "operationParameters": {},
            "isBlindAppend": False,
            "readVersion": version - 1,
            "engineInfo": ENGINE,
            PROPERTIES: dict(properties),
        }
        if not version:
            del info["readVersion"]
        try:
            won = log.write(version, [{"commitInfo": info}, *actions, *_transactions(marker, version)])
        except (StoreUnavailable, OSError) as error:
            raise CommitUnknown(str(error)) from error
        if not won:
            raise CommitMoved(f"version {version} was committed by another")

    def checkpoint(self, handle: DeltaHandle) -> None:
        """Write the state of the handle's version, if it is time for that. Readers can do without: a failure is let be."""
        if not handle.current or handle.current % CHECKPOINT_EVERY:
            return
        try:
            with effect("lake.checkpoint"):
                handle.delta.create_checkpoint()
        except (DeltaError, OSError):
            return

    def _handle(self, source: str, table: Table, version: int | None) -> DeltaHandle | None:
        delta = open_table(self.root(source, table.name), self._settings.store, version)
        if delta is None:
            return None
        return DeltaHandle(source, table, self._store, self._settings.store, self.log(source, table), delta)

    def committed(self, source: str, table: Table, version: int) -> DeltaHandle:
        """The table at a version that was just committed."""
        handle = self._handle(source, table, version)
        assert handle is not None
        return handle

    def log(self, source: str, table: Table) -> DeltaLog:
        """A new view of a table's log."""
        return DeltaLog(self._store, self.root(source, table.name))

    def url(self, source: str, table: Table) -> str:
        """The address of a table."""
        return f"{self._store.url}/{self.root(source, table.name)}"


@dataclass(frozen=True)
class StagedCommit:
    """Staged: the next version of one Delta table."""

    tables: DeltaTables
    source: str
    table: Table
    handle: DeltaHandle | None
    fields: tuple[FieldSpec, ...]
    scheme: PartitionScheme

    def __post_init__(self) -> None:
        self._schema()

    @property
    def file_schema(self) -> pa.Schema:
        return pa.schema([field.with_metadata(None) for field in arrow_schema(self.fields)])

    @property
    def rewrites(self) -> bool:
        return self.handle is not None and rewritten(self.handle.fields, self.fields)

    def address(self, partition: str, name: str) -> str:
        folder = "" if self.table.partition.column is None else f"{folder_name(partition)}/"
        return f"{self.tables.url(self.source, self.table)}/{folder}{name}"

    def commit(
        self,
        *,
        removed: Collection[DataFile] | None,
        added: Sequence[StoredFile],
        properties: Mapping[str, str],
        same_rows: bool = False,
    ) -> TableHandle:
        version = 0 if self.handle is None else self.handle.current + 1
        log = self.tables.log(self.source, self.table)
        actions = list(self._actions(removed, added))
        for change in (action.get("add") or action.get("remove") for action in actions):
            if change is not None:
                change["dataChange"] = not same_rows
        operation = "OPTIMIZE" if same_rows else "MERGE" if removed else "WRITE"
        self.tables.write(log, version, operation, actions, properties)
        handle = self.tables.committed(self.source, self.table, version)
        self.tables.checkpoint(handle)
        return handle

    def _actions(self, removed: Collection[DataFile] | None, added: Sequence[StoredFile]) -> Iterator[Action]:
        schema, handle = self._schema(), self.handle
        if handle is None:
            yield {"protocol": {"minReaderVersion": READER, "minWriterVersion": WRITER}}
            configuration = {**CONFIGURATION, "lakehouse.source": self.source, "lakehouse.table": self.table.name}
            yield _metadata(str(uuid.uuid4()), self.table, schema, configuration, time.time_ns() // 1_000_000)
        elif handle.schema_json(handle.current) != schema:
            metadata = handle.delta.metadata()
            yield _metadata(metadata.id, self.table, schema, metadata.configuration, metadata.created_time or 0)
        if removed is None and handle is not None:
            removed = handle.files(handle.current, self.scheme)
        for file in removed or ():
            yield _remove(file)
        root = self.tables.url(self.source, self.table) + "/"
        for new in added:
            yield _add(quote(new.url.removeprefix(root), safe=_SAFE), new.partition, new.bytes, new.footer, self.table)

    def _schema(self) -> dict[str, Any]:
        return schema_json(f"building Delta table {self.source}.{self.table.name}", self.fields, self.table.partition)


_SAFE = "/=:@!$&'()*+,;"
"""What a path of an action may hold besides letters, digits and `-._~`; all else is percent-encoded."""


def _metadata(
    id_: object, table: Table, schema: Mapping[str, Any], configuration: Mapping[str, Any], created: int
) -> dict[str, Any]:
    column = partition_column(table.partition)
    told = {
        "id": str(id_),
        "name": table.name,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps(schema, separators=(",", ":"), ensure_ascii=False),
        "partitionColumns": [] if column is None else [column],
        "configuration": dict(configuration),
        "createdTime": created,
    }
    if table.description:
        told["description"] = table.description
    return {"metaData": told}


def _add(path: str, partition: str, size: int, footer: pq.FileMetaData, table: Table) -> dict[str, Any]:
    column = partition_column(table.partition)
    return {
        "add": {
            "path": path,
            "partitionValues": {} if column is None else {column: partition_text(partition)},
            "size": size,
            "modificationTime": time.time_ns() // 1_000_000,
            "dataChange": True,
            "stats": statistics_json(footer),
        }
    }


def _remove(file: DataFile) -> dict[str, Any]:
    return {
        "remove": {
            "path": file.own,
            "deletionTimestamp": time.time_ns() // 1_000_000,
            "dataChange": True,
            "extendedFileMetadata": False,
        }
    }


def _transactions(marker: Marker, version: int) -> Iterator[dict[str, Any]]:
    checksum = int(marker.checksum, 16)
    signed = checksum - 2**64 if checksum >= 2**63 else checksum
    for name, value in ((SEQUENCE, marker.sequence), (ROWS, marker.rows), (CHECKSUM, signed), (VERSION, version)):
        yield _transaction(name, value)


def _transaction(name: str, value: int) -> dict[str, Any]:
    return {"txn": {"appId": name, "version": value, "lastUpdated": time.time_ns() // 1_000_000}}
