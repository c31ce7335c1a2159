"""`maintenance`: the lake tables of a source, looked after."""

from collections.abc import Sequence

import dagster as dg

from lakehouse.orchestration.keys import maintenance_key
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.maintain import Maintained, maintain_tables
from lakehouse.spec import Source, lake_tables


def maintenance_assets(deployment: Deployment, source: Source) -> dg.AssetsDefinition:
    """One step for all lake tables of a source; it is part of no job but `maintain`."""

    @dg.asset(
        key=maintenance_key(source),
        group_name="maintenance",
        kinds={table.format for table in source.tables},
        description=f"The lake tables of {source.name}, looked after: files compacted, old versions expired, orphans removed.",
    )
    def maintenance(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        done, failed = maintain_tables(deployment, [(source, table) for table in lake_tables(source)])
        for name, error in failed.items():
            context.log.error(f"{name}: {error}")
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
            raise dg.Failure(
                f"{len(failed)} of {len(list(lake_tables(source)))} tables were not looked after: {', '.join(failed)}"
            )
        return dg.MaterializeResult()

    return maintenance


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
