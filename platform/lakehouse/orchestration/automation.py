"""What runs without anyone asking: the day at 01:00 UTC, its verification at 03:00, maintenance on Sundays at 04:00, and whatever
another process landed.
"""

from datetime import UTC, date, datetime

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from lakehouse.errors import LakehouseError
from lakehouse.orchestration.dead_runs import end_dead_runs
from lakehouse.orchestration.keys import ONLY_DUE, range_tags, verified_key, yesterday
from lakehouse.orchestration.maintenance import maintenances
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.statistics import stale_statistics
from lakehouse.pipeline.windows import DayRange
from lakehouse.spec import Source, Table
from lakehouse.tables.engine import TableState
from lakehouse.warehouse.publisher import Published

AssetJob = UnresolvedAssetJobDefinition
RUN_JOB = "lakehouse"
CATCH_UP_JOB = "catch_up"
VERIFY_JOB = "verify"
MAINTAIN_JOB = "maintain"
RETRY_SECONDS = 600
"""Work that a run could not do is asked for again after this long: a run key is used once."""
ACTIVE = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.NOT_STARTED]


def whole_job(deployment: Deployment) -> AssetJob:
    """Extract to statistics, for everything that is declared; without what looks at or after what was there before, too."""
    selection = dg.AssetSelection.all() - _verifications(deployment) - maintenances(deployment)
    return dg.define_asset_job(RUN_JOB, selection=selection, description="From the sources to the daily statistics.")


def catch_up_job(deployment: Deployment) -> AssetJob:
    """Apply, publish and build what was landed; reads no source."""
    read = dg.AssetSelection.key_prefixes("raw")
    selection = dg.AssetSelection.all() - read - _verifications(deployment) - maintenances(deployment)
    return dg.define_asset_job(
        CATCH_UP_JOB, selection=selection, description="Apply what is in the raw logs, and what follows from it."
    )


def verify_job(deployment: Deployment) -> AssetJob:
    """Verify every copy of every table; materializes nothing."""
    return dg.define_asset_job(
        VERIFY_JOB, selection=_verifications(deployment), description="Compare every copy of every table with its raw log."
    )


def maintain_job(deployment: Deployment) -> AssetJob:
    """Look after every lake table."""
    return dg.define_asset_job(
        MAINTAIN_JOB,
        selection=maintenances(deployment),
        description="Compact small files, expire old versions and remove orphans of every lake table.",
    )


def verify_schedule(job: AssetJob) -> dg.ScheduleDefinition:
    """Every day at 03:00 UTC."""
    return _schedule(
        "daily_verification", job, "0 3 * * *", "Verifies what has changed since the last verification, in every copy."
    )


def maintenance_schedule(job: AssetJob) -> dg.ScheduleDefinition:
    """Every Sunday at 04:00 UTC."""
    return _schedule("weekly_maintenance", job, "0 4 * * 0", "Looks after every lake table, beside whatever runs.")


def _schedule(name: str, job: AssetJob, cron: str, description: str) -> dg.ScheduleDefinition:
    """A time (UTC) at which a job runs whole; running by default."""
    return dg.ScheduleDefinition(
        name=name,
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )


def _verifications(deployment: Deployment) -> dg.AssetSelection:
    return dg.AssetSelection.checks(*(verified_key(source, table) for source, table in deployment.select()))


def daily_schedule(job: AssetJob) -> dg.ScheduleDefinition:
    """Yesterday, every day at 01:00 UTC; running by default."""

    @dg.schedule(
        name="daily",
        job=job,
        cron_schedule="0 1 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Runs the last whole UTC day, and late rows of the days before it.",
    )
    def daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        days = yesterday(context.scheduled_execution_time.astimezone(UTC).date())
        return dg.RunRequest(run_key=days.last.isoformat(), partition_key=days.last.isoformat(), tags={ONLY_DUE: "true"})

    return daily


def raw_log_sensor(deployment: Deployment, job: AssetJob) -> dg.SensorDefinition:
    """Batches that no table has applied, tables that are not published, days that are stale: one run for all of them."""

    @dg.sensor(
        name="raw_log",
        job=job,
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Notices batches in the raw logs that no table has applied, and statistics that late rows made stale.",
    )
    def raw_log(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        end_dead_runs(context.instance, one_machine=deployment.settings.profile == "embedded")
        if any(
            run.job_name not in (VERIFY_JOB, MAINTAIN_JOB) for run in context.instance.get_runs(dg.RunsFilter(statuses=ACTIVE))
        ):
            return dg.SkipReason("A run is under way; it may be about to apply them.")
        try:
            behind, days = tables_behind(deployment)
            stale = stale_statistics(deployment)
        except LakehouseError as error:
            return dg.SkipReason(f"The platform cannot be asked: {error}")
        if not behind and not stale.days:
            return dg.SkipReason("Every table has applied its log, and no day is stale.")
        days |= set(stale.days)
        now = datetime.now(UTC)
        span = DayRange(min(days), max(days)) if days else yesterday(now.date())
        work = ",".join([*behind, *(day.isoformat() for day in stale.days)])
        attempt = int(now.timestamp()) // RETRY_SECONDS
        return dg.RunRequest(run_key=f"{work}@{attempt}", tags={**range_tags(span), ONLY_DUE: "true"})

    return raw_log


def tables_behind(deployment: Deployment) -> tuple[list[str], set[date]]:
    """Tables whose lake or warehouse copy is behind the raw log, as `source.table:head`, and the days of waiting batches."""
    behind = []
    days: set[date] = set()
    for source, table in deployment.select():
        head = deployment.log(source, table).head()
        state = deployment.lake.state(source.name, table)
        applied = state.current.marker.sequence if state else 0
        published = deployment.warehouse.state(source.name, table)
        if head > applied:
            days |= _waiting_days(deployment, source, table, applied)
        if head > applied or (state is not None and not _is_published(state, published, table)):
            behind.append(f"{source.name}.{table.name}:{head}")
    return behind, days


def _is_published(state: TableState, published: Published | None, table: Table) -> bool:
    return published is not None and (published.version, published.reading) == (state.current.version, table.reading)


def _waiting_days(deployment: Deployment, source: Source, table: Table, applied: int) -> set[date]:
    windows = [entry.manifest.window for entry in deployment.log(source, table).entries(after=applied)]
    return {window.low.date() for window in windows if table.mode == "append" and window is not None and window.low is not None}
