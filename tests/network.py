"""A TCP proxy that stands before a real server and breaks the network between it and us, in the ways that networks break."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Fault = Literal["none", "refuse", "reset", "black hole", "slow", "late", "slow down"]
"""refuse: no connection is taken. reset: each is reset after so many bytes of answers. black hole: after so many bytes of answers
nothing is read or sent any more, and the connection stays. slow: a few bytes at a time. late: each piece comes after a while.
slow down: S3's answer 503 instead of the server's, to so many requests."""

SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
BODY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Network:
    """What the proxy does with connections from now on. after: bytes of answers that pass before. hits: connections it broke.
    carried: bytes that passed since the fault began."""

    target: tuple[str, int]
    listener: socket.socket
    fault: Fault = "none"
    after: int = 0
    times: int = 1 << 30
    hits: int = 0
    taken: int = 0
    carried: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)
    open: set[socket.socket] = field(default_factory=set)

    @property
    def port(self) -> int:
        """Where it listens, on loopback."""
        return int(self.listener.getsockname()[1])

    def breaks(self, fault: Fault, *, after: int = 0, times: int = 1 << 30) -> None:
        """Begin a fault; it holds for connections that are open, too."""
        self.fault, self.after, self.times, self.hits, self.taken, self.carried = fault, after, times, 0, 0, 0

    def heals(self) -> None:
        """Let everything through, and end what a fault has left open."""
        self.fault = "none"
        with self.lock:
            for connection in list(self.open):
                _reset(connection)
            self.open.clear()

    def serve(self) -> None:
        """Take connections until the end."""
        while not self.closing.is_set():
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.taken += 1
            if self.fault == "refuse" and self._hit():
                _reset(client)
                continue
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _hit(self) -> bool:
        with self.lock:
            self.hits += 1
            return self.hits <= self.times

    def _carry(self, client: socket.socket) -> None:
        # A connection that `heals` closes in the middle has no number any more: ValueError.
        with suppress(OSError, ValueError), socket.create_connection(self.target) as server:
            with self.lock:
                self.open |= {client, server}
            if self.fault == "slow down" and self._hit():
                _answer_slow_down(client)
                return
            self._pump(client, server)
        with self.lock:
            self.open.discard(client)
        client.close()

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        while not self.closing.is_set():
            for ready in select.select([client, server], [], [], 0.05)[0]:
                if self.fault in ("black hole", "reset") and passed >= self.after and self._hit():
                    self._break(client)
                    return
                data = ready.recv(64 if self.fault == "slow" else 1 << 16)
                if not data:
                    return
                if self.fault == "late":
                    self.closing.wait(0.02)
                (server if ready is client else client).sendall(data)
                passed += len(data) if ready is server else 0
                self.carried += len(data)

    def _break(self, client: socket.socket) -> None:
        if self.fault == "reset":
            _reset(client)
            return
        while self.fault == "black hole" and not self.closing.wait(0.05):
            pass


def _answer_slow_down(client: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head and (data := client.recv(1 << 16)):
        head += data
    client.sendall(SLOW_DOWN % (len(BODY), BODY))
    with suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        while client.recv(1 << 16):
            pass
    client.close()


def _reset(connection: socket.socket) -> None:
    """Close so that the other side gets a reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def network_to(host: str, port: int) -> Iterator[Network]:
    """A network to a server; connections go to `Network.port` of loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    network = Network((host, port), listener)
    accepting = threading.Thread(target=network.serve, daemon=True)
    accepting.start()
    try:
        yield network
    finally:
        network.closing.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        network.heals()
        accepting.join(10)
