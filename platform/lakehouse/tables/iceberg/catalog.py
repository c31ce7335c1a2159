"""The SQL catalog in the platform's own Postgres database (or in an SQLite file), shared with Spark's by its name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import NamespaceAlreadyExistsError, NoSuchTableError, ValidationError
from pyiceberg.io import FileIO
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.serializers import FromInputFile
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import Transaction
from pyiceberg.table.metadata import TableMetadata
from sqlalchemy import ColumnElement, event, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from lakehouse.errors import ConfigurationError, DamagedMetadata, StoreUnavailable
from lakehouse.faults import effect
from lakehouse.network.postgres import KEEPALIVE, BoundedConnection
from lakehouse.pauses import pause
from lakehouse.settings import CatalogSettings, Settings, StoreSettings

UNREADABLE = (OSError, ValueError, TypeError, ValidationError)
"""What pyiceberg raises for a metadata file that is gone, or is none."""

_ATTEMPTS = 5
"""Two processes that make the catalog's tables at once both fail at most this often before both see them."""

TABLE_PROPERTIES = {
    "format-version": "2",
    "write.format.default": "parquet",
    "write.parquet.compression-codec": "zstd",
    "write.delete.mode": "copy-on-write",
    "write.update.mode": "copy-on-write",
    "write.merge.mode": "copy-on-write",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "history.expire.max-snapshot-age-ms": str(7 * 24 * 3600 * 1000),
    "history.expire.min-snapshots-to-keep": "20",
    "commit.manifest.min-count-to-merge": "20",
}


class _LakeSqlCatalog(SqlCatalog):
    """pyiceberg's catalog, with a fault point between a commit's metadata file and the row that makes it the current one."""

    @staticmethod
    def _write_metadata(metadata: TableMetadata, io: FileIO, metadata_path: str) -> None:
        with effect("lake.metadata"):
            SqlCatalog._write_metadata(metadata, io, metadata_path)


