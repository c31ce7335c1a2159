"""The answer to one request, written as it comes: status, headers, progress, and a body, compressed if the client likes."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler

from lakehouse.warehouse.server.compression import Compressor, compressor, response_encoding
from lakehouse.warehouse.server.failures import EngineError


class Reply:
    """Written once, in the order `progress` any number of times, `begin`, `send` any number of times, `finish`."""

    def __init__(self, handler: BaseHTTPRequestHandler, common: dict[str, str]) -> None:
        self._handler = handler
        self._common = common
        self._status_sent = False
        self._compressor: Compressor | None = None
        self._chunked = False

    def progress(self, seconds: float) -> None:
        """Tell a client that waits that its statement runs; the status is 200 from then on, whatever happens."""
        if not self._status_sent:
            self._status(200)
        value = {"read_rows": "0", "read_bytes": "0", "total_rows_to_read": "0", "elapsed_ns": str(int(seconds * 1e9))}
        self._handler.send_header("X-ClickHouse-Progress", json.dumps(value))
        self._handler.flush_headers()
        self._handler.wfile.flush()

    def begin(self, status: int, head: dict[str, str], size: int | None, *, compress: bool = False) -> None:
        """Send status and headers. size: of the whole body, if it is known. compress: if the client accepts it."""
        handler = self._handler
        encoding = response_encoding(handler.headers.get("Accept-Encoding", "")) if compress else None
        if not self._status_sent:
            self._status(status)
        for name, value in {**self._common, **head}.items():
            handler.send_header(name, value)
        if encoding is not None:
            handler.send_header("Content-Encoding", encoding)
            self._compressor = compressor(encoding)
        if encoding is None and size is not None:
            handler.send_header("Content-Length", str(size))
        elif handler.request_version == "HTTP/1.1":
            handler.send_header("Transfer-Encoding", "chunked")
            self._chunked = True
        else:
            handler.close_connection = True
            handler.send_header("Connection", "close")
        handler.end_headers()

    def send(self, data: bytes) -> None:
        """A piece of the body."""
        self._write(self._compressor.compress(data) if self._compressor else data)

    def finish(self) -> None:
        """The end of the body."""
        if self._compressor is not None:
            self._write(self._compressor.flush())
        if self._chunked and self._handler.command != "HEAD":
            self._handler.wfile.write(b"0\r\n\r\n")
        self._handler.wfile.flush()

    def whole(self, status: int, head: dict[str, str], content: bytes) -> None:
        """An answer that is there already."""
        self.begin(status, head, len(content))
        self.send(content)
        self.finish()

    def error(self, error: EngineError, version: str, status: int | None = None) -> None:
        """An error, with its code in a header and its text in the body."""
        head = {"Content-Type": "text/plain; charset=UTF-8", "X-ClickHouse-Exception-Code": str(error.code)}
        if status == 401:
            head["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        self.whole(status or error.status, head, error.text(version).encode())

    def _status(self, status: int) -> None:
        self._status_sent = True
        self._handler.send_response(status)

    def _write(self, data: bytes) -> None:
        if not data or self._handler.command == "HEAD":
            return
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)


def content_type(format_: str) -> str:
    """The media type of a format's bytes."""
    if "EachRow" in format_ and format_.startswith("JSON"):
        return "application/x-ndjson; charset=UTF-8"
    if format_.startswith("JSON"):
        return "application/json; charset=UTF-8"
    if format_.startswith("CSV"):
        return "text/csv; charset=UTF-8"
    if format_.startswith(("TabSeparated", "TSV")):
        return "text/tab-separated-values; charset=UTF-8"
    if format_ in ("Native", "RowBinary", "Parquet", "Arrow", "ArrowStream", "ORC"):
        return "application/octet-stream"
    return "text/plain; charset=UTF-8"
