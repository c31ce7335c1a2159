"""The embedded engine: connections to one data folder, and statements run on them.

A result is written by the engine itself into a pipe (`INTO OUTFILE '/dev/fd/N'`), so that it is one document in its format,
however long, and the engine waits while nobody reads. (The engine's own streaming API starts a new document with each chunk.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from lakehouse.warehouse.server.failures import EngineError
from lakehouse.warehouse.server.statements import Statement

_CONFIG = """<clickhouse>
    <mark_cache_size>268435456</mark_cache_size>
    <merge_tree>
        <fsync_after_insert>1</fsync_after_insert>
        <fsync_part_directory>1</fsync_part_directory>
    </merge_tree>
    <tmp_path>{tmp}</tmp_path>
</clickhouse>
"""


@dataclass
class Counts:
    """What a statement read and wrote, for the summary."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0


class Connection:
    """One connection of the engine: settings, current database and temporary tables live here. Used by one thread at a time.

    home: the database of requests that name none; a USE statement changes it.
    """

    def __init__(self, native: Any) -> None:
        self._native = native
        self._database = self.home = "default"

    def close(self) -> None:
        """Free it; temporary tables go with it."""
        self._native.close()

    def run(self, sql: str, format_: str = "TabSeparated", parameters: Mapping[str, str] | None = None) -> tuple[bytes, Counts]:
        """Run a statement; its whole result in memory."""
        try:
            result = self._native.query(sql, format_, params=dict(parameters or {}))
        except RuntimeError as error:
            raise EngineError.from_engine(error) from None
        counts = Counts(
            result.storage_rows_read(),
            result.storage_bytes_read(),
            result.rows_written(),
            result.bytes_written(),
            result.rows_read(),
            result.bytes_read(),
        )
        return bytes(result.bytes()), counts

    def stream(self, statement: Statement, format_: str, parameters: Mapping[str, str], sink: int) -> Counts:
        """Write a result into the file descriptor `sink`; it ends when this returns, and stays open."""
        sql = f"{statement.text}\nINTO OUTFILE '/dev/fd/{sink}' APPEND FORMAT {format_} {statement.rest}"
        return self.run(sql, "Null", parameters)[1]

    def insert(self, statement: Statement, format_: str, chunks: Iterable[bytes]) -> Counts:
        """Insert the rows that `chunks` hold in `format_`; nothing more is committed once it raises."""
        try:
            inserter = self._native.send_insert(statement.text, format_)
        except RuntimeError as error:
            raise EngineError.from_engine(error) from None
        try:
            for chunk in chunks:
                inserter.append(chunk)
            result = inserter.finish()
        except RuntimeError as error:
            raise EngineError.from_engine(error) from None
        finally:
            inserter.cancel()
        return Counts(written_rows=result.rows_written, written_bytes=result.bytes_written)

    def use(self, database: str) -> None:
        """Change the current database."""
        if database != self._database:
            self.run(f"USE {identifier(database)}")
            self._database = database

    def settle(self) -> None:
        """Make the database that a USE statement chose the home."""
        self._database = self.home = self.run("SELECT currentDatabase()", "TabSeparatedRaw")[0].decode().rstrip("\n")

    def set(self, settings: Mapping[str, str]) -> None:
        """Change settings of this connection; EngineError 115 for one that does not exist."""
        if settings:
            self.run("SET " + ", ".join(f"{setting_name(name)} = {literal(value)}" for name, value in settings.items()))

    def native_header(self, statement: Statement, parameters: Mapping[str, str]) -> bytes:
        """The Native block that names the columns of a result without rows, which the engine leaves out."""
        try:
            table, _ = self.run(f"DESCRIBE TABLE ({statement.text})", "TabSeparatedRaw", parameters)
            columns = [line.split("\t")[:2] for line in table.decode().splitlines()]
        except EngineError:
            names, _ = self.run(f"{statement.text}\n{statement.rest}", "TSVRawWithNamesAndTypes", parameters)
            columns = [list(pair) for pair in zip(*(line.split("\t") for line in names.decode().splitlines()[:2]), strict=True)]
        parts = [_varint(len(columns)), _varint(0)]
        for name, type_ in columns:
            parts += [_varint(len(name.encode())), name.encode(), _varint(len(type_.encode())), type_.encode()]
        return b"".join(parts)


@dataclass
class Engine:
    """The data folder, opened; raises EngineError 76 when another process has it."""

    path: Path
    version: str = ""
    timezone: str = ""
    _first: Connection = field(init=False)

    def __post_init__(self) -> None:
        import chdb  # type: ignore[import-untyped,unused-ignore]  # 266 MB, a second: only in the server

        self.path.mkdir(parents=True, exist_ok=True)
        self.temporary.mkdir(exist_ok=True)
        config = self.path / "engine.xml"
        config.write_text(_CONFIG.format(tmp=escape(f"{self.temporary}/")))
        self._chdb = chdb
        self._address = f"{self.path}?config-file={config}&log-level=error"
        self._first = self.connect()
        answer, _ = self._first.run("SELECT version(), timezone()")
        self.version, self.timezone = answer.decode().strip().split("\t")

    @property
    def temporary(self) -> Path:
        """The folder of results that wait for their end."""
        return self.path / "tmp"

    def connect(self) -> Connection:
        """A new connection (about half a millisecond)."""
        try:
            return Connection(self._chdb.connect(self._address))
        except RuntimeError as error:
            raise EngineError.from_engine(error) from None


def identifier(name: str) -> str:
    """`name` as a quoted identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    """`text` as a string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def setting_name(name: str) -> str:
    """A setting's name, checked: it stands in the statement as it is."""
    if not name.replace("_", "").replace(".", "").isalnum() or not name.isascii():
        raise EngineError(115, f"Unknown setting '{name}'", "UNKNOWN_SETTING")
    return name


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def widen(pipe: int) -> None:
    """Let a pipe hold a MiB where the system allows it."""
    import fcntl

    if hasattr(fcntl, "F_SETPIPE_SZ"):
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
        except OSError:
            return
