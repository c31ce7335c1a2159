"""How each service of a deployment is, by a real request to each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lakehouse.services.processes import is_alive
from lakehouse.services.record import Record
from lakehouse.services.server import Place, Server


@dataclass(frozen=True)
class ServiceStatus:
    """One line of `lakehouse status`."""

    name: str
    state: Literal["running", "stopped", "unhealthy"]
    address: str | None
    pid: int | None
    detail: str
    """Why it is not well; empty when it is, or was stopped."""
    data_bytes: int


def ask_all(record: Record, servers: list[Server]) -> list[ServiceStatus]:
    """The status of each server, asked at the same time."""
    with ThreadPoolExecutor(max_workers=max(1, len(servers))) as pool:
        return list(pool.map(lambda server: _ask(record, server), servers))


def _ask(record: Record, server: Server) -> ServiceStatus:
    service = record.services.get(server.name)
    if service is None:
        return ServiceStatus(server.name, "stopped", None, None, "", 0)
    place = Place.of(record.home, service, {})
    address, held = server.address(place) if server.port_names else None, size(place.data)
    if not is_alive(service.process) or service.process is None:
        detail = "" if service.process is None else f"process {service.process.pid} is gone; `lakehouse up` starts it again"
        return ServiceStatus(server.name, "stopped", address, None, detail, held)
    reason = server.probe(place)
    state: Literal["running", "unhealthy"] = "running" if reason is None else "unhealthy"
    return ServiceStatus(server.name, state, address, service.process.pid, reason or "", held)


def size(folder: Path) -> int:
    """Bytes of the files under a folder; files that vanish meanwhile don't count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except FileNotFoundError:
            continue
    return total
