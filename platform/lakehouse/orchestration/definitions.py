"""One deployment as Dagster definitions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from lakehouse.orchestration.automation import (
    catch_up_job,
    daily_schedule,
    maintain_job,
    maintenance_schedule,
    raw_log_sensor,
    verify_job,
    verify_schedule,
    whole_job,
)
from lakehouse.orchestration.factory import source_assets
from lakehouse.orchestration.maintenance import maintenance_assets
from lakehouse.orchestration.verification import source_checks
from lakehouse.pipeline.deployment import Deployment
from lakehouse.settings import Settings, current_settings
from lakehouse.spec import Source


def build_definitions(
    sources: Sequence[Source],
    *,
    dbt_project: Path | None = None,
    settings: Settings | None = None,
    extra: Sequence[dg.Definitions] = (),
) -> dg.Definitions:
    """Assets, checks, jobs, the daily schedules and the sensor of the declared sources, and the models of a dbt project.

    Nothing is connected to while definitions load. Steps of a run share one process: they are bound by the servers that they
    talk to, and a process for each would cost more than the work of most of them.
    """
    deployment = Deployment(settings or current_settings(), sources)
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = []
    with warnings.catch_warnings():
        # Dagster would say of each asset that its backfill policy is an interface that may still change.
        warnings.simplefilter("ignore", dg.BetaWarning)
        for source in sources:
            assets.extend([*source_assets(deployment, source), maintenance_assets(deployment, source)])
    if dbt_project is not None:
        from lakehouse.orchestration.dbt import statistics_assets

        assets.append(statistics_assets(deployment, dbt_project))
    run_all, catch_up, verify = whole_job(deployment), catch_up_job(deployment), verify_job(deployment)
    maintain = maintain_job(deployment)
    own = dg.Definitions(
        assets=assets,
        asset_checks=[source_checks(deployment, source) for source in sources],
        jobs=[run_all, catch_up, verify, maintain],
        schedules=[daily_schedule(run_all), verify_schedule(verify), maintenance_schedule(maintain)],
        sensors=[raw_log_sensor(deployment, catch_up)],
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(own, *extra)
