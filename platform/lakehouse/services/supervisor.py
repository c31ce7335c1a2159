"""Start, health and stop of the embedded servers of a deployment."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lakehouse.errors import ConfigurationError, ServiceFailed, WrongUse
from lakehouse.services.addresses import is_ours, led
from lakehouse.services.bringing import Bringing, OnEvent, all_at_once, mark
from lakehouse.services.clickhouse import ClickHouse
from lakehouse.services.dagster import DagsterDaemon, DagsterWebserver, write_instance
from lakehouse.services.environment import environment
from lakehouse.services.health import ServiceStatus, ask_all
from lakehouse.services.mongodb import MongoDB
from lakehouse.services.postgres import CATALOG, DAGSTER, Postgres
from lakehouse.services.processes import is_alive, marked
from lakehouse.services.processes import stop as stop_process
from lakehouse.services.record import LOCK_FILE, Record, locked
from lakehouse.services.s3 import S3
from lakehouse.services.server import Place, Server
from lakehouse.settings import SERVICES_FILE, Settings

STORES: tuple[Server, ...] = (Postgres(), MongoDB(), S3(), ClickHouse())
"""The servers that hold data, in starting order."""

_KINDS: tuple[type[Server], ...] = (*(type(server) for server in STORES), DagsterWebserver, DagsterDaemon)
KINDS = {kind.name: kind for kind in _KINDS}
STOPPING = (("dagster-daemon", "dagster-webserver"), ("clickhouse",), ("s3", "mongodb", "postgres"))


@dataclass(frozen=True)
class Services:
    """What is up after `start`."""

    settings: Settings
    """The settings that were given, leading to the servers."""
    addresses: dict[str, str]
    """`host:port` by service."""
    started: tuple[str, ...]
    """Services that were not running before."""


def start(
    settings: Settings,
    sources: Mapping[str, str] | None = None,
    *,
    only: Collection[str] | None = None,
    on_event: OnEvent = lambda event: None,
) -> Services:
    """Start what is not running of the embedded servers, wait until each answers a real request, and say where they are.

    sources: kind (`postgres` or `mongodb`) by source name; each gets a database and a URL, unless settings name one.
    only: names of the servers to start; by default those that the settings do not place elsewhere.
    Ports and passwords are kept over restarts; a port that was taken meanwhile is replaced. A server that died is started
    again on its data. When one fails (ServiceFailed) the others stay up and the next call tries only that one again.
    """
    _check(settings, sources or {}, only)
    home = settings.home.resolve()
    with locked(home):
        record = Record(home)
        _keep_privacy_key(settings, record)
        embedded = _embedded_sources(settings, sources or {}, record)
        servers = [server for server in STORES if _is_wanted(server, settings, record, embedded, only)]
        bringing = [Bringing(server, record, embedded, on_event) for server in servers]
        all_at_once(bringing)
        started = tuple(each.server.name for each in bringing if each.was_started)
        addresses = {each.server.name: each.server.address(each.place) for each in bringing if each.server.port_names}
        leading = led(settings, record)
        write_instance(leading)
        return Services(leading, addresses, started)


def _check(settings: Settings, sources: Mapping[str, str], only: Collection[str] | None) -> None:
    if settings.profile != "embedded":
        raise WrongUse(
            "starting embedded servers",
            value=f"profile {settings.profile!r}",
            allowed="profile 'embedded'",
            remedy="Unset LAKEHOUSE_PROFILE, or start your own servers: this profile uses those that the settings name.",
        )
    for name, kind in sources.items():
        if kind not in ("postgres", "mongodb") or (kind == "postgres" and name in (CATALOG, DAGSTER, "postgres")):
            raise ConfigurationError(
                f"making an embedded database for source {name!r} of kind {kind!r}",
                allowed=f"kinds postgres and mongodb; names other than {CATALOG}, {DAGSTER} and postgres",
                remedy=f"Rename the source, or say where it is with LAKEHOUSE_SOURCES__{name.upper()}__URL.",
            )
    known = {server.name for server in STORES}
    if only is not None and not known >= set(only):
        raise WrongUse(
            "starting embedded servers", value=sorted(set(only) - known), allowed=str(sorted(known)), remedy="Correct the name."
        )


def _keep_privacy_key(settings: Settings, record: Record) -> None:
    if not record.settings.get("privacy_key"):
        given = settings.privacy_key.get_secret_value()
        record.lead({"privacy_key": given or secrets.token_hex(32)})


def _embedded_sources(settings: Settings, sources: Mapping[str, str], record: Record) -> dict[str, str]:
    """The sources that get a database here: not those whose URL somebody gave."""
    return {
        name: kind
        for name, kind in sources.items()
        if name not in settings.sources or is_ours(settings.sources[name].url.get_secret_value(), record)
    }


def _is_wanted(
    server: Server, settings: Settings, record: Record, embedded: Mapping[str, str], only: Collection[str] | None
) -> bool:
    """Whether a server is to be started: it was asked for, or nobody said that its part is played elsewhere."""
    if only is not None:
        return server.name in only
    if server.name == "mongodb":
        return "mongodb" in embedded.values() or server.name in record.services
    if server.name == "s3":
        key = settings.store.secret_key
        return not settings.store.url or (key is not None and is_ours(key.get_secret_value(), record))
    if server.name == "clickhouse":
        return not settings.warehouse.host or is_ours(settings.warehouse.password.get_secret_value(), record)
    given = [settings.catalog.url.get_secret_value(), settings.dagster.url.get_secret_value()]
    return "postgres" in embedded.values() or not all(url and not is_ours(url, record) for url in given)


def stop(settings: Settings, *, wipe: bool = False, on_event: OnEvent = lambda event: None) -> tuple[str, ...]:
    """Stop every server of this home in reverse order and wait until it is gone; returns the names of those that ran.

    wipe: also remove data, logs, Dagster's folder, kept manifests and the recorded addresses; nothing else that lies in the home.
    """
    home = settings.home.resolve()
    if not home.is_dir():
        return ()
    with locked(home):
        record = Record(home)
        stopped = _stop_all(record, on_event)
        if wipe:
            _wipe(home)
    if wipe and not any(home.iterdir()):
        home.rmdir()
    return stopped


def _stop_all(record: Record, on_event: OnEvent) -> tuple[str, ...]:
    """Dagster before the warehouse before the rest: what uses another server ends first."""
    stopped: list[str] = []
    for stage in STOPPING:
        with ThreadPoolExecutor(max_workers=len(stage)) as pool:
            ran = pool.map(lambda name: _stop_one(record, name, on_event), stage)
            stopped += [name for name, did in zip(stage, ran, strict=True) if did]
    return tuple(stopped)


def _stop_one(record: Record, name: str, on_event: OnEvent) -> bool:
    """Stop one service and forget its process; whether it ran."""
    service = record.services.get(name)
    if service is None:
        return False
    process = service.process if is_alive(service.process) else marked(mark(record.home, name))
    kind, process = KINDS[name], process or service.process
    if process is None:
        return False
    ran = is_alive(process)
    if not stop_process(process, first=kind.stop_signal, grace=kind.grace):
        raise ServiceFailed(
            f"stopping {name}", value=f"process {process.pid} did not end", remedy=f"End it by hand: kill -9 {process.pid}."
        )
    record.running(name, None)
    kind.tidy(Place.of(record.home, service, {}))
    if ran:
        on_event(f"{name}: stopped")
    return ran


def _wipe(home: Path) -> None:
    for folder in ("data", "logs", "dagster", "tmp", "manifests"):
        if (home / folder).exists():
            shutil.rmtree(home / folder)
    for file in (SERVICES_FILE, LOCK_FILE):
        (home / file).unlink(missing_ok=True)


def not_running(settings: Settings, sources: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the servers that `start` would start: those of this home whose process is not there. Asks no server."""
    if settings.profile != "embedded":
        return ()
    record = Record(settings.home.resolve())
    embedded = _embedded_sources(settings, sources, record)
    wanted = [server.name for server in STORES if _is_wanted(server, settings, record, embedded, None)]
    return tuple(name for name in wanted if name not in record.services or not is_alive(record.services[name].process))


