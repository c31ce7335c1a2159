"""One Delta table as it stood when it was loaded, in the terms of `lakehouse.tables.format`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from lakehouse.errors import DamagedData, Unsupported, WrongUse
from lakehouse.settings import StoreSettings
from lakehouse.spec import FieldSpec, Marker, Partitioning, Table
from lakehouse.stores import ObjectStore
from lakehouse.tables import marker as markers
from lakehouse.tables.columns import arrow_schema
from lakehouse.tables.datafiles import DataFiles
from lakehouse.tables.delta.log import CHECKSUM, FIRST, ROWS, SEQUENCE, VERSION, DeltaLog
from lakehouse.tables.delta.opening import open_table
from lakehouse.tables.delta.schema import check_partitioning, fields_of, partition_name, partitioning_of
from lakehouse.tables.engine import TableState, TableVersion
from lakehouse.tables.filesystem import opener
from lakehouse.tables.format import DataFile
from lakehouse.tables.partitions import PartitionScheme

READER, WRITER = 1, 2
"""The versions of Delta's protocol that the platform writes, and the newest that it reads and adds to."""


class DeltaHandle:
    """TableHandle over delta-rs's snapshot and the commits of the log."""

    def __init__(
        self, source: str, table: Table, store: ObjectStore, settings: StoreSettings, log: DeltaLog, delta: DeltaTable
    ) -> None:
        self.delta = delta
        self.log = log
        self._source = source
        self._table = table
        self._settings = settings
        self._root = log.root
        self._store_url = store.url
        opened = opener(settings)
        self._reader = DataFiles(lambda url: opened(url.removeprefix(store.url + "/")), settings.endpoint or "the object store")
        self._versions = {delta.version(): delta}
        _check_protocol(f"{source}.{table.name}", delta)

    @property
    def current(self) -> int:
        return int(self.delta.version())

    @property
    def address(self) -> str:
        return f"{self._store_url}/{self._root}"

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        return fields_of(self.schema_json(self.current))

    def schema_json(self, version: int) -> Mapping[str, Any]:
        """The Delta schema of a version."""
        found: Mapping[str, Any] = json.loads(self.at(version).schema().to_json())
        return found

    def at(self, version: int) -> DeltaTable:
        """delta-rs's view of a version."""
        if version not in self._versions:
            found = open_table(self._root, self._settings, version)
            assert found is not None
            self._versions[version] = found
        return self._versions[version]

    def check_partitioning(self, table: Table) -> None:
        columns, fields = self.delta.metadata().partition_columns, self.schema_json(self.current)["fields"]
        check_partitioning(f"applying to {self._source}.{table.name}", columns, fields, table.partition)

    def partitioning(self, version: int) -> Partitioning:
        return partitioning_of(self.at(version).metadata().partition_columns, self.schema_json(version)["fields"])

    def version(self, version: int | None) -> int:
        if version is None or version == self.current:
            return self.current
        if version not in self._readable:
            raise WrongUse(
                f"reading {self._source}.{self._table.name} at a version",
                value=version,
                allowed=", ".join(map(str, self._readable[-10:])),
                remedy=f"See `lakehouse show {self._source}.{self._table.name}` for the versions that can still be read.",
            )
        return version

    def schema(self, version: int) -> pa.Schema:
        return arrow_schema(fields_of(self.schema_json(version)))

    def marker(self, version: int) -> Marker:
        found = self._marker(version)
        if found is None:
            name = f"{self._source}.{self._table.name}"
            raise DamagedData(
                f"reading the marker of {name}, version {version}",
                value="a commit without one",
                allowed="commits by this platform, and rewrites that change no rows",
                remedy=f"Another tool wrote to the table: run `lakehouse repair {name}`, or go back to a version of ours "
                f"(`lakehouse rollback {name}`).",
            )
        return found

    def at_sequence(self, sequence: int) -> int | None:
        for version in reversed(self._readable):
            found = self._marker(version)
            if found is not None and found.sequence == sequence:
                return version
        return None

    def committed(self, commit_id: str) -> int | None:
        readable = self.log.fetched([*reversed(self._readable)])
        return next((at for at in readable if self.log.properties(at).get(markers.COMMIT) == commit_id), None)

    def history(self) -> list[TableVersion]:
        return [self._told(version) for version in self.log.fetched(self._readable) if self._marker(version) is not None]

    def tags(self) -> Mapping[str, int]:
        return {}

    def state(self, version: int | None = None) -> TableState:
        at = self.version(version)
        sizes = self._actions(at).column("size_bytes").to_pylist()
        return TableState(self._told(at), self.schema(at), len(sizes), sum(sizes))

    def files(self, version: int, scheme: PartitionScheme) -> list[DataFile]:
        actions = self._actions(version)
        columns = self.at(version).metadata().partition_columns
        texts = actions.column(f"partition.{columns[0]}").to_pylist() if columns else [None] * len(actions)
        found = [
            DataFile(self._address(path), partition_name(scheme, text), rows, size, own=path)
            for path, size, rows, text in zip(
                *(actions.column(name).to_pylist() for name in ("path", "size_bytes", "num_records")), texts, strict=True
            )
        ]
        return sorted((file if file.rows is not None else self._counted(file) for file in found), key=lambda file: file.url)

    def batches(self, file: DataFile, schema: pa.Schema, *, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        return self._reader.batches(file.url, schema, columns=columns)

    def encoded_batches(
        self, file: DataFile, schema: pa.Schema, *, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        return self._reader.encoded_batches(file.url, schema, columns=columns)

    def download(self, file: DataFile, schema: pa.Schema, local: Path) -> Path:
        return self._reader.copy(file.url, local)

    def footer(self, file: DataFile) -> Any:
        """The footer of a data file."""
        return self._reader.footer(file.url)

    def referenced(self) -> frozenset[str]:
        """Also the files of old versions, as far as the log tells, whether they are still there or not."""
        found = {self._address(path) for path in self._actions(self.current).column("path").to_pylist()}
        for version in self.log.fetched(self._readable):
            for action in self.log.actions(version):
                file = action.get("add") or action.get("remove")
                if file:
                    found.add(self._address(file["path"]))
        return frozenset(found | {f"{self._store_url}/{path}" for path in self.log.names_from(self._first)})

    def superseded(self) -> Mapping[int, datetime]:
        left: dict[int, datetime] = {}
        list(self.log.fetched(self._readable))
        following = self._committed_at(self.current) or datetime.now(UTC)
        for version in reversed(self._readable[:-1]):
            following = self._committed_at(version + 1) or following
            left[version] = following
        return left

    def currents(self) -> Sequence[tuple[int, datetime]]:
        list(self.log.fetched(self._readable))
        told = ((version, self._committed_at(version)) for version in self._readable)
        return [(version, at) for version, at in told if at is not None]

    def expirable(self, kept: Collection[int]) -> tuple[int, ...]:
        """A log can only be cut where it has a checkpoint: what is kept and its marker come after that."""
        first = min({self.current, *kept} & set(self._readable))
        while self.log.has(first) and first - 1 in self._readable and markers.marker_of(self.log.properties(first)) is None:
            first -= 1
        cut = max((version for version in self.log.checkpoints() if version <= first), default=0)
        return tuple(version for version in self._readable if version < cut)

    @cached_property
    def _readable(self) -> list[int]:
        return [version for version in self.log.readable(self.current) if version >= self._first]

    @property
    def _first(self) -> int:
        """The first version that is not expired."""
        return self.delta.transaction_version(FIRST) or 0

    def _committed_at(self, version: int) -> datetime | None:
        """When a version was committed, by the clock of who did; None when its commit is gone or does not say."""
        at = self.log.info(version).get("timestamp") if self.log.has(version) else None
        return None if at is None else datetime.fromtimestamp(at / 1000, UTC)

    def _actions(self, version: int) -> pa.Table:
        return pa.table(self.at(version).get_add_actions(flatten=True))

    def _address(self, path: str) -> str:
        """The address of the file that an action names; another tool may have named it by its whole address."""
        return unquote(path) if "://" in path else f"{self._store_url}/{self._root}/{unquote(path)}"

    def _counted(self, file: DataFile) -> DataFile:
        """A file whose writer kept no statistics."""
        return DataFile(file.url, file.partition, self.footer(file).num_rows, file.bytes, own=file.own)

    def _marker(self, version: int) -> Marker | None:
        """The marker of a version: of its own commit, or of an earlier one that no commit has changed the rows of since."""
        delta = self.at(version) if version in self._versions else None
        if delta is not None and (marked := delta.transaction_version(VERSION)) is not None:
            since = range(marked + 1, version + 1)
            if any(self.log.changes_rows(number) for number in since):
                return None
            checksum = (delta.transaction_version(CHECKSUM) or 0) % 2**64
            return Marker(delta.transaction_version(SEQUENCE) or 0, delta.transaction_version(ROWS) or 0, f"{checksum:016x}")
        for number in range(version, -1, -1):
            if number not in self._readable or not self.log.has(number):
                return None
            if found := markers.marker_of(self.log.properties(number)):
                return found
            if self.log.changes_rows(number):
                return None
        return None

    def _told(self, version: int) -> TableVersion:
        properties, info = self.log.properties(version), self.log.info(version)
        return TableVersion(
            version=version,
            parent=version - 1 if version else None,
            committed_at=datetime.fromtimestamp(info.get("timestamp", 0) / 1000, UTC),
            operation=str(info.get("operation", "")).lower(),
            marker=self.marker(version),
            changed_days=markers.days_of_ranges(properties.get(markers.CHANGED_DAYS, "")),
            partitions=markers.partitions_of(properties) or (),
        )


def _check_protocol(name: str, delta: DeltaTable) -> None:
    found = delta.protocol()
    if found.min_reader_version > READER or found.min_writer_version > WRITER:
        features = [*(found.reader_features or ()), *(found.writer_features or ())]
        raise Unsupported(
            f"reading Delta table {name}",
            value=f"reader {found.min_reader_version}, writer {found.min_writer_version}: {', '.join(features) or 'no features'}",
            allowed=f"tables up to reader {READER} and writer {WRITER}, as this platform makes them",
            remedy="Another tool has upgraded the table: drop the feature there, or build the table under another name.",
        )
