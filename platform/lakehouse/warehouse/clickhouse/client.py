"""One client of ClickHouse's HTTP interface: statements, and Arrow streams both ways. Errors become the platform's own."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pyarrow as pa

from lakehouse.errors import ConfigurationError, LakehouseError, TerminalError, WarehouseUnavailable
from lakehouse.faults import effect
from lakehouse.settings import WarehouseSettings

_REFUSED = {192, 193, 194, 516}
_TRANSIENT = {159, 160, 202, 203, 209, 210, 241, 242, 243, 252, 279, 319, 999}
_TAIL = 1 << 15
_ARROW = {"output_format_arrow_string_as_string": "0", "output_format_arrow_compression_method": "none"}


class ClickHouseClient:
    """Connects when it is first used. May be used by several threads: every request stands alone (no session)."""

    def __init__(self, settings: WarehouseSettings) -> None:
        self._settings = settings
        self._connecting = threading.Lock()

    @property
    def address(self) -> str:
        """Where the warehouse is, without secrets."""
        return f"{'https' if self._settings.secure else 'http'}://{self._settings.host}:{self._settings.port}"

    @cached_property
    def _connection(self) -> Any:
        import clickhouse_connect
        from urllib3 import Timeout

        settings = self._settings
        if not settings.host:
            raise ConfigurationError(
                "connecting to the warehouse: it has no address",
                allowed="the host of ClickHouse's HTTP interface",
                remedy="Set LAKEHOUSE_WAREHOUSE__HOST, or start the embedded servers with `lakehouse up`.",
            )
        connection: Any = clickhouse_connect.get_client(
            host=settings.host,
            port=settings.port,
            username=settings.user,
            password=settings.password.get_secret_value(),
            secure=settings.secure,
            compress=False,
            autogenerate_session_id=False,
            connect_timeout=settings.connect_seconds,
            send_receive_timeout=settings.answer_seconds,
        )
        # The time to connect is also the time that a send may wait while the server is busy with what it has.
        connection.timeout = Timeout(connect=settings.answer_seconds, read=settings.answer_seconds)
        return connection

    def _connected(self) -> Any:
        with self._connecting:
            return self._connection

    def rows(self, sql: str, tried: str) -> list[tuple[Any, ...]]:
        """The rows of a small result."""
        with self.errors(tried):
            return [tuple(row) for row in self._connected().query(sql).result_rows]

    def run(self, sql: str, tried: str, settings: Mapping[str, str] | None = None, *, point: str) -> None:
        """A statement that changes something and has no result; `point` is its fault point."""
        with self.errors(tried), effect(point):
            self._connected().command(sql, settings=dict(settings or {}))

    def insert(self, relation: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], tried: str) -> None:
        """Insert rows as they come. What was inserted before an error may stay: insert into a table that nobody reads."""
        settings = {
            "input_format_null_as_default": "0",
            "insert_allow_materialized_columns": "1",
            "max_partitions_per_insert_block": "0",
        }
        raised: list[BaseException] = []

        def body() -> Iterator[bytes]:
            try:
                yield from _ipc_stream(schema, batches)
            except BaseException as error:
                raised.append(error)
                raise

        try:
            with self.errors(tried), effect("warehouse.insert"):
                self._connected().raw_insert(
                    relation, column_names=schema.names, insert_block=body(), fmt="ArrowStream", settings=settings
                )
        except LakehouseError:
            if raised:
                raise raised[0] from None
            raise

    def stream(self, sql: str, tried: str, database: str | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a result in batches. Nothing is yielded after an error, which may come late."""
        with self.errors(tried):
            settings = {**_ARROW, "default_format": "ArrowStream", **({"database": database} if database else {})}
            response = self._connected().raw_stream(sql, settings=settings)
            try:
                if response.headers.get("X-ClickHouse-Format", "ArrowStream") != "ArrowStream":
                    yield _text_batch(response.read())
                    return
                yield from _arrow_batches(response)
            finally:
                response.close()

    @contextmanager
    def errors(self, tried: str) -> Iterator[None]:
        """Turn the client's errors into ConfigurationError, WarehouseUnavailable or TerminalError."""
        from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except DatabaseError as error:
            if error.code is None and isinstance(error, OperationalError):
                raise self._unreachable(tried, error) from error
            raise self.refused(tried, error.code or 0, str(error)) from error
        except (HTTPError, ConnectionError) as error:
            raise self._unreachable(tried, error) from error

    def _unreachable(self, tried: str, error: Exception) -> WarehouseUnavailable:
        return WarehouseUnavailable(
            tried,
            value=f"{self.address} does not answer: {_reason(error)}",
            allowed="a running ClickHouse",
            remedy="Start it (`lakehouse up`), or correct LAKEHOUSE_WAREHOUSE__HOST and LAKEHOUSE_WAREHOUSE__PORT.",
        )

    def refused(self, tried: str, code: int, message: str) -> LakehouseError:
        """The error for what the server said."""
        if code in _REFUSED:
            return ConfigurationError(
                tried,
                value=f"{self.address} refuses user {self._settings.user!r} with this password",
                allowed="a user that may create tables",
                remedy="Correct LAKEHOUSE_WAREHOUSE__USER and LAKEHOUSE_WAREHOUSE__PASSWORD.",
            )
        kind = WarehouseUnavailable if code in _TRANSIENT else TerminalError
        return kind(tried, value=message, remedy="Read the server's message above; `lakehouse status` shows the deployment.")


def _reason(error: BaseException) -> BaseException:
    """The innermost of an error's causes: what the system said, without the client's words around it."""
    while inner := getattr(error, "reason", None) or error.__cause__:
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


class _Watched(io.RawIOBase):
    """A response's body that remembers its last bytes."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self.tail = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        data = self._response.read(len(target))
        target[: len(data)] = data
        self.tail = data[-_TAIL:] if len(data) >= _TAIL else (self.tail + data)[-_TAIL:]
        return len(data)


def _arrow_batches(response: Any) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow stream, and then a look at what follows it.

    A server that fails in the middle of a result writes its message behind the rows, where an Arrow reader sees only the end of
    the stream: without this look, a part would pass for the whole.
    """
    from clickhouse_connect.driver.exceptions import DatabaseError

    watched = _Watched(response)
    body = io.BufferedReader(watched, 1 << 18)
    if not body.peek(1):
        return
    damaged: pa.ArrowException | None = None
    try:
        with pa.ipc.open_stream(body) as reader:
            yield from reader
    except pa.ArrowException as error:
        damaged = error
    followed = False
    while body.read(_TAIL):
        followed = True
    tag = response.headers.get("X-ClickHouse-Exception-Tag")
    marker = f"__exception__\r\n{tag}\r\n".encode()
    if tag and marker in watched.tail:
        message = watched.tail.partition(marker)[2].rpartition(b"\n__exception__")[0].rpartition(b"\n")[0]
        raise DatabaseError(message.decode(errors="replace"))
    if damaged or followed:
        raise DatabaseError(f"the result is not one Arrow stream: {damaged or 'more bytes follow its end'}")


class _Sink(io.RawIOBase):
    """A file that is emptied as it fills."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """What was written since the last call."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def _ipc_stream(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    sink = _Sink()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield sink.take()
    yield sink.take()


def _text_batch(content: bytes) -> pa.RecordBatch:
    return pa.record_batch({"result": [content.decode(errors="replace")]})
