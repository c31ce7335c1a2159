"""A statement that runs while its client waits: its result in a pipe, its end, and what can be said of it afterwards."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic

from lakehouse.warehouse.server.engine import Counts, widen
from lakehouse.warehouse.server.failures import EngineError

PIPE = 1 << 20
"""Bytes that are read from the pipe at once."""


@dataclass
class Answer:
    """What is left to say once a statement was run: its counts, or the error it ended with."""

    counts: Counts
    error: EngineError | None
    seconds: float
    content: bytes = b""

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
    """A statement in a thread of its own. `work` is given the pipe's end to write to; small content it may return instead.

    cancel: ends the statement early; called when its client is gone.
    """

    def __init__(self, work: Callable[[int], tuple[bytes, Counts]], cancel: Callable[[], None]) -> None:
        self._reader, self._writer = os.pipe()
        widen(self._writer)
        self._work = work
        self._cancel = cancel
        self._closed = False
        self._begun = monotonic()
        self._answer = Answer(Counts(), None, 0.0)
        self._thread = threading.Thread(target=self._run, name="statement", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return monotonic() - self._begun

    def chunks(self, client: socket.socket, interval: float, on_wait: Callable[[], None]) -> Iterator[bytes]:
        """The result, as it comes; `on_wait` is called whenever `interval` seconds bring nothing.

        Raises ConnectionError when the client hangs up meanwhile.
        """
        watched: list[int | socket.socket] = [self._reader, client]
        while True:
            ready, _, _ = select.select(watched, [], [], interval)
            if client in ready:
                if not client.recv(1, socket.MSG_PEEK):
                    raise ConnectionError("the client hung up")
                watched.remove(client)
            if self._reader in ready:
                chunk = os.read(self._reader, PIPE)
                if not chunk:
                    return
                yield chunk
            elif not ready:
                on_wait()

    def end(self) -> Answer:
        """Wait for the end of a statement whose result was read to its end; otherwise end it. May be called again."""
        if not self._closed:
            # Once only: the number belongs to another thread's file as soon as it is free.
            self._closed = True
            os.close(self._reader)
        if self._thread.is_alive() and self._writer >= 0:
            self._cancel()
        self._thread.join()
        return self._answer

    def _run(self) -> None:
        try:
            self._answer.content, self._answer.counts = self._work(self._writer)
        except EngineError as error:
            self._answer.error = error
        finally:
            self._answer.seconds = self.seconds
            writer, self._writer = self._writer, -1
            os.close(writer)
