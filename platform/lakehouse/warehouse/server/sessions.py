"""Sessions: connections that outlive a request, each used by one request at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from lakehouse.warehouse.server.engine import Connection, Engine, literal
from lakehouse.warehouse.server.failures import EngineError

DEFAULT_TIMEOUT = 60.0
_GRACE = 1.0
"""Seconds that a request waits for its session: the one before has its answer a moment before it lets the session go."""


@dataclass
class Session:
    """A connection kept under a client's session_id.

    given: settings of the last request, still in force on the connection. before: what they replaced (None: the default).
    """

    connection: Connection
    lock: threading.Lock = field(default_factory=threading.Lock)
    timeout: float = DEFAULT_TIMEOUT
    used_at: float = field(default_factory=time.monotonic)
    given: dict[str, str] = field(default_factory=dict)
    before: dict[str, str | None] = field(default_factory=dict)

    def prepare(self, settings: Mapping[str, str]) -> None:
        """Make `settings` hold for the next statement and those of earlier requests no more.

        A setting of a request ends with it; one that the session itself SET stays. Most clients send the same ones each time, so
        only the difference is run.
        """
        for name in [name for name in self.given if name not in settings]:
            previous = self.before.pop(name)
            del self.given[name]
            self.connection.run(f"SET {name} = {'DEFAULT' if previous is None else literal(previous)}")
        new = {name: value for name, value in settings.items() if self.given.get(name) != value}
        unknown = [name for name in new if name not in self.before]
        if not new:
            return
        previous_values: dict[str, str | None] = dict.fromkeys(unknown)
        if unknown:
            names = ", ".join(literal(name) for name in unknown)
            answer, _ = self.connection.run(
                f"SELECT name, value FROM system.settings WHERE changed AND name IN ({names})", "TabSeparatedRaw"
            )
            for line in answer.decode().splitlines():
                name, _, value = line.partition("\t")
                previous_values[name] = value
        self.connection.set(new)
        self.before.update(previous_values)
        self.given.update(new)


class Sessions:
    """All sessions of the server; those that were not used for their timeout are closed when the next request comes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    @contextmanager
    def use(self, name: str, *, timeout: float, check: bool) -> Iterator[Session]:
        """The session of that name for the length of one request.

        Raises EngineError 373 while another request uses it, 372 when `check` is set and it does not exist.
        """
        with self._lock:
            for old in self._expired():
                old.connection.close()
            session = self._sessions.get(name)
            if session is None and check:
                raise EngineError(372, f"Session {name} not found", "SESSION_NOT_FOUND")
            if session is None:
                session = self._sessions[name] = Session(self._engine.connect())
            session.used_at = time.monotonic()
        if not session.lock.acquire(timeout=_GRACE):
            raise EngineError(373, f"Session {name} is locked by a concurrent client", "SESSION_IS_LOCKED")
        try:
            session.timeout = timeout
            yield session
        finally:
            session.used_at = time.monotonic()
            session.lock.release()

    def end(self, name: str) -> None:
        """Close a session; one that is in use is closed when its request ends by its timeout."""
        with self._lock:
            session = self._sessions.pop(name, None)
        if session is not None:
            session.connection.close()

    def _expired(self) -> list[Session]:
        now = time.monotonic()
        names = [
            name
            for name, session in self._sessions.items()
            if now - session.used_at > session.timeout and not session.lock.locked()
        ]
        return [self._sessions.pop(name) for name in names]
