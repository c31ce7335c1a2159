"""`services.json`: what `lakehouse up` started in a home, with which ports and passwords, and the settings that lead there.

`{"version": 1, "services": {name: {...}}, "settings": {...}}`. The file holds passwords (mode 0600) and is replaced
atomically, so a reader without the lock sees a whole one. Writers hold the home's lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lakehouse.errors import ServiceFailed
from lakehouse.services.processes import Process
from lakehouse.settings import SERVICES_FILE

VERSION = 1
LOCK_FILE = "services.lock"


@dataclass(frozen=True)
class Service:
    """One server of a deployment: kept over restarts, except for the process."""

    name: str
    ports: dict[str, int]
    user: str = field(repr=False)
    password: str = field(repr=False)
    process: Process | None = None


class Record:
    """The content of a home's services.json; safe to use from several threads."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / SERVICES_FILE
        self.services: dict[str, Service] = {}
        self.settings: dict[str, Any] = {}
        self._lock = threading.Lock()
        if self.path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text())
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']}")
            for name, service in content["services"].items():
                process = Process(**service["process"]) if service["process"] else None
                self.services[name] = Service(name, service["ports"], service["user"], service["password"], process)
            self.settings = content["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceFailed(
                f"reading {self.path}",
                value=f"{type(error).__name__}: {error}",
                allowed=f"a file that `lakehouse up` wrote, version {VERSION}",
                remedy="Restore the file; or remove this home's data with `lakehouse down --wipe` and start afresh.",
            ) from None

    def put(self, service: Service) -> None:
        """Remember a service, at once on disk."""
        with self._lock:
            self.services[service.name] = service
            self._write()

    def running(self, name: str, process: Process | None) -> Service:
        """Remember the process of a service, or that it has none, at once on disk."""
        service = replace(self.services[name], process=process)
        self.put(service)
        return service

    def lead(self, part: dict[str, Any]) -> None:
        """Merge a nested part into the recorded settings, at once on disk."""
        with self._lock:
            merge(self.settings, part)
            self._write()

    def ports(self) -> set[int]:
        """Every port that is spoken for."""
        with self._lock:
            return {port for service in self.services.values() for port in service.ports.values()}

    def _write(self) -> None:
        services = {name: asdict(service) for name, service in sorted(self.services.items())}
        content = {"version": VERSION, "services": services, "settings": self.settings}
        write_private(self.path, json.dumps(content, indent=1) + "\n")


def merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    """Put each leaf of `part` into the nested dictionary `into`."""
    for key, value in part.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner reads."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    fresh.replace(path)


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Be the only one that starts or stops servers of this home; waits for the other."""
    path = home / LOCK_FILE
    while True:
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # it was removed again meanwhile
        except FileExistsError:
            if os.path.lexists(home) and not home.is_dir():
                raise
            continue  # it was removed while it was looked at
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):
                yield
                return
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a path names the file that a descriptor has open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
