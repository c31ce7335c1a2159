"""Dagster's instance, web server and daemon on embedded servers."""

from __future__ import annotations

import json
import os
import socket
import textwrap
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lakehouse import services
from lakehouse.errors import WrongUse
from lakehouse.services.processes import poll
from lakehouse.settings import Settings
from tests.servers import SOURCES, Deployment

DEFINITIONS = """
import dagster as dg

@dg.asset
def greeting(context):
    context.log.info("hello")

defs = dg.Definitions([greeting])
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A project of one asset."""
    (tmp_path / "definitions.py").write_text(textwrap.dedent(DEFINITIONS))
    path = tmp_path / "workspace.yaml"
    path.write_text("load_from:\n  - python_file: definitions.py\n")
    return path


@pytest.fixture
def in_environment(servers: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The environment of `lakehouse env` in this process."""
    for name, value in services.environment(servers).items():
        monkeypatch.setenv(name, value)
    return servers


def test_dagster_loads_the_instance_as_it_is_meant(in_environment: Settings) -> None:
    from dagster import DagsterInstance
    from dagster._core.run_coordinator import QueuedRunCoordinator

    with DagsterInstance.get() as instance:
        assert type(instance.run_storage).__name__ == "PostgresRunStorage"
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
        assert type(instance.schedule_storage).__name__ == "PostgresScheduleStorage"
        assert type(instance.compute_log_manager).__name__ == "S3ComputeLogManager"
        assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
        assert instance.run_coordinator.dequeue_interval_seconds == 1
        pools = instance.get_concurrency_config().pool_config
        assert (pools.default_pool_limit, str(pools.pool_granularity)) == (1, "PoolGranularity.OP")
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] > 0
        assert not instance.nux_enabled
        assert not instance.telemetry_enabled


def test_dagster_yaml_follows_the_store(servers: Settings, tmp_path: Path) -> None:
    files = servers.model_copy(update={"home": tmp_path, "store": servers.store.model_copy(update={"url": "file:///some/where"})})
    folder = services.write_instance(files)
    assert yaml.safe_load((folder / "dagster.yaml").read_text())["compute_logs"]["class"] == "LocalComputeLogManager"
    prefixed = files.model_copy(update={"store": servers.store.model_copy(update={"url": "s3://bucket/a/b"})})
    services.write_instance(prefixed)
    logs = yaml.safe_load((folder / "dagster.yaml").read_text())["compute_logs"]["config"]
    assert (logs["bucket"], logs["prefix"]) == ("bucket", "a/b/logs")


def test_an_unchanged_dagster_yaml_is_not_written_again(servers: Settings) -> None:
    path = services.write_instance(servers) / "dagster.yaml"
    os.utime(path, (1, 1))
    services.write_instance(servers)
    assert path.stat().st_mtime == 1


@pytest.fixture
def ui(own_deployment: Deployment, workspace: Path) -> Iterator[tuple[Settings, Path]]:
    """A deployment with Postgres and S3 up and a wanted port that is taken."""
    settings = own_deployment.start(["postgres", "s3"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        yield settings.model_copy(update={"dagster": settings.dagster.model_copy(update={"port": port})}), workspace


def test_the_ui_serves_runs_and_comes_back_after_a_kill(ui: tuple[Settings, Path], own_deployment: Deployment) -> None:
    settings, workspace = ui
    address = services.start_ui(settings, workspace=workspace)
    assert not address.endswith(f":{settings.dagster.port}")
    assert services.start_ui(settings, workspace=workspace) == address == services.ui_address(settings)
    states = {status.name: status.state for status in services.status(settings)}
    assert (states["dagster-webserver"], states["dagster-daemon"]) == ("running", "running")

    run = _launch(address)
    assert poll(lambda: _state(address, run) in ("SUCCESS", "FAILURE"), seconds=120, every=0.5)
    assert _state(address, run) == "SUCCESS"

    own_deployment.kill("dagster-webserver")
    own_deployment.kill("dagster-daemon")
    assert services.ui_address(settings) is None
    assert services.start_ui(settings, workspace=workspace) == address
    assert _state(address, run) == "SUCCESS"
    led = services.start(own_deployment.settings, SOURCES, only=["postgres"]).settings
    assert address.endswith(f":{led.dagster.port}")

    assert services.stop_ui(settings) == ("dagster-daemon", "dagster-webserver")
    assert services.ui_address(settings) is None
    assert own_deployment.status("postgres").state == "running"


def _ask(address: str, query: str) -> Any:
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["data"]


def _launch(address: str) -> str:
    selector = '{repositoryLocationName: "definitions.py", repositoryName: "__repository__", jobName: "__ASSET_JOB"}'
    asked = f'mutation {{launchRun(executionParams: {{selector: {selector}, mode: "default"}})'
    answer = _ask(address, asked + " {... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}")
    return str(answer["launchRun"]["run"]["runId"])


def _state(address: str, run: str) -> str:
    return str(_ask(address, f'{{runOrError(runId: "{run}") {{... on Run {{status}}}}}}')["runOrError"]["status"])


def test_the_ui_needs_a_workspace(servers: Settings, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="a workspace file of Dagster"):
        services.start_ui(servers, workspace=tmp_path / "workspace.yaml")
