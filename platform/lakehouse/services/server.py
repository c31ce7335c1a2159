"""What the supervisor needs to know of a server, and the parts that every server shares."""

from __future__ import annotations

import signal
import sys
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lakehouse.errors import ConfigurationError
from lakehouse.services.ports import HOST, free_port, is_free
from lakehouse.services.record import Service


@dataclass(frozen=True)
class Place:
    """One server of one deployment: its folder, log, ports and credentials."""

    home: Path
    name: str
    ports: Mapping[str, int]
    user: str = field(repr=False)
    password: str = field(repr=False)
    sources: Mapping[str, str] = field(default_factory=dict)
    """The embedded sources by kind (`postgres`, `mongodb`), each of which gets a database."""

    @classmethod
    def of(cls, home: Path, service: Service, sources: Mapping[str, str]) -> Place:
        """The place of a recorded service."""
        return cls(home, service.name, service.ports, service.user, service.password, sources)

    @property
    def data(self) -> Path:
        """The folder of the server's data; nothing else is in it."""
        return self.home / "data" / self.name

    @property
    def log(self) -> Path:
        """The server's output over all its starts."""
        return self.home / "logs" / f"{self.name}.log"

    def sources_of(self, kind: str) -> list[str]:
        """Names of the embedded sources of one kind."""
        return sorted(name for name, its_kind in self.sources.items() if its_kind == kind)


class Server(ABC):
    """One kind of server: how it is made ready, started, asked and stopped."""

    name: ClassVar[str]
    host: str = HOST
    """Address that it listens on."""
    port_names: ClassVar[tuple[str, ...]]
    main_port: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    grace: ClassVar[float] = 10.0
    """Seconds it may take to stop before its group is killed."""
    patience: ClassVar[float] = 60.0
    """Seconds it may take to answer its first request."""
    passing_faults: ClassVar[tuple[str, ...]] = ()
    """Words in its log, in small letters, that mean: it ended, but another start in a moment will succeed."""

    def preferred_ports(self) -> Mapping[str, int]:
        """Ports to try first."""
        return {}

    def prepare(self, place: Place) -> None:
        """Make the data folder ready; may be repeated, and leaves no half-made one behind."""
        place.data.mkdir(mode=0o700, parents=True, exist_ok=True)

    @abstractmethod
    def command(self, place: Place) -> list[str]:
        """The command line; no secrets, since others can see it."""

    def environment(self, place: Place) -> dict[str, str]:
        """Variables beside the inherited ones."""
        return {}

    def folder(self, place: Place) -> Path:
        """The working directory of the process."""
        return place.data

    @abstractmethod
    def probe(self, place: Place) -> str | None:
        """Make one real request; None when it was answered rightly, else why not."""

    def settle(self, place: Place) -> None:  # noqa: B027
        """Create what a deployment needs in the running server; may be repeated."""

    @staticmethod  # noqa: B027
    def tidy(place: Place) -> None:
        """Remove what a stopped server leaves outside of the home."""

    @abstractmethod
    def settings(self, place: Place) -> dict[str, Any]:
        """The part of Settings that leads here."""

    def address(self, place: Place) -> str:
        """`host:port` of the server."""
        return f"{self.host}:{place.ports[self.main_port]}"


def script(name: str, package: str) -> str:
    """The path of a program that a package of the extra `embedded` put beside this Python."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.is_file():
        path = Path(sys.executable).parent / name
    if not path.is_file():
        raise missing(package)
    return str(path)


def missing(package: str) -> ConfigurationError:
    """The error for a server whose package is not installed."""
    return ConfigurationError(
        f"starting an embedded server: the package {package} is not installed",
        value=f"Python {sys.prefix}",
        allowed="the servers of the extra `embedded`, or servers of your own with LAKEHOUSE_PROFILE=external",
        remedy="Install them with `pip install 'lakehouse[embedded]'`.",
    )


def choose_ports(server: Server, taken: Collection[int], kept: Mapping[str, int]) -> dict[str, int]:
    """A port for each of the server's port names: the kept one where it is free, else another."""
    chosen: dict[str, int] = {}
    for name in server.port_names:
        wanted = kept.get(name) or server.preferred_ports().get(name)
        others = {*taken, *chosen.values()} - ({wanted} if name in kept else set())
        if wanted and wanted not in others and is_free(wanted, server.host):
            chosen[name] = wanted
        else:
            chosen[name] = free_port({*taken, *chosen.values()}, server.host)
    return chosen
