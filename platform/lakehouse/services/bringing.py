"""Bringing one server up: found running and well, or started and waited for."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lakehouse.errors import ServiceFailed
from lakehouse.services.ports import is_free
from lakehouse.services.processes import MARK, Process, inherited_environment, is_alive, last_lines, marked, spawn, stop
from lakehouse.services.record import Record, Service
from lakehouse.services.server import Place, Server, choose_ports

OnEvent = Callable[[str], None]


def mark(home: Path, name: str) -> str:
    """What the environment of a server says of whose it is."""
    return f"{home}:{name}"


class Bringing:
    """One server on its way up."""

    def __init__(self, server: Server, record: Record, sources: Mapping[str, str], on_event: OnEvent) -> None:
        self.server = server
        self.record = record
        self.sources = sources
        self.on_event = on_event
        self.was_started = False
        self.reason: str | None = None

    @property
    def place(self) -> Place:
        return Place.of(self.record.home, self.record.services[self.server.name], self.sources)

    @property
    def _where(self) -> str:
        return f" on {self.server.address(self.place)}" if self.server.port_names else ""

    def run(self, cancelled: threading.Event) -> None:
        """Find it running and well, or start it; then create what the deployment needs in it."""
        began = time.monotonic()
        name = self.server.name
        process = self._adopt()
        if process is None or not self._answers(process, cancelled, seconds=10.0):
            if process is not None:
                self.on_event(f"{name}: does not answer, starting again")
                stop(process, first=self.server.stop_signal, grace=min(self.server.grace, 2.0))
            self._start(cancelled)
            self.was_started = True
        self.server.settle(self.place)
        self.record.lead(self.server.settings(self.place))
        said = f"ready after {time.monotonic() - began:.1f} s" if self.was_started else "already running"
        self.on_event(f"{name}: {said}{self._where}")

    def _adopt(self) -> Process | None:
        """The running process of this server, also one whose start was cut off before it was recorded."""
        service = self.record.services.get(self.server.name)
        if service is None:
            return None
        if is_alive(service.process):
            return service.process
        process = marked(mark(self.record.home, self.server.name))
        self.record.running(self.server.name, process)
        return process

    def _start(self, cancelled: threading.Event) -> None:
        """Start it and wait; a port that somebody took in between, or a fault that passes, is tried again."""
        deadline = time.monotonic() + self.server.patience
        while True:
            self._allot()
            place = self.place
            self.server.prepare(place)
            if not self.was_started:
                self.on_event(f"{self.server.name}: starting{self._where}")
                self.was_started = True
            environment = {
                **inherited_environment(),
                **self.server.environment(place),
                MARK: mark(self.record.home, self.server.name),
            }
            size = place.log.stat().st_size if place.log.exists() else 0
            process = spawn(self.server.command(place), cwd=self.server.folder(place), log=place.log, environment=environment)
            self.record.running(self.server.name, process)
            if self._answers(process, cancelled, seconds=deadline - time.monotonic()):
                return
            said = _since(place.log, size)
            ended = not is_alive(process)
            stop(process, first=self.server.stop_signal, grace=self.server.grace)
            self.record.running(self.server.name, None)
            passing = any(word in said for word in self.server.passing_faults)
            if not (ended and passing) or time.monotonic() > deadline or cancelled.is_set():
                raise self._failed(place, ended=ended)
            cancelled.wait(0.2)

    def _allot(self) -> None:
        """Give the server its ports and password: those of last time, but no port that another program holds."""
        service = self.record.services.get(self.server.name)
        if service is None and (self.record.home / "data" / self.server.name / "db").exists():
            raise ServiceFailed(
                f"starting {self.server.name}: its data are there, but {self.record.path} does not hold their password",
                value=str(self.record.home / "data" / self.server.name),
                remedy="Put services.json back, or remove the data with `lakehouse down --wipe`.",
            )
        kept = service.ports if service else {}
        others = self.record.ports() - set(kept.values())
        ports = choose_ports(self.server, others, kept)
        moved = [f"{name} {kept[name]} -> {port}" for name, port in ports.items() if name in kept and kept[name] != port]
        if moved:
            self.on_event(f"{self.server.name}: port taken, moved: {', '.join(moved)}")
        user = service.user if service else "lakehouse"
        password = service.password if service else secrets.token_hex(16)
        self.record.put(Service(self.server.name, ports, user, password))

    def _answers(self, process: Process, cancelled: threading.Event, *, seconds: float) -> bool:
        """Wait until it answers a real request; False if it ended, or the time did."""
        deadline = time.monotonic() + seconds
        place = self.place
        port = place.ports[self.server.main_port] if self.server.port_names else None
        while is_alive(process) and not cancelled.is_set() and time.monotonic() < deadline:
            self.reason = "it does not listen" if port and is_free(port, self.server.host) else self.server.probe(place)
            if self.reason is None and is_alive(process):
                return True
            cancelled.wait(0.05)
        return False

    def _failed(self, place: Place, *, ended: bool) -> ServiceFailed:
        what = "it ended" if ended else f"it did not answer within {self.server.patience:.0f} s ({self.reason})"
        return ServiceFailed(
            f"starting {self.server.name}: {what}. The last lines of {place.log}:\n{last_lines(place.log)}",
            remedy=f"Mend what the log names (disk full? memory?), then `lakehouse up` again; all of it is in {place.log}.",
        )


def _since(log: Path, size: int) -> str:
    """What a log says beyond its former size, in small letters; all of it when a new log was begun meanwhile."""
    with log.open("rb") as stream:
        stream.seek(size if log.stat().st_size >= size else 0)
        return stream.read(1_000_000).decode(errors="replace").lower()


def all_at_once(bringing: Sequence[Bringing]) -> None:
    """Bring several servers up in parallel; the first failure is raised when all have ended."""
    if not bringing:
        return
    cancelled = threading.Event()
    with ThreadPoolExecutor(max_workers=len(bringing)) as pool:
        futures = [pool.submit(each.run, cancelled) for each in bringing]
        try:
            failures = [error for future in futures if (error := future.exception()) is not None]
        except BaseException:
            cancelled.set()
            raise
    if failures:
        raise failures[0]
