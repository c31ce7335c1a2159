"""The HTTP side: one thread a connection reads requests, runs them on the engine and writes the answers as they come."""

from __future__ import annotations

import hmac
import re
import secrets
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

from lakehouse.warehouse.server.engine import Connection, Counts, Engine, identifier, literal
from lakehouse.warehouse.server.failures import EngineError
from lakehouse.warehouse.server.reply import Reply, content_type
from lakehouse.warehouse.server.requests import BodyStream, Request, credentials, parameters_of, read_request
from lakehouse.warehouse.server.running import PIPE, Answer, Running
from lakehouse.warehouse.server.sessions import DEFAULT_TIMEOUT, Sessions
from lakehouse.warehouse.server.statements import Statement

_SPOOL = 16 << 20
"""Bytes of a result that waits for its end in memory; the rest goes to a temporary file."""
_MARK = "log_comment"
"""The setting by which a running statement is found again: the engine gives each a query_id of its own."""
_NO_DATABASE = ("", "__default__")
_WATCH = 1.0
"""Seconds between looks at a client that waits, and the least between two progress headers."""


class Server(ThreadingHTTPServer):
    """Listens, and holds what all requests share."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], engine: Engine, user: str, password: str) -> None:
        self.engine = engine
        self.sessions = Sessions(engine)
        self._user = user
        self._password = password
        super().__init__(address, Handler)

    def admits(self, given: tuple[str, str] | None) -> bool:
        """Whether user and password are right; nothing given means `default` without a password."""
        user, password = given or ("default", "")
        right_user = hmac.compare_digest(user.encode(), self._user.encode())
        return hmac.compare_digest(password.encode(), self._password.encode()) and right_user

    def cancel(self, mark: str) -> None:
        """End the statements that carry `mark`, wherever they are."""
        connection = self.engine.connect()
        try:
            connection.run(f"KILL QUERY WHERE Settings['{_MARK}'] = {literal(mark)} ASYNC", "Null")
        finally:
            connection.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; anything else is logged by the base class."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One client's connection."""

    server: Server
    protocol_version = "HTTP/1.1"
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

    def version_string(self) -> str:
        """The Server header."""
        return "ClickHouse"

    def _serve(self, *, read_only: bool) -> None:
        path = self.path.partition("?")[0]
        body = BodyStream(self.rfile, self.headers)
        parameters = parameters_of(self.path)
        common = {
            "X-ClickHouse-Server-Display-Name": socket.gethostname(),
            "X-ClickHouse-Timezone": self.server.engine.timezone,
        }
        reply = Reply(self, common)
        try:
            if path in ("/ping", "/replicas_status"):
                reply.whole(200, {"Content-Type": "text/html; charset=UTF-8"}, b"Ok.\n")
            elif path not in ("", "/"):
                reply.whole(404, {"Content-Type": "text/plain; charset=UTF-8"}, f"There is no handler {path}\n".encode())
            elif not self.server.admits(credentials(self.headers, parameters)):
                self._refuse(reply, credentials(self.headers, parameters), body)
            elif read_only and "query" not in parameters:
                reply.whole(200, {"Content-Type": "text/html; charset=UTF-8"}, b"Ok.\n")
            else:
                self._answer(reply, parameters, body, read_only)
        except EngineError as error:
            body.drain()
            reply.error(error, self.server.engine.version)
        body.drain()

    def _refuse(self, reply: Reply, given: tuple[str, str] | None, body: BodyStream) -> None:
        body.drain()
        user = given[0] if given else "default"
        message = f"{user}: Authentication failed: password is incorrect, or there is no user with such name"
        error = EngineError(516, message, "AUTHENTICATION_FAILED")
        reply.error(error, self.server.engine.version, status=403 if given else 401)

    def _answer(self, reply: Reply, parameters: dict[str, str], body: BodyStream, read_only: bool) -> None:
        request = read_request(parameters, self.headers, body)
        # As a setting of a connection that lives on, `readonly` could not be taken back.
        if (request.option("readonly", "0") != "0" or read_only) and request.statement.kind != "result":
            raise EngineError(164, "Cannot execute query in readonly mode", "READONLY")
        mark = str(uuid.uuid4()) if request.option("query_id") == "" else request.query_id
        with self._connection(request, mark) as connection:
            if request.statement.kind == "insert":
                self._insert(reply, request, connection)
            elif request.statement.kind == "result":
                self._send_result(reply, request, connection, mark)
            else:
                self._command(reply, request, connection, mark)
        if request.flag("close_session") and request.option("session_id"):
            self.server.sessions.end(request.option("session_id"))

    @contextmanager
    def _connection(self, request: Request, mark: str) -> Iterator[Connection]:
        """The session's connection or one for this request alone, with database, settings and external tables in place."""
        settings = {_MARK: mark, **request.settings}
        settings.pop("readonly", None)
        name = request.option("session_id")
        if name:
            timeout = float(request.option("session_timeout") or DEFAULT_TIMEOUT)
            with self.server.sessions.use(name, timeout=timeout, check=request.flag("session_check")) as session:
                session.prepare({} if request.statement.first == "SET" else settings)
                with self._surroundings(request, session.connection):
                    yield session.connection
            return
        connection = self.server.engine.connect()
        try:
            connection.set(settings)
            with self._surroundings(request, connection):
                yield connection
        finally:
            connection.close()

    @contextmanager
    def _surroundings(self, request: Request, connection: Connection) -> Iterator[None]:
        given = request.option("database")
        connection.use(connection.home if given in _NO_DATABASE else given)
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
            if request.statement.first == "USE":
                connection.settle()

    def _send_result(self, reply: Reply, request: Request, connection: Connection, mark: str) -> None:
        statement = request.statement
        if statement.first == "KILL":
            # Clients name a statement by the query_id that they gave it.
            statement = replace(statement, text=re.sub(r"\bquery_id\b", f"Settings['{_MARK}']", statement.text))
        format_ = statement.format or request.option("default_format") or "TabSeparated"

        def work(sink: int) -> tuple[bytes, Counts]:
            return b"", connection.stream(statement, format_, request.substitutions, sink)

        running = Running(work, lambda: self.server.cancel(mark))
        head = {**self._head(request), "X-ClickHouse-Format": format_, "Content-Type": content_type(format_)}
        try:
            if request.flag("wait_end_of_query"):
                self._send_spooled(reply, request, connection, running, head)
            else:
                self._send_streamed(reply, request, connection, running, head)
        finally:
            running.end()

    def _send_spooled(
        self, reply: Reply, request: Request, connection: Connection, running: Running, head: dict[str, str]
    ) -> None:
        """Wait for the end of the result, so that an error has its status and the summary its figures."""
        with tempfile.SpooledTemporaryFile(_SPOOL, dir=str(self.server.engine.temporary)) as spool:
            size = 0
            for chunk in self._chunks(reply, request, running):
                spool.write(chunk)
                size += len(chunk)
            summary = _summary(running.end())
            if not size and head["X-ClickHouse-Format"] == "Native":
                size += spool.write(connection.native_header(request.statement, request.substitutions))
            spool.seek(0)
            reply.begin(200, {**head, **summary}, size, compress=request.flag("enable_http_compression"))
            while chunk := spool.read(PIPE):
                reply.send(chunk)
            reply.finish()

    def _send_streamed(
        self, reply: Reply, request: Request, connection: Connection, running: Running, head: dict[str, str]
    ) -> None:
        """Send what is there; an error after the first MiB is told inside the body, as ClickHouse does."""
        compress = request.flag("enable_http_compression")
        first = b""
        chunks = self._chunks(reply, request, running)
        for chunk in chunks:
            first += chunk
            if len(first) >= PIPE:
                break
        else:
            summary = _summary(running.end())
            if not first and head["X-ClickHouse-Format"] == "Native":
                first = connection.native_header(request.statement, request.substitutions)
            reply.begin(200, {**head, **summary}, len(first), compress=compress)
            reply.send(first)
            reply.finish()
            return
        tag = secrets.token_hex(8)
        reply.begin(200, {**head, "X-ClickHouse-Exception-Tag": tag}, None, compress=compress)
        reply.send(first)
        del first
        for chunk in chunks:
            reply.send(chunk)
        error = running.end().error
        if error is not None:
            reply.send(_late_error(error.text(self.server.engine.version), tag))
        reply.finish()

    def _chunks(self, reply: Reply, request: Request, running: Running) -> Iterator[bytes]:
        """The result while the client is there; a client that waits for the end is told of progress."""
        interval = max(_WATCH, float(request.option("http_headers_progress_interval_ms") or 0) / 1000)
        tells = request.flag("send_progress_in_http_headers") and request.flag("wait_end_of_query")
        told = 0.0

        def tell() -> None:
            nonlocal told
            if tells and running.seconds - told >= interval:
                told = running.seconds
                reply.progress(told)

        return running.chunks(self.connection, _WATCH, tell)

    def _command(self, reply: Reply, request: Request, connection: Connection, mark: str) -> None:
        """Run what gives no result, or a small one."""

        def work(_: int) -> tuple[bytes, Counts]:
            return connection.run(request.statement.text, "TabSeparated", request.substitutions)

        running = Running(work, lambda: self.server.cancel(mark))
        try:
            for _ in self._chunks(reply, request, running):
                pass
        finally:
            answer = running.end()
        reply.whole(200, {**self._head(request), **_summary(answer)}, answer.content)

    def _insert(self, reply: Reply, request: Request, connection: Connection) -> None:
        begun = monotonic()
        format_ = request.statement.format or request.option("default_format") or "Values"
        counts = connection.insert(request.statement, format_, request.rows())
        reply.whole(200, {**self._head(request), **_summary(Answer(counts, None, monotonic() - begun))}, b"")

    def _head(self, request: Request) -> dict[str, str]:
        return {"X-ClickHouse-Query-Id": request.query_id, "Content-Type": "text/plain; charset=UTF-8"}


def _summary(answer: Answer) -> dict[str, str]:
    """The header with a statement's figures; raises the error that it ended with."""
    if answer.error is not None:
        raise answer.error
    return {"X-ClickHouse-Summary": answer.summary()}


def _late_error(text: str, tag: str) -> bytes:
    """An error behind a body that had begun well, so that clients find it: marker, tag, text, its length, tag, marker."""
    content = text.encode()
    return b"\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n" % (tag.encode(), content, len(content), tag.encode())
