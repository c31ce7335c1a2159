"""`maintenance`: lake tables looked after, every week."""

from collections.abc import Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from lakehouse.errors import LakehouseError
from lakehouse.orchestration.keys import maintenance_key
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.maintain import Maintained, maintain_table
from lakehouse.spec import Source

MAINTAIN_JOB = "maintain"


def maintenance_assets(deployment: Deployment, source: Source) -> dg.AssetsDefinition:
    """One step for all lake tables of a source; it is part of no job but `maintain`."""

    @dg.asset(
        key=maintenance_key(source),
        group_name="maintenance",
        kinds={source.tables[0].format},
        description=f"The lake tables of {source.name}, looked after: files compacted, old versions expired, orphans removed.",
    )
    def maintenance(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        done, failed = [], []
        for table in source.tables:
            try:
                found = maintain_table(deployment, source, table)
            except LakehouseError as error:
                context.log.error(f"{source.name}.{table.name}: {error}")
                failed.append(table.name)
                continue
            if found is not None:
                done.append(found)
        context.add_output_metadata(
            {
                "tables": dg.MetadataValue.md(_as_table(done)),
                "stored bytes before": sum(found.before.stored for found in done),
                "stored bytes": sum(found.after.stored for found in done),
                "versions expired": sum(len(found.expired) for found in done),
                "objects removed": sum(found.removed for found in done),
            }
        )
        if failed:
            raise dg.Failure(f"{len(failed)} of {len(source.tables)} tables were not looked after: {', '.join(failed)}")
        return dg.MaterializeResult()

    return maintenance


def maintain_job(deployment: Deployment) -> UnresolvedAssetJobDefinition:
    """Look after every lake table."""
    return dg.define_asset_job(
        MAINTAIN_JOB,
        selection=maintenances(deployment),
        description="Compact small files, expire old versions and remove orphans of every lake table.",
    )


def maintenance_schedule(job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Every Sunday at 04:00 UTC; running by default."""
    return dg.ScheduleDefinition(
        name="weekly_maintenance",
        job=job,
        cron_schedule="0 4 * * 0",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Looks after every lake table, beside whatever runs.",
    )


def maintenances(deployment: Deployment) -> dg.AssetSelection:
    """The maintenance of all sources."""
    return dg.AssetSelection.assets(*(maintenance_key(source) for source in deployment.sources))


def _as_table(done: Sequence[Maintained]) -> str:
    lines = ["| table | files | versions | stored bytes | compacted | expired | removed |", "| --- " + "| ---: " * 6 + "|"]
    for found in done:
        before, after = found.before, found.after
        lines.append(
            f"| {found.table} | {before.files:,} → {after.files:,} | {before.versions:,} → {after.versions:,} "
            f"| {before.stored:,} → {after.stored:,} | {len(found.compact)} | {len(found.expired)} | {found.removed} |"
        )
    return "\n".join(lines)
