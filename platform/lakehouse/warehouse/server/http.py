"""The HTTP side: one thread a connection reads requests, runs them on the engine and writes the answers as they come."""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

from lakehouse.warehouse.server.compression import Compressor, compressor, response_encoding
from lakehouse.warehouse.server.engine import Connection, Counts, Engine, identifier, widen
from lakehouse.warehouse.server.failures import EngineError
from lakehouse.warehouse.server.requests import BodyStream, Request, credentials, parameters_of, read_request
from lakehouse.warehouse.server.sessions import DEFAULT_TIMEOUT, Sessions
from lakehouse.warehouse.server.statements import Statement

_SPOOL = 16 << 20
"""Bytes of a result that waits for its end in memory; the rest goes to a temporary file."""
_PIPE = 1 << 20
_NO_DATABASE = ("", "__default__")


class Server(ThreadingHTTPServer):
    """Listens, and holds what all requests share."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], engine: Engine, user: str, password: str) -> None:
        self.engine = engine
        self.sessions = Sessions(engine)
        self.user = user
        self.password = password
        super().__init__(address, Handler)

    def admits(self, given: tuple[str, str] | None) -> bool:
        """Whether user and password are right; without a password set, `default` needs none."""
        user, password = given or ("default", "")
        return hmac.compare_digest(user.encode(), self.user.encode()) & hmac.compare_digest(
            password.encode(), self.password.encode()
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is logged by the base class."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


@dataclass
class Answer:
    """What is left to say once a statement was run: its counts, or the error it ended with."""

    counts: Counts
    error: EngineError | None
    seconds: float

    def summary(self) -> str:
        """The value of X-ClickHouse-Summary."""
        counts = self.counts
        values = {
            "read_rows": counts.read_rows,
            "read_bytes": counts.read_bytes,
            "written_rows": counts.written_rows,
            "written_bytes": counts.written_bytes,
            "total_rows_to_read": counts.read_rows,
            "result_rows": counts.result_rows,
            "result_bytes": counts.result_bytes,
            "elapsed_ns": int(self.seconds * 1e9),
        }
        return json.dumps({name: str(value) for name, value in values.items()})


class Running:
    """A statement that runs in a thread of its own and writes its result into a pipe."""

    def __init__(self, work: Callable[[int], Counts]) -> None:
        self._reader, self._writer = os.pipe()
        self._ended = False
        widen(self._writer)
        self._work = work
        self._begun = monotonic()
        self.answer = Answer(Counts(), None, 0.0)
        self._thread = threading.Thread(target=self._run, name="statement", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.answer.counts = self._work(self._writer)
        except EngineError as error:
            self.answer.error = error
        finally:
            self.answer.seconds = monotonic() - self._begun
            os.close(self._writer)

    def chunks(self) -> Iterator[bytes]:
        """The result, as it comes."""
        while chunk := os.read(self._reader, _PIPE):
            yield chunk

    def end(self) -> Answer:
        """Stop reading and wait for the statement to end; one that still writes fails at its next write. May be called again."""
        if not self._ended:
            # Once only: the number belongs to another thread's file as soon as it is free.
            self._ended = True
            os.close(self._reader)
        self._thread.join()
        return self.answer


class Handler(BaseHTTPRequestHandler):
    """One client's connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "ClickHouse"
    sys_version = ""
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """A statement that only reads, or a question whether the server is there."""
        self._serve(read_only=True)

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self._serve(read_only=True)

    def do_POST(self) -> None:
        """A statement."""
        self._serve(read_only=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: addresses can hold passwords."""

    def _serve(self, *, read_only: bool) -> None:
        path = self.path.partition("?")[0]
        body = BodyStream(self.rfile, self.headers)
        parameters = parameters_of(self.path)
        try:
            if path in ("/ping", "/replicas_status"):
                self._send_plain(200, b"Ok.\n" if path == "/ping" else b"")
            elif path not in ("", "/"):
                self._send_plain(404, f"There is no handler {path}\n".encode())
            elif not self.server.admits(credentials(self.headers, parameters)):
                body.drain()
                self._refuse(credentials(self.headers, parameters))
            elif read_only and "query" not in parameters:
                self._send_plain(200, b"Ok.\n")
            else:
                self._answer(parameters, body, read_only)
        except EngineError as error:
            body.drain()
            self._send_error(error)
        body.drain()

    def _answer(self, parameters: dict[str, str], body: BodyStream, read_only: bool) -> None:
        request = read_request(parameters, self.headers, body)
        with self._connection(request, read_only) as connection:
            if request.statement.kind == "result":
                self._send_result(request, connection)
            else:
                self._send_done(request, connection)
        if request.flag("close_session") and request.option("session_id"):
            self.server.sessions.end(request.option("session_id"))

    @contextmanager
    def _connection(self, request: Request, read_only: bool) -> Iterator[Connection]:
        """The session's connection or one for this request alone, with database, settings and external tables in place."""
        settings = request.settings
        # As a setting of the connection `readonly` could not be taken back.
        if (settings.pop("readonly", "0") != "0" or read_only) and request.statement.kind != "result":
            raise EngineError(164, "Cannot execute query in readonly mode", "READONLY")
        database = request.option("database")
        if request.option("session_id"):
            timeout = float(request.option("session_timeout") or DEFAULT_TIMEOUT)
            with self.server.sessions.use(
                request.option("session_id"), timeout=timeout, check=request.flag("session_check")
            ) as session:
                if request.statement.first == "SET":
                    settings = {}
                session.prepare(settings)
                with self._surroundings(request, session.connection, database):
                    yield session.connection
                if request.statement.first == "USE":
                    session.connection.database = ""
            return
        connection = self.server.engine.connect()
        try:
            connection.set(settings)
            with self._surroundings(request, connection, database):
                yield connection
        finally:
            connection.close()

    @contextmanager
    def _surroundings(self, request: Request, connection: Connection, database: str) -> Iterator[None]:
        if database not in _NO_DATABASE:
            connection.use(database)
        made = []
        try:
            for table in request.external:
                connection.run(f"CREATE TEMPORARY TABLE {identifier(table.name)} ({table.structure})")
                made.append(table.name)
                insert = Statement("insert", f"INSERT INTO {identifier(table.name)}", "INSERT", table.format)
                connection.insert(insert, table.format, [table.data])
            yield
        finally:
            for name in made:
                connection.run(f"DROP TEMPORARY TABLE IF EXISTS {identifier(name)}")

    def _send_result(self, request: Request, connection: Connection) -> None:
        statement = request.statement
        format_ = statement.format or request.option("default_format") or "TabSeparated"
        head = {"X-ClickHouse-Format": format_, "Content-Type": _content_type(format_), "X-ClickHouse-Query-Id": request.query_id}
        running = Running(lambda sink: connection.stream(statement, format_, request.substitutions, sink))
        try:
            if request.flag("wait_end_of_query"):
                self._send_spooled(request, connection, running, format_, head)
            else:
                self._send_streamed(request, connection, running, format_, head)
        finally:
            running.end()

    def _send_spooled(
        self, request: Request, connection: Connection, running: Running, format_: str, head: dict[str, str]
    ) -> None:
        """Wait for the end of the result, so that an error has its status and the summary its figures."""
        with tempfile.SpooledTemporaryFile(_SPOOL, dir=str(self.server.engine.temporary)) as spool:
            size = 0
            for chunk in running.chunks():
                spool.write(chunk)
                size += len(chunk)
            answer = running.end()
            if answer.error is not None:
                raise answer.error
            if not size and format_ == "Native":
                size += spool.write(connection.native_header(request.statement, request.substitutions))
            spool.seek(0)
            packer = self._begin(200, {**head, "X-ClickHouse-Summary": answer.summary()}, request, size)
            while chunk := spool.read(_PIPE):
                self._send(packer, chunk)
            self._finish(packer)

    def _send_streamed(
        self, request: Request, connection: Connection, running: Running, format_: str, head: dict[str, str]
    ) -> None:
        """Send what is there; an error after the first MiB is told inside the body, as ClickHouse does."""
        first = b""
        chunks = running.chunks()
        for chunk in chunks:
            first += chunk
            if len(first) >= _PIPE:
                break
        else:
            answer = running.end()
            if answer.error is not None:
                raise answer.error
            if not first and format_ == "Native":
                first = connection.native_header(request.statement, request.substitutions)
            packer = self._begin(200, {**head, "X-ClickHouse-Summary": answer.summary()}, request, len(first))
            self._send(packer, first)
            self._finish(packer)
            return
        tag = secrets.token_hex(8)
        packer = self._begin(200, {**head, "X-ClickHouse-Exception-Tag": tag}, request, None)
        self._send(packer, first)
        del first
        for chunk in chunks:
            self._send(packer, chunk)
        answer = running.end()
        if answer.error is not None:
            text = answer.error.text(self.server.engine.version).encode()
            self._send(packer, b"\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n" % (
                tag.encode(), text, len(text), tag.encode()))  # fmt: skip
        self._finish(packer)

    def _send_done(self, request: Request, connection: Connection) -> None:
        """Run what gives no result, or a small one; answer when it is done."""
        begun = monotonic()
        content = b""
        if request.statement.kind == "insert":
            format_ = request.statement.format or request.option("default_format") or "Values"
            counts = connection.insert(request.statement, format_, request.rows())
        else:
            content, counts = connection.run(request.statement.text, "TabSeparated", request.substitutions)
        answer = Answer(counts, None, monotonic() - begun)
        head = {"Content-Type": "text/plain; charset=UTF-8", "X-ClickHouse-Query-Id": request.query_id}
        packer = self._begin(200, {**head, "X-ClickHouse-Summary": answer.summary()}, None, len(content))
        self._send(packer, content)
        self._finish(packer)

    def _begin(self, status: int, head: dict[str, str], request: Request | None, size: int | None) -> Packer:
        """Send status and headers. size: of the whole body if it is known; a compressed body is sent in chunks."""
        encoding = None
        if request is not None and request.flag("enable_http_compression"):
            encoding = response_encoding(self.headers.get("Accept-Encoding", ""))
        self.send_response(status)
        self.send_header("X-ClickHouse-Server-Display-Name", socket.gethostname())
        self.send_header("X-ClickHouse-Timezone", self.server.engine.timezone)
        for name, value in head.items():
            self.send_header(name, value)
        chunked = encoding is not None or size is None
        if encoding is not None:
            self.send_header("Content-Encoding", encoding)
        if chunked and self.request_version == "HTTP/1.1":
            self.send_header("Transfer-Encoding", "chunked")
        elif size is not None and encoding is None:
            self.send_header("Content-Length", str(size))
        else:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        return Packer(compressor(encoding) if encoding else None, chunked and self.request_version == "HTTP/1.1")

    def _send(self, packer: Packer, data: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(packer.pack(data))

    def _finish(self, packer: Packer) -> None:
        if self.command != "HEAD":
            self.wfile.write(packer.finish())
        self.wfile.flush()

    def _send_plain(self, status: int, content: bytes) -> None:
        packer = self._begin(status, {"Content-Type": "text/html; charset=UTF-8"}, None, len(content))
        self._send(packer, content)
        self._finish(packer)

    def _refuse(self, given: tuple[str, str] | None) -> None:
        user = given[0] if given else "default"
        error = EngineError(
            516,
            f"{user}: Authentication failed: password is incorrect, or there is no user with such name",
            "AUTHENTICATION_FAILED",
        )
        self._send_error(error, status=403 if given else 401)

    def _send_error(self, error: EngineError, status: int | None = None) -> None:
        content = error.text(self.server.engine.version).encode()
        head = {"Content-Type": "text/plain; charset=UTF-8", "X-ClickHouse-Exception-Code": str(error.code)}
        if status == 401:
            head["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        packer = self._begin(status or error.status, head, None, len(content))
        self._send(packer, content)
        self._finish(packer)


class Packer:
    """Compresses a body and cuts it into HTTP chunks, as its headers promised."""

    def __init__(self, compression: Compressor | None, chunked: bool) -> None:
        self._compression = compression
        self._chunked = chunked

    def pack(self, data: bytes) -> bytes:
        """What to send for a piece of the body."""
        return self._frame(self._compression.compress(data) if self._compression else data)

    def finish(self) -> bytes:
        """What to send at the end of the body."""
        rest = self._frame(self._compression.flush()) if self._compression else b""
        return rest + b"0\r\n\r\n" if self._chunked else rest

    def _frame(self, data: bytes) -> bytes:
        if not self._chunked or not data:
            return data
        return b"%x\r\n%s\r\n" % (len(data), data)


def _content_type(format_: str) -> str:
    if format_.startswith("JSON"):
        return "application/json; charset=UTF-8" if "EachRow" not in format_ else "application/x-ndjson; charset=UTF-8"
    if format_.startswith("CSV"):
        return "text/csv; charset=UTF-8"
    if format_.startswith(("TabSeparated", "TSV")):
        return "text/tab-separated-values; charset=UTF-8"
    return "application/octet-stream" if format_ in ("Native", "RowBinary", "Parquet", "Arrow", "ArrowStream", "ORC") else (
        "text/plain; charset=UTF-8"
    )  # fmt: skip