def bounded(settings: CatalogSettings) -> type[SqlCatalog]:
    """pyiceberg's catalog, on connections to Postgres that do not wait for ever."""

    def connect(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> BoundedConnection | None:
        if dialect.driver != "psycopg":
            return None
        seconds = max(1, math.ceil(settings.connect_seconds))
        connection = BoundedConnection.connect(**{**KEEPALIVE, "connect_timeout": str(seconds), **parameters})
        connection.answer_seconds = settings.answer_seconds
        return connection

    class BoundedCatalog(_LakeSqlCatalog):
        def _init_catalog(self) -> None:
            event.listen(self.engine, "do_connect", connect)
            super()._init_catalog()

    return BoundedCatalog


class LakeCatalog:
    """The tables of one deployment: namespace = source, table = table. Connects when it is first used."""

    def __init__(self, settings: Settings, store_url: str) -> None:
        self._settings = settings
        self._store_url = store_url
        self._catalog: SqlCatalog | None = None

    def load(self, source: str, table: str) -> IcebergTable | None:
        """A handle on the table as it stands now, or None when there is no such table."""
        with self._reaching(f"loading {source}.{table}"):
            try:
                return self._open().load_table((source, table))
            except NoSuchTableError:
                return None
            except UNREADABLE as error:
                raise metadata_error(f"{source}.{table}", error, self._settings.store) from error

    def creation(
        self, source: str, table: str, schema: Schema, spec: PartitionSpec, properties: Mapping[str, str]
    ) -> Transaction:
        """A transaction that makes the table together with its first rows; of two at once, one wins."""
        with self._reaching(f"creating {source}.{table}"):
            catalog = self._open()
            # Suppressed: another process made it in the same moment.
            with suppress(IntegrityError, NamespaceAlreadyExistsError), effect("lake.namespace"):
                catalog.create_namespace_if_not_exists(source)
            return catalog.create_table_transaction(
                (source, table),
                schema=schema,
                location=f"{self._store_url}/lake/{source}/{table}",
                partition_spec=spec,
                properties={**TABLE_PROPERTIES, **properties},
            )

    def pointers(self, source: str, table: str) -> tuple[str, str | None] | None:
        """The addresses of the metadata that the catalog has for the table, and of the one before; None for no table."""
        columns = IcebergTables.metadata_location, IcebergTables.previous_metadata_location
        with self._reaching(f"looking for {source}.{table}"), Session(self._open().engine) as session:
            found = session.execute(select(*columns).where(*self._row(source, table))).first()
            return (str(found[0]), found[1]) if found else None

    def repoint(self, source: str, table: str, old: str, new: str) -> bool:
        """Lead the table from one metadata file to another, if it is still led to the old one."""
        with self._reaching(f"restoring {source}.{table}"), Session(self._open().engine) as session:
            moved = update(IcebergTables).where(*self._row(source, table), IcebergTables.metadata_location == old)
            with effect("lake.restore"):
                result = session.execute(moved.values(metadata_location=new, previous_metadata_location=old))
                session.commit()
            return bool(getattr(result, "rowcount", 0))

    def loads(self, address: str) -> bool:
        """Whether metadata at an address can be read as that of a table."""
        try:
            self.metadata(address)
        except UNREADABLE:
            return False
        return True

    def metadata(self, address: str) -> TableMetadata:
        """The metadata at an address; raises what UNREADABLE lists for a file that is gone, or is none."""
        return FromInputFile.table_metadata(self.io(address).new_input(address))

    def io(self, address: str) -> FileIO:
        """What reads the files of a table, of which one is at an address."""
        return self._open()._load_file_io(location=address)

    @contextmanager
    def session(self, tried: str) -> Iterator[Session]:
        """A session on the catalog's database that sees, and changes, one state of it; whoever opened it commits."""
        with self._reaching(tried), Session(self._open().engine) as session:
            session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
            yield session

    @property
    def has_kinds(self) -> bool:
        """Whether the catalog's database tells tables from views: a newer column, that an old catalog has not got."""
        return self._open()._schema_version == "v1"

    def _row(self, source: str, table: str) -> tuple[ColumnElement[bool], ...]:
        catalog = self._settings.catalog.name
        return (
            IcebergTables.catalog_name == catalog,
            IcebergTables.table_namespace == source,
            IcebergTables.table_name == table,
        )

    def _open(self) -> SqlCatalog:
        if self._catalog is None:
            properties = {
                "uri": _sqlalchemy_url(self._settings.catalog.url.get_secret_value()),
                "warehouse": f"{self._store_url}/lake",
                "pool_pre_ping": "true",
                **file_io_properties(self._settings.store),
            }
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._catalog = bounded(self._settings.catalog)(self._settings.catalog.name, **properties)
                    break
                except (IntegrityError, ProgrammingError, OperationalError) as error:
                    if attempt == _ATTEMPTS or not _made_by_another(error):
                        raise
                    pause(attempt)
        assert self._catalog is not None
        return self._catalog

    @contextmanager
    def _reaching(self, tried: str) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            raise catalog_error(tried, error, self._settings) from error


def metadata_error(name: str, error: Exception, store: StoreSettings) -> DamagedMetadata | StoreUnavailable:
    """The platform's error for metadata of a table that is gone, cannot be parsed, or whose store does not answer."""
    outside = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    if outside and (error.errno is not None or "AWS Error" in str(error)):  # type: ignore[attr-defined]
        return StoreUnavailable(
            f"reading the metadata of lake table {name}",
            value=str(error),
            allowed=f"an answer from {store.endpoint or 'the object store'}",
            remedy="Look at the store, then run this again.",
        )
    return DamagedMetadata(
        f"reading the metadata of lake table {name}",
        value=f"{type(error).__name__}: {' '.join(str(error).split())[:500]}",
        allowed="the metadata file that the catalog names, as it was written",
        remedy=f"Run `lakehouse repair {name}`: the table goes back to metadata that can be read and catches up.",
    )


def file_io_properties(store: StoreSettings) -> dict[str, str]:
    """How pyiceberg reaches the object store."""
    properties = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO", "s3.region": store.region}
    properties["s3.connect-timeout"] = str(store.connect_seconds)
    properties["s3.request-timeout"] = str(store.answer_seconds)
    if store.endpoint:
        properties["s3.endpoint"] = store.endpoint
    if store.access_key and store.secret_key:
        properties["s3.access-key-id"] = store.access_key.get_secret_value()
        properties["s3.secret-access-key"] = store.secret_key.get_secret_value()
    return properties


def _made_by_another(error: DBAPIError) -> bool:
    """Whether the catalog's tables were made by another process between this one's look and its attempt."""
    said = str(error.orig)
    return "already exists" in said or "duplicate key" in said


def catalog_error(tried: str, error: OperationalError, settings: Settings) -> ConfigurationError | StoreUnavailable:
    """The platform's error for a catalog database that refuses or does not answer; the password is not in it."""
    url = make_url(_sqlalchemy_url(settings.catalog.url.get_secret_value())).render_as_string(hide_password=True)
    said = str(error.orig).strip() or type(error.orig).__name__
    if "authentication failed" in said or "does not exist" in said:
        return ConfigurationError(
            f"{tried}: opening the Iceberg catalog at {url}",
            value=said,
            allowed="a database that this user may create tables in",
            remedy="Correct LAKEHOUSE_CATALOG__URL.",
        )
    return StoreUnavailable(
        f"{tried}: asking the Iceberg catalog at {url}",
        value=said,
        allowed="a database that answers",
        remedy="Start it (`lakehouse up` starts the embedded one), then run this again.",
    )


def _sqlalchemy_url(url: str) -> str:
    """The catalog's URL with the driver that is installed; ConfigurationError for one that cannot be meant."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("postgresql", "postgres", "sqlite"):
        raise ConfigurationError(
            "opening the Iceberg catalog",
            value="a LAKEHOUSE_CATALOG__URL that is no such URL" if url else "LAKEHOUSE_CATALOG__URL is not set",
            allowed="postgresql://user:password@host:port/database, or sqlite:////absolute/file",
            remedy="Set LAKEHOUSE_CATALOG__URL, or start the embedded servers with `lakehouse up`.",
        )
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)
