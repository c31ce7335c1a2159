"""DuckDB as the embedded engine of rows: connections that never reach for the network, and SQL quoting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
    connection.execute("set timezone = 'UTC'")
    connection.execute("set enable_progress_bar = false")
    return connection


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
