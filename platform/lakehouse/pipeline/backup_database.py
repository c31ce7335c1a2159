"""The tables of a Postgres database written to files by COPY, and back, without Postgres' own programs.

All tables are read in one transaction that sees one state of the database, and written in one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pyarrow as pa
from psycopg import sql

from lakehouse.errors import ConfigurationError, ServiceFailed, Unsupported, WrongUse
from lakehouse.faults import FaultInjected, effect
from lakehouse.network.postgres import KEEPALIVE, BoundedConnection, connect_bounded
from lakehouse.pipeline.backup_manifest import CopiedDatabase, CopiedTable
from lakehouse.settings import CatalogSettings

ANSWER_SECONDS = 600.0
"""Seconds without an answer after which the server is given up: it may write or index that long."""
LOCK_SECONDS = 10
RESTORING = "lakehouse/restoring"
"""The key under which a storage says which backup it is being filled from."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class StorageTables:
    """The tables of Dagster's storage. url: its database. names: in an order in which they can be filled.

    bookkeeping: those that Dagster writes by itself, before anybody has run anything. make: makes all of them where they are not.
    """

    url: str
    names: tuple[str, ...]
    bookkeeping: frozenset[str]
    make: Callable[[], None]


def copy_out(storage: StorageTables, settings: CatalogSettings, folder: Path) -> tuple[CopiedDatabase, dict[str, int]] | None:
    """Write each table to `folder`, compressed, as `dagster/<table>.zst`; what was written, and rows by part.

    None for a database in which Dagster has not made its tables yet. Raises ServiceFailed when the server goes away.
    """
    (folder / "dagster").mkdir()
    with _connected("backing up", storage, settings) as connection:
        connection.execute("set transaction isolation level repeatable read, read only")
        schema = _schema(connection, storage)
        if schema is None:
            return None
        tables, rows = [], {}
        for name in storage.names:
            if (columns := _columns(connection, name)) is None:
                continue
            table = CopiedTable(name, columns, f"dagster/{name}.zst", _serial(connection, name, columns))
            rows[table.part] = _write_file(connection, table, folder / table.part)
            tables.append(table)
        return CopiedDatabase(schema, tuple(tables)), rows


def check_empty(storage: StorageTables, settings: CatalogSettings, copied: CopiedDatabase, name: str) -> None:
    """Refuse a storage that holds runs or events (WrongUse) or has another schema (Unsupported).

    One that is being filled from the backup of that name is no such storage. Dagster's tables are made where they are not there
    yet; nothing else is changed.
    """
    with _connected("restoring", storage, settings) as connection:
        made = _schema(connection, storage) is not None
    if not made:
        storage.make()
    with _connected("restoring", storage, settings) as connection:
        _check(connection, storage, copied, name)


def copy_in(storage: StorageTables, settings: CatalogSettings, copied: CopiedDatabase, files: dict[str, Path], name: str) -> None:
    """Fill the tables from their files, in one transaction; what Dagster wrote there by itself is replaced.

    Refuses what `check_empty` refuses. After a failure, or a kill, all of it is there or nothing; until `forget` is called the
    storage says which backup it was filled from, and is not filled from that again.
    """
    with _connected("restoring", storage, settings) as connection:
        names = sql.SQL(", ").join(sql.Identifier(table.name) for table in copied.tables)
        connection.execute(sql.SQL("set local lock_timeout = {}").format(f"{LOCK_SECONDS}s"))
        connection.execute(sql.SQL("lock table {} in access exclusive mode").format(names))
        if _check(connection, storage, copied, name):
            return
        for table_name in storage.bookkeeping & {table.name for table in copied.tables}:
            connection.execute(sql.SQL("delete from {}").format(sql.Identifier(table_name)))
        for table in copied.tables:
            _read_file(connection, table, files[table.part])
        connection.execute("insert into kvs (key, value) values (%s, %s)", (RESTORING, name))
        with effect("restore.dagster"):
            connection.commit()


def forget(storage: StorageTables, settings: CatalogSettings) -> None:
    """What was filled is a storage like any other from now on."""
    with _connected("restoring", storage, settings) as connection:
        connection.execute("delete from kvs where key = %s", (RESTORING,))
        connection.commit()


