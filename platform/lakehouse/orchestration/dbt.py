"""dbt's models as assets: one invocation for all stale days, one at a time."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, DbtCliResource, DbtProject, dbt_assets

from lakehouse.errors import ConfigurationError
from lakehouse.orchestration.keys import ONLY_DUE, daily_partitions, is_set, requested_days
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.statistics import StaleStatistics, mark_built, stale_statistics
from lakehouse.settings import Settings

POOL = "dbt"
"""Two dbt runs on one target disturb each other; the pool lets one run at a time."""
_SOURCES = ("*.sql", "*.yml", "*.yaml", "*.csv")


class StatisticsTranslator(DagsterDbtTranslator):
    """Names and partitions of dbt's models in the asset graph."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(DagsterDbtTranslatorSettings(enable_code_references=False))
        self._deployment_settings = settings

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        """All models are one group."""
        return "statistics"

    def get_partitions_def(self, dbt_resource_props: Mapping[str, Any]) -> dg.PartitionsDefinition | None:
        """Models that are built day by day have daily partitions."""
        materialized = dbt_resource_props.get("config", {}).get("materialized")
        return daily_partitions(self._deployment_settings) if materialized == "incremental" else None


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
    command = [_dbt(), "parse", "--quiet", "--project-dir", str(project_dir), "--profiles-dir", str(project_dir)]
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
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }


def statistics_assets(deployment: Deployment, project_dir: Path) -> dg.AssetsDefinition:
    """The models of a dbt project, built for the days that are stale.

    A run that was asked for days (a backfill) builds those too. The sequences that the statistics reflect are recorded after
    every model was built: a build that dies is repeated, and repeating it changes nothing.
    """
    settings = deployment.settings
    manifest = prepare_manifest(project_dir, settings)

    @dbt_assets(
        manifest=manifest,
        project=DbtProject(project_dir, profiles_dir=project_dir),
        dagster_dbt_translator=StatisticsTranslator(settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=POOL,
        name="statistics",
    )
    def statistics(context: dg.AssetExecutionContext) -> Iterator[Any]:
        stale = stale_statistics(deployment)
        days = _days_to_build(context, stale)
        if not days and not stale.first_build:
            context.log.info("No day of the statistics is stale: nothing to build.")
            return
        context.log.info(f"Building {len(days)} days of the statistics: {_span(days)}")
        os.environ.update(dbt_environment(settings))
        dbt = DbtCliResource(project_dir=str(project_dir), profiles_dir=str(project_dir), dbt_executable=_dbt())
        arguments = ["build", "--vars", json.dumps({"days": [day.isoformat() for day in days]})]
        yield from dbt.cli(arguments, context=context, manifest=manifest).stream()
        if not context.is_subset:
            mark_built(deployment, stale)

    return statistics


def _days_to_build(context: dg.AssetExecutionContext, stale: StaleStatistics) -> list[date]:
    days = set(stale.days)
    asked = requested_days(context)
    if asked is not None and not is_set(context, ONLY_DUE):
        days.update(asked.days())
    return sorted(days)


def _span(days: list[date]) -> str:
    return f"{days[0]} to {days[-1]}" if days else "none"


def _dbt() -> str:
    return str(Path(sys.executable).parent / "dbt")
