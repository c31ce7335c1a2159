"""Postgres connections that do not wait for ever.

libpq notices a machine that is gone, by keepalives and `tcp_user_timeout`. It does not notice a server, or a proxy before it,
that keeps the connection and never answers: for that it has no time-out at all.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import _WaitTimeout

T = TypeVar("T")
Row = tuple[Any, ...]

KEEPALIVE = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""libpq parameters by which a machine that is gone is noticed within about a minute."""


class BoundedConnection(psycopg.Connection[Row]):
    """A connection on which no operation waits longer than `answer_seconds` (None: for ever); then it is closed."""

    answer_seconds: float | None = None

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """As psycopg's; OperationalError when the server did not answer in time."""
        bound = self.answer_seconds if timeout is None else timeout
        try:
            return super().wait(gen, interval=interval, timeout=bound)
        except _WaitTimeout:
            info = self.info
            self.pgconn.finish()
            raise psycopg.OperationalError(
                f"connection to {info.host}:{info.port} timed out: no answer within {bound:g} seconds"
            ) from None


def connect_bounded(conninfo: str, *, answer_seconds: float | None, **parameters: Any) -> BoundedConnection:
    """An autocommit connection; raises psycopg.OperationalError. The time to connect is libpq's `connect_timeout`."""
    connection = BoundedConnection.connect(conninfo, autocommit=True, **parameters)
    connection.answer_seconds = answer_seconds
    return connection


@contextmanager
def hung_up_after(conninfo: str, seconds: float | None) -> Iterator[None]:
    """End this process's connections to a server when the block has not ended in time: whoever waits on one gets an error.

    For libraries that keep their connections to themselves (DuckDB). All connections to that address are ended: a server that has
    not ended a statement long after its own limit is gone for all of them. Does nothing where the system does not list sockets.
    """
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, _hang_up, (conninfo,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _hang_up(conninfo: str) -> None:
    given = conninfo_to_dict(conninfo)
    peers = set()
    with suppress(OSError):
        host, port = str(given.get("host") or "localhost"), int(given.get("port") or 5432)
        peers = {found[4][:2] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    with suppress(FileNotFoundError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    with socket.socket(fileno=os.dup(int(name))) as copy:
                        if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getpeername()[:2] in peers:
                            copy.shutdown(socket.SHUT_RDWR)
