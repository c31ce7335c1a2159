"""An embedded ClickHouse server that one test or one module owns: to ask, to kill, to restart, to weigh."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from lakehouse.services.processes import poll

USER, PASSWORD = "tester", "s3cret'\""


@dataclass
class ClickHouseServer:
    """One server process over `path`; the port stays the same over restarts."""

    path: Path
    port: int
    process: subprocess.Popen[bytes]

    @classmethod
    def launch(cls, path: Path, port: int | None = None) -> ClickHouseServer:
        """Start a server and wait until it answers."""
        port = port or free_port()
        server = cls(path, port, spawn(path, port))
        server.wait()
        return server

    @property
    def url(self) -> str:
        """The address of the HTTP interface."""
        return f"http://127.0.0.1:{self.port}/"

    def wait(self) -> None:
        """Until it answers; fails with its log when it ends first."""
        assert poll(self.answers, seconds=60, every=0.02), f"no answer: {(self.path / 'log').read_text()}"

    def answers(self) -> bool:
        """Whether it answers yet; fails with its log when it has ended."""
        assert self.process.poll() is None, (self.path / "log").read_text()
        try:
            with urllib.request.urlopen(f"{self.url}ping", timeout=5) as answer:
                return bool(answer.read() == b"Ok.\n")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def client(self, **options: Any) -> Any:
        """A clickhouse-connect client."""
        import clickhouse_connect

        options = {"username": USER, "password": PASSWORD, **options}
        return clickhouse_connect.get_client(host="127.0.0.1", port=self.port, **options)

    def end(self, number: int) -> float:
        """Send a signal and wait for the end; the seconds that it took."""
        begun = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        return time.monotonic() - begun

    def restart(self) -> None:
        """Start again over the same folder and port."""
        self.process = spawn(self.path, self.port)
        self.wait()

    def peak_mb(self) -> int:
        """The most memory that the process has held, in MiB; only on Linux."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) >> 10


def spawn(path: Path, port: int) -> subprocess.Popen[bytes]:
    """The process, its output in `log` under the folder."""
    path.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lakehouse.warehouse.server", "--port", str(port), "--path", str(path)]
    environment = {**os.environ, "LAKEHOUSE_SERVER_USER": USER, "LAKEHOUSE_SERVER_PASSWORD": PASSWORD}
    with (path / "log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


@contextmanager
def clickhouse_server(path: Path) -> Iterator[ClickHouseServer]:
    """A server of the test's own, ended however the test ends."""
    server = ClickHouseServer.launch(path)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGKILL)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module", name="server")
def server_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """One server for this module."""
    with clickhouse_server(tmp_path_factory.mktemp("clickhouse")) as running:
        yield running


@pytest.fixture(name="client")
def client_fixture(server: ClickHouseServer) -> Iterator[Any]:
    """A client in a database of the test's own."""
    name = f"t{time.monotonic_ns()}"
    with server.client() as first:
        first.command(f"create database {name}")
    opened = server.client(database=name)
    yield opened
    opened.close()


def ask(
    server: ClickHouseServer,
    body: bytes = b"",
    method: str = "POST",
    headers: dict[str, str] | None = None,
    known: bool = True,
    **parameters: Any,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request by hand: status, headers, body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    given = {"X-ClickHouse-User": USER, "X-ClickHouse-Key": PASSWORD} if known else {}
    connection.request(method, "/?" + urlencode(parameters), body=body or None, headers={**given, **(headers or {})})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content