def status(settings: Settings) -> list[ServiceStatus]:
    """How each service is, in starting order; asks each a real request."""
    record = Record(settings.home.resolve())
    return ask_all(record, [*STORES, *_ui(led(settings, record), Path())])


def start_ui(settings: Settings, *, workspace: Path = Path("workspace.yaml"), on_event: OnEvent = lambda event: None) -> str:
    """Start Dagster's web server and daemon on the deployment, wait until both are well; returns the address of the UI.

    workspace: Dagster's workspace file; its folder becomes the working directory. The servers that the settings lead to
    must be up. Idempotent: what runs already stays.
    """
    if not workspace.is_file():
        raise WrongUse(
            "starting Dagster's web server",
            value=str(workspace),
            allowed="a workspace file of Dagster",
            remedy="Run the command in the project's folder.",
        )
    home = settings.home.resolve()
    with locked(home):
        record = Record(home)
        settings = led(settings, record)
        write_instance(settings)
        servers = _ui(settings, workspace.resolve())
        all_at_once([Bringing(server, record, {}, on_event) for server in servers])
        return _url(settings, record)


def stop_ui(settings: Settings, *, on_event: OnEvent = lambda event: None) -> tuple[str, ...]:
    """Stop the web server and the daemon; the servers that hold data go on."""
    home = settings.home.resolve()
    if not home.is_dir():
        return ()
    with locked(home):
        record = Record(home)
        return tuple(kind.name for kind in (DagsterDaemon, DagsterWebserver) if _stop_one(record, kind.name, on_event))


def ui_address(settings: Settings) -> str | None:
    """The address of the web UI while its process runs, else None."""
    record = Record(settings.home.resolve())
    service = record.services.get(DagsterWebserver.name)
    return _url(settings, record) if service is not None and is_alive(service.process) else None


def _url(settings: Settings, record: Record) -> str:
    return f"http://{settings.dagster.host}:{record.services[DagsterWebserver.name].ports['http']}"


def _ui(settings: Settings, workspace: Path) -> list[Server]:
    surroundings = {**os.environ, **environment(settings, project=workspace.parent)}
    return [DagsterWebserver(settings, workspace, surroundings), DagsterDaemon(settings, workspace, surroundings)]
