"""One HTTP request to the server, read: who asks, what statement, with which parameters and settings."""

from __future__ import annotations

import base64
import binascii
import io
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import parse_qsl, unquote

from lakehouse.warehouse.server.compression import decompressed
from lakehouse.warehouse.server.failures import EngineError
from lakehouse.warehouse.server.statements import Statement, read_statement

CHUNK = 1 << 18
"""Bytes of a body that are read at once; also how much of it may be the text of an INSERT."""

_TRANSPORT = {
    "add_http_cors_header", "buffer_size", "cancel_http_readonly_queries_on_client_close", "client_protocol_version",
    "close_session", "compress", "database", "decompress", "default_format", "enable_http_compression",
    "http_headers_progress_interval_ms", "http_write_exception_in_output_format", "http_zlib_compression_level", "password",
    "query", "query_id", "quota_key", "role", "send_progress_in_http_headers", "session_check", "session_id",
    "session_timeout", "stacktrace", "user", "wait_end_of_query",
}  # fmt: skip
"""Parameters that speak to the interface; every other one is a setting of the engine."""


class BodyStream(io.RawIOBase):
    """The body of a request: as long as it says, or in chunks (RFC 9112, section 7.1)."""

    def __init__(self, source: io.BufferedIOBase, headers: Message) -> None:
        self._source = source
        self._chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else int(headers.get("Content-Length") or 0)
        self._ended = not self._chunked and self._left == 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        if self._chunked and not self._left and not self._ended:
            self._next_chunk()
        if self._ended:
            return 0
        data = self._source.read1(min(len(target), self._left))
        if not data:
            raise ConnectionError("the client went away in the middle of a body")
        target[: len(data)] = data
        self._left -= len(data)
        if not self._left:
            if self._chunked:
                self._source.readline()
            else:
                self._ended = True
        return len(data)

    def drain(self) -> None:
        """Read what is left, so that the connection can carry the next request."""
        while self.read(CHUNK):
            pass

    def _next_chunk(self) -> None:
        line = self._source.readline(1 << 10)
        try:
            self._left = int(line.split(b";")[0], 16)
        except ValueError:
            raise ConnectionError(f"a chunk of a body began with {line!r}") from None
        if self._left == 0:
            self._ended = True
            while self._source.readline(1 << 16) not in (b"\r\n", b"\n", b""):
                pass


@dataclass(frozen=True)
class ExternalTable:
    """Rows sent beside a query, to be seen as a temporary table."""

    name: str
    format: str
    structure: str
    data: bytes


@dataclass
class Request:
    """A statement and all that came with it. `body` holds what follows the statement's own text, for an INSERT."""

    parameters: dict[str, str]
    statement: Statement
    body: io.RawIOBase
    query_id: str
    external: list[ExternalTable] = field(default_factory=list)

    def option(self, name: str, default: str = "") -> str:
        """A parameter of the interface."""
        return self.parameters.get(name, default)

    def flag(self, name: str) -> bool:
        """A parameter of the interface that is on or off."""
        return self.option(name, "0").lower() in ("1", "true")

    @property
    def settings(self) -> dict[str, str]:
        """Settings of the engine for this statement."""
        tables = tuple(f"{table.name}_{part}" for table in self.external for part in ("format", "structure", "types"))
        return {
            name: value
            for name, value in self.parameters.items()
            if name not in _TRANSPORT and not name.startswith("param_") and name not in tables
        }

    @property
    def substitutions(self) -> dict[str, str]:
        """Values of `{name:Type}` in the statement."""
        return {name.removeprefix("param_"): value for name, value in self.parameters.items() if name.startswith("param_")}

    def rows(self) -> Iterator[bytes]:
        """What an INSERT inserts, in its format."""
        if self.statement.data:
            yield self.statement.data
        while chunk := self.body.read(CHUNK):
            yield chunk


def credentials(headers: Message, parameters: dict[str, str]) -> tuple[str, str] | None:
    """User and password: from X-ClickHouse-User and -Key, Basic authentication, or the address; None when none were given."""
    if headers.get("X-ClickHouse-User") is not None or headers.get("X-ClickHouse-Key") is not None:
        return unquote(headers.get("X-ClickHouse-User") or "default"), headers.get("X-ClickHouse-Key") or ""
    scheme, _, encoded = (headers.get("Authorization") or "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password
    if "user" in parameters or "password" in parameters:
        return parameters.get("user", "default"), parameters.get("password", "")
    return None


def parameters_of(target: str) -> dict[str, str]:
    """The parameters of a request's address."""
    return dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))


def read_request(parameters: dict[str, str], headers: Message, raw: BodyStream) -> Request:
    """Read the statement; an INSERT's rows are left in the body."""
    if parameters.get("decompress", "0") not in ("", "0"):
        raise EngineError(48, "decompress=1 is not supported: use Content-Encoding", "NOT_IMPLEMENTED")
    external: list[ExternalTable] = []
    head = parameters.get("query", "").encode()
    body = decompressed(raw, headers.get("Content-Encoding", ""))
    if headers.get_content_type() == "multipart/form-data":
        external = _read_form(parameters, headers, body)
        head = parameters.get("query", "").encode()
    statement = _read_statement(head, body)
    query_id = parameters.get("query_id") or headers.get("X-ClickHouse-Query-Id") or str(uuid.uuid4())
    if database := headers.get("X-ClickHouse-Database"):
        parameters.setdefault("database", database)
    if format_ := headers.get("X-ClickHouse-Format"):
        parameters.setdefault("default_format", format_)
    return Request(parameters, statement, body, query_id, external)


def _read_statement(head: bytes, body: io.RawIOBase) -> Statement:
    first = _read_up_to(body, CHUNK)
    source = head + b"\n" + first if head and first else head or first
    statement = read_statement(source, complete=False) if first else None
    if statement is not None:
        return statement
    rest = [source]
    while first and (chunk := body.read(CHUNK)):
        rest.append(chunk)
    whole = read_statement(b"".join(rest), complete=True)
    assert whole is not None
    return whole


def _read_up_to(body: io.RawIOBase, size: int) -> bytes:
    parts = []
    while size > 0 and (chunk := body.read(size)):
        parts.append(chunk)
        size -= len(chunk)
    return b"".join(parts)


def _read_form(parameters: dict[str, str], headers: Message, body: io.RawIOBase) -> list[ExternalTable]:
    boundary = str(headers.get_param("boundary", "")).encode()
    content = b"\r\n" + b"".join(iter(lambda: body.read(CHUNK) or b"", b""))
    files: list[tuple[str, bytes]] = []
    for part in content.split(b"\r\n--" + boundary)[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        message = Message()
        for line in head.decode().strip().splitlines():
            name, _, text = line.partition(":")
            message[name] = text.strip()
        field_name = str(message.get_param("name", "", "Content-Disposition"))
        if message.get_param("filename", None, "Content-Disposition") is None:
            parameters[field_name] = value.decode()
        else:
            files.append((field_name, value))
    return [_external(parameters, name, data) for name, data in files]


def _external(parameters: dict[str, str], name: str, data: bytes) -> ExternalTable:
    structure = parameters.get(f"{name}_structure", "")
    if not structure:
        types = parameters.get(f"{name}_types", "").split(",")
        structure = ", ".join(f"_{index} {type_}" for index, type_ in enumerate(types, start=1) if type_.strip())
    if not structure:
        raise EngineError(36, f"Neither the structure nor the types of external table {name} are given", "BAD_ARGUMENTS")
    return ExternalTable(name, parameters.get(f"{name}_format") or "TabSeparated", structure, data)