def _check(connection: BoundedConnection, storage: StorageTables, copied: CopiedDatabase, name: str) -> bool:
    """Whether the storage was filled from the backup of that name already."""
    schema = _schema(connection, storage)
    if schema != copied.schema:
        raise Unsupported(
            "restoring Dagster's storage",
            value=f"schema {schema or 'none'}",
            allowed=f"schema {copied.schema}, which the backup was made from",
            remedy="Install the release of Dagster that the backup was made with, or leave its storage out: --without-dagster.",
        )
    if connection.execute("select from kvs where key = %s and value = %s", (RESTORING, name)).fetchone() is not None:
        return True
    occupied = [
        table.name
        for table in copied.tables
        if table.name not in storage.bookkeeping
        and _one(connection, sql.SQL("select exists (select from {})").format(sql.Identifier(table.name)))
    ]
    if occupied:
        raise WrongUse(
            f"restoring Dagster's storage in the database {connection.info.dbname!r}",
            value=f"rows in {', '.join(occupied)}",
            allowed="a storage without runs, events and ticks",
            remedy="Give LAKEHOUSE_DAGSTER__URL of an empty database (with Dagster stopped: `lakehouse ui --stop`), or leave it "
            "out: --without-dagster.",
        )
    return False


def _write_file(connection: BoundedConnection, table: CopiedTable, file: Path) -> int:
    statement = sql.SQL("copy {} ({}) to stdout").format(sql.Identifier(table.name), _names(table.columns))
    with pa.output_stream(str(file), compression="zstd") as stream, connection.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for block in copy:
                stream.write(block)
        return cursor.rowcount


def _read_file(connection: BoundedConnection, table: CopiedTable, file: Path) -> None:
    statement = sql.SQL("copy {} ({}) from stdin").format(sql.Identifier(table.name), _names(table.columns))
    with pa.input_stream(str(file), compression="zstd") as stream, connection.cursor() as cursor, cursor.copy(statement) as copy:
        while block := stream.read(CHUNK):
            copy.write(block)
    if table.serial is not None:
        column, following = table.serial
        connection.execute(
            "select setval(pg_get_serial_sequence(quote_ident(%s), %s), %s, false)", (table.name, column, following)
        )


def _columns(connection: BoundedConnection, table: str) -> tuple[str, ...] | None:
    """The columns of a table in order; None when there is no such table."""
    found = connection.execute(
        "select attname from pg_attribute where attrelid = to_regclass(quote_ident(%s)) and attnum > 0 and not attisdropped"
        " order by attnum",
        (table,),
    ).fetchall()
    return tuple(str(row[0]) for row in found) or None


def _serial(connection: BoundedConnection, table: str, columns: Sequence[str]) -> tuple[str, int] | None:
    """The column that a sequence numbers, and its next number: readers of events remember the last one that they saw."""
    for column in columns:
        sequence = _one(connection, "select pg_get_serial_sequence(quote_ident(%s), %s)", (table, column))
        if sequence is not None:
            query = sql.SQL("select last_value + is_called::int from {}").format(sql.Identifier(*str(sequence).split(".")))
            return column, int(str(_one(connection, query)))
    return None


def _schema(connection: BoundedConnection, storage: StorageTables) -> str | None:
    """The version of the storage's schema; None where Dagster has not made it."""
    if _columns(connection, "alembic_version") is None or _columns(connection, storage.names[-1]) is None:
        return None
    return str(_one(connection, "select string_agg(version_num, ', ' order by version_num) from alembic_version"))


def _one(connection: BoundedConnection, query: str | sql.Composed, values: Sequence[object] = ()) -> object:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(name) for name in columns)


@contextmanager
def _connected(doing: str, storage: StorageTables, settings: CatalogSettings) -> Iterator[BoundedConnection]:
    """A connection in a transaction, which is undone unless it was committed; the platform's errors for the server's."""
    tried = f"{doing} Dagster's storage"
    if not storage.url:
        raise ConfigurationError(
            tried,
            value="LAKEHOUSE_DAGSTER__URL is not set",
            allowed="postgresql://user:password@host:port/database",
            remedy="Set it, or leave Dagster's storage out: --without-dagster.",
        )
    seconds = str(max(1, math.ceil(settings.connect_seconds)))
    try:
        parameters = {**KEEPALIVE, "connect_timeout": seconds}
        with connect_bounded(storage.url, answer_seconds=ANSWER_SECONDS, **parameters) as connection:
            connection.autocommit = False
            try:
                yield connection
            finally:
                if not connection.closed:
                    connection.rollback()
    except (psycopg.Error, FaultInjected) as error:
        raise ServiceFailed(
            tried,
            value=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            allowed="a Postgres that answers, and in which nobody else holds Dagster's tables",
            remedy="Start it (`lakehouse up`: the embedded one), stop Dagster (`lakehouse ui --stop`), then run this again.",
        ) from error
