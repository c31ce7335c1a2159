"""deploy/kubernetes holds the same platform: manifests that Kubernetes takes, settings that exist, and no secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from assets import SOURCES
from lakehouse.settings import Settings, load_settings

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
VERSIONS = ("1.30", "1.33", "1.37")
WORKLOADS = {"Deployment", "CronJob"}


def documents() -> list[dict[str, Any]]:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
    return [document for name in listed for document in yaml.safe_load_all((FOLDER / name).read_text())]


def name_of(document: dict[str, Any]) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def pods() -> dict[str, dict[str, Any]]:
    """The pod of each workload."""
    found = {}
    for document in documents():
        if document["kind"] in WORKLOADS:
            spec = document["spec"]["jobTemplate"]["spec"] if document["kind"] == "CronJob" else document["spec"]
            found[name_of(document)] = spec["template"]
    return found


def variables(name: str) -> dict[str, str]:
    lines = [line for line in (FOLDER / name).read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_manifest_and_knows_every_field_of_it(version: str) -> None:
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    document = next(document for document in documents() if document["kind"] == "Deployment")
    document["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


def test_the_settings_are_settings_and_lead_to_servers_and_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told, secret = variables("settings.env"), variables("secret.env.example")
    known = {f"LAKEHOUSE_{name.upper()}" for name in Settings.model_fields}
    for name in (*told, *secret):
        assert name.startswith("AWS_") or name.split("__")[0] in known, name
    monkeypatch.chdir(tmp_path)
    for name, value in {**told, **{name: f"postgresql://u:{name}@host:5432/d" for name in secret}}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.warehouse.host == told["LAKEHOUSE_WAREHOUSE__HOST"]
    for source in SOURCES:
        assert settings.source_url(source.name)


def test_no_secret_is_in_the_repository() -> None:
    assert set(variables("secret.env.example").values()) == {""}
    assert not re.search(r"PASSWORD|SECRET|PRIVACY|_URL=postgres|_URL=mongo", (FOLDER / "settings.env").read_text())
    assert "Secret" not in {document["kind"] for document in documents()}


def test_every_container_has_limits_probes_and_no_rights_that_it_does_not_need() -> None:
    for name, template in pods().items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["serviceAccountName"] in {d["metadata"]["name"] for d in documents() if d["kind"] == "ServiceAccount"}, name
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["memory"], name
            assert "CronJob" in name or "livenessProbe" in container, name


def test_services_and_policies_choose_pods_that_there_are() -> None:
    labels = [template["metadata"]["labels"] for template in pods().values()] + [{"spark-role": "executor"}]  # Spark's own
    for document in documents():
        if document["kind"] == "Service":
            assert document["spec"]["selector"] in labels, name_of(document)
        chosen = document.get("spec", {}).get("podSelector", {}).get("matchLabels")
        assert chosen is None or chosen in labels, name_of(document)


def test_the_image_holds_the_files_that_the_commands_name() -> None:
    image = (FOLDER.parent / "compose" / "Dockerfile").read_text()
    commands = [word for template in pods().values() for c in template["spec"]["containers"] for word in c["command"]]
    assert "/app/workspace.compose.yaml" in image
    assert {"/app/workspace.compose.yaml", "platform/definitions.py"} <= set(commands)
    (server,) = yaml.safe_load((FOLDER.parent / "compose" / "workspace.yaml").read_text())["load_from"]
    service = next(d for d in documents() if name_of(d) == f"Service {server['grpc_server']['host']}")
    assert service["spec"]["ports"][0]["port"] == server["grpc_server"]["port"]
