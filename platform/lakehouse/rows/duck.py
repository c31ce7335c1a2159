"""DuckDB as the embedded engine of rows: connections that never reach for the network, and SQL quoting."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def connect_duckdb(
    *, threads: int = 2, memory_limit_mb: int = 1024, temp_directory: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB in UTC that installs nothing by itself; spills to `temp_directory` beyond `memory_limit_mb` MiB."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": threads,
        "memory_limit": f"{memory_limit_mb}MiB",
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if temp_directory is not None:
        temp_directory.mkdir(parents=True, exist_ok=True)
        config["temp_directory"] = str(temp_directory)
    connection = duckdb.connect(config=config)
    _settle(connection)
    return connection


def _settle(connection: duckdb.DuckDBPyConnection) -> None:
    """What each connection to a database is told."""
    connection.execute("set timezone = 'UTC'")
    connection.execute("set enable_progress_bar = false")


KEPT = 4
"""Idle databases that a process keeps of each number of threads."""


@dataclass
class _Database:
    """An in-memory DuckDB that one borrower at a time works with, and what it was last told."""

    root: duckdb.DuckDBPyConnection
    memory_limit_mb: int

    def told(self, memory_limit_mb: int, temp_directory: Path) -> bool:
        """Tell it a borrower's limits. False: it has spilled, and DuckDB never changes the folder of one that has."""
        temp_directory.mkdir(parents=True, exist_ok=True)
        try:
            self.root.execute(f"set temp_directory = {literal(str(temp_directory))}")
        except duckdb.Error:
            return False
        if memory_limit_mb != self.memory_limit_mb:
            self.root.execute(f"set memory_limit = '{memory_limit_mb}MiB'")
            self.memory_limit_mb = memory_limit_mb
        return True


_idle: dict[int, deque[_Database]] = {}
_left_behind: list[object] = []
"""Databases of the process that this one was forked from: their threads are not here, so that closing one would wait for ever."""


def _forked() -> None:
    global _idle
    _left_behind.append(_idle)
    _idle = {}


os.register_at_fork(after_in_child=_forked)


@contextmanager
def borrowed_duckdb(*, memory_limit_mb: int, temp_directory: Path, threads: int = 2) -> Iterator[duckdb.DuckDBPyConnection]:
    """As `connect_duckdb`, by a database that earlier work of this process is done with, if there is one.

    To make one is 20 ms of CPU, as much as all the rest of folding a small batch.

    For work whose tables, views and registered relations are all temporary: they end with the context. Functions, attached
    databases and tables of any other kind would stay. Work that raises ends its database with it.
    """
    idle = _idle.setdefault(threads, deque())
    try:
        database: _Database | None = idle.pop()
    except IndexError:
        database = None
    if database is not None and not database.told(memory_limit_mb, temp_directory):
        database.root.close()
        database = None
    if database is None:
        made = connect_duckdb(threads=threads, memory_limit_mb=memory_limit_mb, temp_directory=temp_directory)
        database = _Database(made, memory_limit_mb)
    try:
        with database.root.cursor() as connection:
            _settle(connection)
            yield connection
    except BaseException:
        database.root.close()
        raise
    if len(idle) < KEPT:
        idle.append(database)
    else:
        database.root.close()


def load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an extension from its PyPI package (`duckdb-extension-<name>`), never from the network."""
    module = __import__(f"duckdb_extension_{name}")
    path = next(Path(str(module.__file__)).parent.rglob("*.duckdb_extension"))
    connection.execute(f"load {literal(str(path))}")


@contextmanager
def incoming(
    connection: duckdb.DuckDBPyConnection, name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema
) -> Iterator[None]:
    """Batches as the relation `name`, to be read once, batch by batch, while the context lasts.

    An error that the batches raise leaves the context as itself, not as a text inside of an error of DuckDB's.
    """
    raised: list[BaseException] = []

    def pulled() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:
            raised.append(error)
            raise

    connection.register(name, pa.RecordBatchReader.from_batches(schema, pulled()))
    try:
        yield
    except Exception:
        if raised:
            raise raised[0] from None
        raise
    finally:
        connection.unregister(name)
