"""docker-compose.yml holds the same platform: what it passes exists, and nothing in it has a default password."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pyspark
import pytest
import yaml

from assets import SOURCES
from lakehouse.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
ONE_SHOT = {"bucket"}
SCRIPT = ROOT / "deploy/compose/connect.sh"
SECRETS = ("POSTGRES_PASSWORD", "MONGO_PASSWORD", "MINIO_PASSWORD", "CLICKHOUSE_PASSWORD", "PRIVACY_KEY")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def environments(compose: dict[str, Any]) -> dict[str, str]:
    return {k: v for service in compose["services"].values() for k, v in (service.get("environment") or {}).items()}


def filled(text: str) -> str:
    """What a variable becomes where only the passwords are given."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", re.sub(r"\$\{(\w+):\?[^}]*\}", r"secret-\1", text))


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
        assert "mem_limit" in service or "build" not in service, "what we build has a limit"
        if isinstance(build, str):
            assert (ROOT / build / "Dockerfile").is_file()
        elif build:
            stages = re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / build["dockerfile"]).read_text(), re.MULTILINE)
            assert filled(build["target"]) in stages
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


def test_each_profile_is_told_of_and_what_a_server_waits_for_is_there_without_it(compose: dict[str, Any]) -> None:
    services = compose["services"]
    profiles = {name: set(service.get("profiles", [])) for name, service in services.items()}
    example = (ROOT / "deploy/compose/env.example").read_text()
    assert set().union(*profiles.values()) == set(re.findall(r"^#?COMPOSE_PROFILES=(.*)$", example, re.MULTILINE)[-1].split(","))
    for name, service in services.items():
        for other, wanted in service.get("depends_on", {}).items():
            assert other in services, name
            assert profiles[other] <= profiles[name] or wanted.get("required") is False, f"{name} waits for {other}"


def test_the_spark_servers_are_started_by_classes_that_are_in_spark_and_meet_under_their_names(compose: dict[str, Any]) -> None:
    services = compose["services"]
    jars = [*(Path(pyspark.__file__).parent / "jars").glob("spark-c*.jar")]
    classes = {name for jar in jars for name in zipfile.ZipFile(jar).namelist()}
    commands = {name: service["command"] for name, service in services.items() if name.startswith("spark-")}
    for command in commands.values():
        main = re.findall(r"org\.apache\.spark[\w.]+\.[A-Z]\w+", " ".join(command) + SCRIPT.read_text() * (command[0] == "sh"))
        assert main
        for name in main:
            assert f"{name.replace('.', '/')}.class" in classes, name
    master = commands["spark-master"]
    address = f"spark://{master[master.index('--host') + 1]}:{master[master.index('--port') + 1]}"
    assert address in commands["spark-worker"]
    assert address in commands["spark-connect"]
    assert "sc://spark-connect:15002" in (ROOT / "deploy/compose/env.example").read_text()
