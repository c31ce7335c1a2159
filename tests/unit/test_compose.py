"""docker-compose.yml holds the same platform: what it passes exists, and nothing in it has a default password."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from assets import SOURCES
from lakehouse.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
ONE_SHOT = {"bucket"}
SECRETS = ("POSTGRES_PASSWORD", "MONGO_PASSWORD", "MINIO_PASSWORD", "CLICKHOUSE_PASSWORD", "PRIVACY_KEY")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def environments(compose: dict[str, Any]) -> dict[str, str]:
    return {k: v for service in compose["services"].values() for k, v in (service.get("environment") or {}).items()}


def filled(text: str) -> str:
    return re.sub(r"\$\{(\w+):\?[^}]*\}", r"secret-\1", text)


def test_the_settings_that_compose_passes_lead_to_its_own_servers(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)
    for name, value in environments(compose).items():
        if name.startswith("LAKEHOUSE_"):
            monkeypatch.setenv(name, filled(value))
    settings = load_settings()
    hosts = set(compose["services"])
    assert settings.warehouse.host in hosts
    assert settings.store.endpoint is not None
    assert any(f"//{host}:" in settings.store.endpoint for host in hosts)
    for source in SOURCES:
        assert any(f"@{host}:" in settings.source_url(source.name) for host in hosts), source.name


def test_every_variable_that_compose_passes_is_a_setting(compose: dict[str, Any]) -> None:
    known = {f"LAKEHOUSE_{name.upper()}" for name in Settings.model_fields}
    for name in environments(compose):
        if name.startswith("LAKEHOUSE_"):
            assert name.split("__")[0] in known, name


def test_no_secret_has_a_value_that_would_survive_into_production(compose: dict[str, Any]) -> None:
    for name, value in environments(compose).items():
        if (
            re.search(r"PASSWORD|SECRET|_KEY$|_URL$", name)
            and "s3://" not in value
            and not name.endswith(("ACCESS_KEY", "KEY_ID"))
        ):
            assert re.search(r"\$\{\w+:\?", value), f"{name} has a default"
    example = (ROOT / "deploy/compose/env.example").read_text()
    for secret in SECRETS:
        assert re.search(rf"^{secret}=$", example, re.MULTILINE), secret


def test_every_server_has_a_health_check_and_every_volume_a_name(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert name in ONE_SHOT or "healthcheck" in service, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith("./") or source in compose["volumes"], volume


def test_what_compose_builds_and_mounts_is_in_the_repository(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        build = service.get("build")
        if isinstance(build, str):
            assert (ROOT / build / "Dockerfile").is_file()
        elif build:
            assert (ROOT / build["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert (ROOT / volume.split(":")[0]).is_file()


def test_the_published_ports_are_on_loopback(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_a_compose_client_accepts_the_file_where_there_is_one() -> None:
    client = _client()
    if client is None:
        return
    environment = {**os.environ, **dict.fromkeys(SECRETS, "x" * 24)}
    command = [*client, "-f", str(ROOT / "docker-compose.yml"), "config", "--quiet"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def _client() -> list[str] | None:
    """`docker compose` or `docker-compose`, whichever answers."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    return None
