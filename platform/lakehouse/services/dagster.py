"""Dagster's web server and daemon on a deployment, and the instance (`dagster.yaml`) that they and every run share."""

from __future__ import annotations

import http.client
import importlib.util
import signal
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lakehouse.services.server import Place, Server, missing
from lakehouse.settings import Settings

URL_VARIABLE = "LAKEHOUSE_DAGSTER__URL"
HEARTBEAT = timedelta(seconds=90)
"""A daemon reports about every 30 s; one that is silent for longer is not well."""


def dagster_home(settings: Settings) -> Path:
    """DAGSTER_HOME of the deployment."""
    return settings.home.resolve() / "dagster"


def write_instance(settings: Settings) -> Path:
    """Write `dagster.yaml` if it changed; returns its folder. No secret is in it: the storage URL comes from the environment."""
    import yaml

    home = dagster_home(settings)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = "# Written by `lakehouse up`; changes are overwritten.\n" + yaml.safe_dump(instance(settings), sort_keys=False)
    path = home / "dagster.yaml"
    if not path.is_file() or path.read_text() != text:
        fresh = home / ".dagster.yaml.new"
        fresh.write_text(text)
        fresh.replace(path)
    return home


def instance(settings: Settings) -> dict[str, Any]:
    """Dagster's instance configuration for a deployment."""
    days = {"skipped": 7, "success": 30, "failure": 90, "started": 30}
    retention = {kind: {"purge_after_days": dict(days)} for kind in ("schedule", "sensor")}
    return {
        "storage": {"postgres": {"postgres_url": {"env": URL_VARIABLE}}},
        "compute_logs": _compute_logs(settings),
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": "QueuedRunCoordinator",
            "config": {"dequeue_interval_seconds": 1},
        },
        "concurrency": {"pools": {"default_limit": 1, "granularity": "op"}},
        "run_monitoring": {
            "enabled": True,
            "poll_interval_seconds": 30,
            "start_timeout_seconds": 300,
            "free_slots_after_run_end_seconds": 30,
        },
        "retention": retention,
        "nux": {"enabled": False},
        "telemetry": {"enabled": False},
    }


def _compute_logs(settings: Settings) -> dict[str, Any]:
    local = str(dagster_home(settings) / "logs")
    if not settings.store.url.startswith("s3://"):
        return {
            "module": "dagster.core.storage.local_compute_log_manager",
            "class": "LocalComputeLogManager",
            "config": {"base_dir": local},
        }
    bucket, _, prefix = settings.store.url.removeprefix("s3://").strip("/").partition("/")
    config: dict[str, Any] = {
        "bucket": bucket,
        "prefix": f"{prefix}/logs" if prefix else "logs",
        "local_dir": local,
        "region": settings.store.region,
        "show_url_only": False,
        "upload_interval": 10,
    }
    if settings.store.endpoint:
        config["endpoint_url"] = settings.store.endpoint
        config["use_ssl"] = settings.store.endpoint.startswith("https:")
    return {"module": "dagster_aws.s3", "class": "S3ComputeLogManager", "config": config}


class _DagsterProcess(Server):
    """What the web server and the daemon share: the workspace and the environment of the deployment."""

    stop_signal = signal.SIGTERM
    grace = 10.0
    patience = 120.0

    def __init__(self, settings: Settings, workspace: Path, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._workspace = workspace
        self._environment = environment
        self.host = settings.dagster.host

    def prepare(self, place: Place) -> None:
        if importlib.util.find_spec("dagster_webserver") is None:
            raise missing("dagster-webserver")

    def environment(self, place: Place) -> dict[str, str]:
        return dict(self._environment)

    def folder(self, place: Place) -> Path:
        return self._workspace.parent

    def settings(self, place: Place) -> dict[str, Any]:
        return {}


class DagsterWebserver(_DagsterProcess):
    """The web UI."""

    name = "dagster-webserver"
    port_names = ("http",)
    main_port = "http"
    passing_faults = ("address already in use",)

    def preferred_ports(self) -> Mapping[str, int]:
        return {"http": self._settings.dagster.port}

    def command(self, place: Place) -> list[str]:
        listen = ["-h", self.host, "-p", str(place.ports["http"])]
        return [sys.executable, "-m", "dagster_webserver", "-w", str(self._workspace), *listen, "--log-level", "warning"]

    def probe(self, place: Place) -> str | None:
        return ask_webserver(self.host, place.ports["http"])

    def settings(self, place: Place) -> dict[str, Any]:
        return {"dagster": {"port": place.ports["http"]}}


class DagsterDaemon(_DagsterProcess):
    """Schedules, sensors, the run queue and run monitoring."""

    name = "dagster-daemon"
    port_names = ()
    main_port = ""
    _heard_after: datetime | None = None

    def command(self, place: Place) -> list[str]:
        return [sys.executable, "-m", "dagster._daemon", "run", "-w", str(self._workspace)]

    def prepare(self, place: Place) -> None:
        super().prepare(place)
        self._heard_after = datetime.now(UTC)

    def probe(self, place: Place) -> str | None:
        """Look for a sign of life: since it was started by us, or a recent one."""
        since = self._heard_after or datetime.now(UTC) - HEARTBEAT
        return ask_daemon(self._settings.dagster.url.get_secret_value(), since)


def ask_webserver(host: str, port: int) -> str | None:
    """Ask the web server who it is; None when it is one."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/server_info")
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return None if response.status == 200 and "dagster_webserver_version" in body else f"HTTP {response.status}: {body[:200]}"


def ask_daemon(url: str, since: datetime) -> str | None:
    """Look in Dagster's storage for a sign of life of the daemon; None when there is one after `since`."""
    import psycopg

    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            row = connection.execute("select max(timestamp) from daemon_heartbeats").fetchone()
    except psycopg.Error as error:
        return str(error).strip()
    if row is None or row[0] is None:
        return "no sign of life yet"
    heard = row[0].replace(tzinfo=UTC)
    return None if heard > since else f"last sign of life at {heard:%Y-%m-%d %H:%M:%S} UTC"
