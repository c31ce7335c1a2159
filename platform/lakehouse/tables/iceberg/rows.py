"""The rows of the SQL catalog as data: all that it knows, which tables there are and where the metadata of each is now.

Everything else about a table, its versions and their names among it, is in the metadata file that its row names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from pyiceberg.catalog.sql import IcebergNamespaceProperties, IcebergTables
from pyiceberg.table.snapshots import Snapshot
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lakehouse.errors import CommitConflict, WrongUse
from lakehouse.faults import effect
from lakehouse.settings import Settings
from lakehouse.spec import Marker
from lakehouse.stores import ObjectStore
from lakehouse.tables import marker as markers
from lakehouse.tables.iceberg.catalog import UNREADABLE, LakeCatalog, metadata_error
from lakehouse.tables.iceberg.restoring import METADATA_SUFFIX

VIEW = "VIEW"


@dataclass(frozen=True)
class CatalogTable:
    """One row: a table, the address of its metadata and of the one before. kind: `TABLE`, `VIEW` or, in old catalogs, none."""

    namespace: str
    table: str
    metadata: str
    previous: str | None
    kind: str | None

    @property
    def name(self) -> str:
        """`source.table`."""
        return f"{self.namespace}.{self.table}"


@dataclass(frozen=True)
class CatalogNamespace:
    """One property of a namespace; one that exists has at least one."""

    namespace: str
    key: str
    value: str


@dataclass(frozen=True)
class CatalogRows:
    """All rows of one catalog, whatever its name, in order."""

    tables: tuple[CatalogTable, ...]
    namespaces: tuple[CatalogNamespace, ...]


class CatalogCopy:
    """The catalog of a deployment, read as a whole and written as a whole. Connects when it is first used."""

    def __init__(self, settings: Settings, store: ObjectStore) -> None:
        self._settings = settings
        self._name = settings.catalog.name
        self._store = store
        self._catalog = LakeCatalog(settings, store.url)

    def read(self) -> CatalogRows:
        """Every row of the catalog, as of one moment."""
        with self._catalog.session(f"reading the catalog {self._name!r}") as session:
            return self._rows(session)

    def marker(self, row: CatalogTable) -> tuple[int, Marker] | None:
        """Version and marker in the metadata that a row names; None for a view, an empty table or another tool's version.

        Raises DamagedMetadata when the metadata cannot be read.
        """
        if row.kind == VIEW:
            return None
        try:
            snapshot = self._catalog.metadata(row.metadata).current_snapshot()
        except UNREADABLE as error:
            raise metadata_error(row.name, error, self._settings.store) from error
        if snapshot is None or snapshot.summary is None:
            return None
        marker = markers.marker_of(snapshot.summary.additional_properties)
        return None if marker is None else (snapshot.snapshot_id, marker)

    def newest(self, row: CatalogTable) -> CatalogTable | None:
        """The row led to the newest metadata that the store has and that is whole; None when there is none.

        That of a commit that lost is not whole: whoever lost has removed its files.
        """
        there = self._there(row)
        addresses = (address for address in sorted(there, reverse=True) if address.endswith(METADATA_SUFFIX))
        found = next((address for address in addresses if self._is_whole(address, there)), None)
        return None if found is None else replace(row, metadata=found, previous=None)

    def is_whole(self, row: CatalogTable) -> bool:
        """Whether the store has all that the current version of a row's metadata names."""
        return row.kind == VIEW or self._is_whole(row.metadata, self._there(row))

    def _there(self, row: CatalogTable) -> set[str]:
        """The addresses of all objects of a table."""
        folder = row.metadata.removeprefix(f"{self._store.url}/").rpartition("/metadata/")[0]
        return {self._store.url_of(info.path) for info in self._store.list(folder)}

    def _is_whole(self, address: str, there: Collection[str]) -> bool:
        try:
            snapshot = self._catalog.metadata(address).current_snapshot()
            return snapshot is None or all(named in there for named in self._named(snapshot, address))
        except UNREADABLE:
            return False

    def _named(self, snapshot: Snapshot, address: str) -> Iterator[str]:
        """The addresses of what a version is made of; each is read only when those before it are there."""
        io = self._catalog.io(address)
        yield snapshot.manifest_list
        for manifest in snapshot.manifests(io):
            yield manifest.manifest_path
            yield from (entry.data_file.file_path for entry in manifest.fetch_manifest_entry(io, discard_deleted=True))

    def holds(self, rows: CatalogRows) -> bool:
        """Whether these rows are there already; False for a catalog without tables, WrongUse for one with others."""
        with self._catalog.session(f"reading the catalog {self._name!r}") as session:
            return self._holds(session, rows)

    def write(self, rows: CatalogRows) -> bool:
        """Write the rows into a catalog without tables, in one transaction: False when they were there already.

        Raises WrongUse for a catalog with other tables, CommitConflict when one of these came into it meanwhile. After a failure
        all rows are there or none.
        """
        try:
            with self._catalog.session(f"restoring the catalog {self._name!r}") as session:
                if self._holds(session, rows):
                    return False
                known = {(row.namespace, row.key) for row in self._rows(session).namespaces}
                for namespace in rows.namespaces:
                    if (namespace.namespace, namespace.key) not in known:
                        session.execute(insert(IcebergNamespaceProperties).values(**self._namespace(namespace)))
                for table in rows.tables:
                    session.execute(insert(IcebergTables).values(**self._table(table)))
                with effect("restore.catalog"):
                    session.commit()
        except IntegrityError as error:
            raise CommitConflict(
                f"restoring the catalog {self._name!r}",
                value="another process made one of its tables meanwhile",
                allowed="a catalog that nobody works on",
                remedy="Stop runs and schedules (`lakehouse ui --stop`), empty the catalog, and run it again.",
            ) from error
        return True

    def _holds(self, session: Session, rows: CatalogRows) -> bool:
        there = self._rows(session).tables
        if {_place(row) for row in there} == {_place(row) for row in rows.tables}:
            return bool(there)
        if there:
            raise WrongUse(
                f"restoring the catalog {self._name!r}",
                value=f"{len(there)} tables: {', '.join(row.name for row in there[:10])}{', …' if there[10:] else ''}",
                allowed="a catalog without tables, or with exactly those of the backup",
                remedy="Take a table alone back to an earlier version by `lakehouse rollback`. Only if this catalog is never "
                "used again name an empty one by LAKEHOUSE_CATALOG__NAME: maintenance of one removes files that only the other "
                "knows.",
            )
        return False

    def _rows(self, session: Session) -> CatalogRows:
        kind = IcebergTables.iceberg_type if self._catalog.has_kinds else None
        columns = (
            IcebergTables.table_namespace,
            IcebergTables.table_name,
            IcebergTables.metadata_location,
            IcebergTables.previous_metadata_location,
            *([kind] if kind is not None else []),
        )
        tables = session.execute(select(*columns).where(IcebergTables.catalog_name == self._name)).all()
        properties = IcebergNamespaceProperties
        namespaces = session.execute(
            select(properties.namespace, properties.property_key, properties.property_value).where(
                properties.catalog_name == self._name
            )
        ).all()
        found = (CatalogTable(row[0], row[1], row[2] or "", row[3], row[4] if kind is not None else None) for row in tables)
        return CatalogRows(
            tuple(sorted(found, key=lambda row: row.name)),
            tuple(sorted((CatalogNamespace(*row) for row in namespaces), key=lambda row: (row.namespace, row.key))),
        )

    def _table(self, row: CatalogTable) -> dict[str, str | None]:
        values = {
            "catalog_name": self._name,
            "table_namespace": row.namespace,
            "table_name": row.table,
            "metadata_location": row.metadata,
            "previous_metadata_location": row.previous,
        }
        return values | ({"iceberg_type": row.kind} if self._catalog.has_kinds else {})

    def _namespace(self, row: CatalogNamespace) -> dict[str, str]:
        return {
            "catalog_name": self._name,
            "namespace": row.namespace,
            "property_key": row.key,
            "property_value": row.value,
        }


def _place(row: CatalogTable) -> tuple[str, str]:
    return row.name, row.metadata
