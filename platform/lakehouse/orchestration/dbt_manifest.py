"""What a dbt manifest says of models, seeds and tests: names, dependencies and descriptions of assets and checks.

Read from `target/manifest.json` (dbt's artifact schema, version 12) without importing dbt, which takes seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from lakehouse.errors import ConfigurationError
from lakehouse.settings import Settings

_SOURCES = ("*.sql", "*.yml", "*.yaml", "*.csv")
Key = tuple[str, ...]


@dataclass(frozen=True)
class DbtNode:
    """One model or seed. key: its asset key; deps: those that it reads; by_day: whether it is built day by day."""

    unique_id: str
    name: str
    key: Key
    deps: tuple[Key, ...]
    schema: str
    kind: str
    description: str
    owners: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    by_day: bool


@dataclass(frozen=True)
class DbtTest:
    """One test, as a check of the asset `key`. blocking: a failure is an error and not a warning."""

    unique_id: str
    name: str
    key: Key
    description: str
    blocking: bool


@dataclass(frozen=True)
class DbtGraph:
    """The models, seeds and tests of a project; every node comes after those that it reads."""

    nodes: tuple[DbtNode, ...]
    tests: tuple[DbtTest, ...]


def project_graph(project_dir: Path, settings: Settings) -> DbtGraph:
    """The graph of a project. A manifest that a parse left half-written when it was killed is made anew.

    Raises ConfigurationError with dbt's own words when the project does not parse.
    """
    try:
        return read_graph(prepare_manifest(project_dir, settings))
    except json.JSONDecodeError:
        (project_dir / "target" / "manifest.json").unlink(missing_ok=True)
        return read_graph(prepare_manifest(project_dir, settings))


def read_graph(manifest: Path) -> DbtGraph:
    """The graph that a manifest describes; sources without `meta.dagster.asset_key` are left out of the dependencies."""
    document = json.loads(manifest.read_text())
    keys = {source["unique_id"]: _source_key(source) for source in document["sources"].values()}
    found = {uid: node for uid, node in document["nodes"].items() if node["resource_type"] in ("model", "seed", "snapshot")}
    keys.update({uid: (node["config"].get("schema") or node["schema"], node["name"]) for uid, node in found.items()})
    # The manifest's own order is that of parsing, which differs from one parse to the next.
    order = TopologicalSorter(
        {uid: [read for read in node["depends_on"].get("nodes", ()) if read in found] for uid, node in found.items()}
    )
    nodes = tuple(_node(found[uid], keys) for uid in order.static_order())
    return DbtGraph(nodes, tuple(_tests(document, keys, set(found))))


def _source_key(source: Mapping[str, Any]) -> Key:
    meta = {**source.get("meta", {}), **source.get("config", {}).get("meta", {})}
    return tuple(meta.get("dagster", {}).get("asset_key", ()))


def _node(node: Mapping[str, Any], keys: Mapping[str, Key]) -> DbtNode:
    meta = {**node.get("meta", {}), **node["config"].get("meta", {})}
    reads = node["depends_on"].get("nodes", [])
    return DbtNode(
        unique_id=node["unique_id"],
        name=node["name"],
        key=keys[node["unique_id"]],
        deps=tuple(dict.fromkeys(keys[uid] for uid in reads if keys.get(uid))),
        schema=node["schema"],
        kind=node["config"].get("materialized") or node["resource_type"],
        description=node.get("description", ""),
        owners=tuple(meta.get("dagster", {}).get("owners", ())),
        columns=tuple((name, column.get("description", "")) for name, column in node.get("columns", {}).items()),
        by_day=node["config"].get("materialized") == "incremental",
    )


def _tests(document: Mapping[str, Any], keys: Mapping[str, Key], nodes: set[str]) -> Iterator[DbtTest]:
    for test in document["nodes"].values():
        if test["resource_type"] != "test":
            continue
        tested = test.get("attached_node") or next((uid for uid in test["depends_on"]["nodes"] if uid in nodes), None)
        if tested in nodes:
            yield DbtTest(
                unique_id=test["unique_id"],
                name=test["name"],
                key=keys[tested],
                description=test.get("description", ""),
                blocking=str(test["config"].get("severity", "error")).lower() == "error",
            )


def prepare_manifest(project_dir: Path, settings: Settings) -> Path:
    """The project's manifest, parsed anew when a file of the project is younger.

    Raises ConfigurationError with dbt's own words when the project does not parse.
    """
    manifest = project_dir / "target" / "manifest.json"
    files = [path for pattern in _SOURCES for path in project_dir.rglob(pattern) if "target" not in path.parts]
    if not files:
        raise ConfigurationError(
            "loading the dbt project",
            value=str(project_dir),
            allowed="a folder with dbt_project.yml and models",
            remedy="Run in the deployment's folder, or pass the project's folder.",
        )
    if manifest.is_file() and manifest.stat().st_mtime >= max(path.stat().st_mtime for path in files):
        return manifest
    dbt = str(Path(sys.executable).parent / "dbt")
    command = [dbt, "parse", "--quiet", "--project-dir", str(project_dir), "--profiles-dir", str(project_dir)]
    parsed = subprocess.run(command, env={**os.environ, **dbt_environment(settings)}, capture_output=True, text=True)
    if parsed.returncode != 0:
        raise ConfigurationError(
            f"parsing the dbt project in {project_dir}",
            value=(parsed.stdout + parsed.stderr).strip()[-2000:],
            remedy="Correct the model that dbt names.",
        )
    return manifest


def dbt_environment(settings: Settings) -> dict[str, str]:
    """The variables that `profiles.yml` reads."""
    warehouse = settings.warehouse
    return {
        "LAKEHOUSE_WAREHOUSE__HOST": warehouse.host or "127.0.0.1",
        "LAKEHOUSE_WAREHOUSE__PORT": str(warehouse.port),
        "LAKEHOUSE_WAREHOUSE__USER": warehouse.user,
        "LAKEHOUSE_WAREHOUSE__PASSWORD": warehouse.password.get_secret_value(),
        "LAKEHOUSE_WAREHOUSE__DATABASE": warehouse.database,
        "LAKEHOUSE_WAREHOUSE__SECURE": str(warehouse.secure).lower(),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }
