"""dbt's models as assets, its tests as checks: one invocation for all stale days, one at a time.

The assets are made from the manifest; dbt itself runs in a process of its own (`dbt_process.py`). That keeps its imports out of
every process that loads the definitions (`docs/decisions/0005-dbt-without-its-imports.md`).
"""

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse.faults import effect
from lakehouse.orchestration.dbt_manifest import DbtGraph, DbtNode, DbtTest, project_graph
from lakehouse.orchestration.dbt_process import Builder, DbtFailed, NodeResult, builder
from lakehouse.orchestration.keys import ONLY_DUE, daily_partitions, is_set, requested_days
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.statistics import StaleStatistics, mark_built, stale_statistics

POOL = "dbt"
"""Two dbt runs on one target disturb each other; the pool lets one run at a time."""
GROUP = "statistics"
Results = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]


def statistics_assets(deployment: Deployment, project_dir: Path) -> dg.AssetsDefinition:
    """The models of a dbt project, built for the days that are stale.

    A run that was asked for days (a backfill) builds those too. The sequences that the statistics reflect are recorded after
    every model was built: a build that dies is repeated, and repeating it changes nothing.
    """
    settings = deployment.settings
    graph = project_graph(project_dir, settings)
    dbt = builder(project_dir, settings)
    partitions = daily_partitions(settings)

    @dg.multi_asset(
        name="statistics",
        specs=[_spec(node, partitions if node.by_day else None) for node in graph.nodes],
        check_specs=[
            dg.AssetCheckSpec(test.name, asset=dg.AssetKey(test.key), description=test.description) for test in graph.tests
        ],
        can_subset=True,
        pool=POOL,
        backfill_policy=dg.BackfillPolicy.single_run(),
        description="One `dbt build` for the days that are stale.",
    )
    def statistics(context: dg.AssetExecutionContext) -> Results:
        stale = stale_statistics(deployment)
        days = _days_to_build(context, stale)
        if not days and not stale.first_build:
            context.log.info("No day of the statistics is stale: nothing to build.")
            return
        context.log.info(f"Building {len(days)} days of the statistics: {_span(days)}")
        nodes = [node for node in graph.nodes if dg.AssetKey(node.key) in context.selected_asset_keys]
        results = _build(dbt, days, [] if len(nodes) == len(graph.nodes) else nodes)
        sizes = _sizes(deployment, nodes)
        yield from _told(context, graph, nodes, results, sizes, days)
        broken = [node.name for node in nodes if results.get(node.unique_id, _MISSING).status != "success"]
        if broken:
            raise dg.Failure(f"dbt did not build {', '.join(broken)}.", metadata={"errors": _messages(results)})
        if len(nodes) == len(graph.nodes):
            mark_built(deployment, stale)

    return statistics


_MISSING = NodeResult("", "missing", "dbt did not reach it", 0.0, 0)


def _spec(node: DbtNode, partitions: dg.PartitionsDefinition[str] | None) -> dg.AssetSpec:
    columns = [dg.TableColumn(name, "?", description=text or None) for name, text in node.columns]
    return dg.AssetSpec(
        dg.AssetKey(node.key),
        deps=[dg.AssetKey(key) for key in node.deps],
        group_name=GROUP,
        description=node.description,
        kinds={"dbt", "clickhouse", node.kind},
        owners=list(node.owners),
        partitions_def=partitions,
        skippable=True,
        metadata={"dagster/column_schema": dg.TableSchema(columns), "dagster/relation_identifier": f"{node.schema}.{node.name}"},
    )


def _build(dbt: Builder, days: list[date], only: list[DbtNode]) -> dict[str, NodeResult]:
    """Run `dbt build`; results by unique id. Raises Failure when dbt could not begin."""
    try:
        with effect("statistics.build"):
            return dbt.build(days, [node.name for node in only])
    except DbtFailed as error:
        raise dg.Failure("dbt could not begin.", metadata={"error": str(error)}) from error


def _told(
    context: dg.AssetExecutionContext,
    graph: DbtGraph,
    nodes: list[DbtNode],
    results: Mapping[str, NodeResult],
    sizes: Mapping[str, tuple[int, int]],
    days: list[date],
) -> Results:
    for node in nodes:
        result = results.get(node.unique_id, _MISSING)
        if result.status == "success":
            yield dg.MaterializeResult(asset_key=dg.AssetKey(node.key), metadata=_metadata(node, result, sizes, days))
    for test in graph.tests:
        found = results.get(test.unique_id)
        key = dg.AssetCheckKey(dg.AssetKey(test.key), test.name)
        if found is not None and found.status != "skipped" and key in context.selected_asset_check_keys:
            yield _checked(test, found)


def _metadata(node: DbtNode, result: NodeResult, sizes: Mapping[str, tuple[int, int]], days: list[date]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"seconds": round(result.seconds, 2), "days built": _span(days) if node.by_day else "whole"}
    if node.name in sizes:
        metadata["dagster/row_count"], metadata["bytes"] = sizes[node.name]
    return metadata


def _checked(test: DbtTest, result: NodeResult) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=dg.AssetKey(test.key),
        check_name=test.name,
        passed=result.status == "pass",
        severity=dg.AssetCheckSeverity.ERROR if test.blocking and result.status != "warn" else dg.AssetCheckSeverity.WARN,
        metadata={"failures": result.failures} | ({"error": result.message} if result.message else {}),
    )


def _sizes(deployment: Deployment, nodes: list[DbtNode]) -> dict[str, tuple[int, int]]:
    """Rows and bytes on disk of the tables among `nodes`."""
    schemas = ", ".join(sorted({f"'{node.schema}'" for node in nodes})) or "''"
    query = (
        "select database, table, sum(rows) as rows, sum(bytes_on_disk) as bytes from system.parts"
        f" where active and database in ({schemas}) group by database, table"
    )
    return {row["table"]: (int(row["rows"]), int(row["bytes"])) for row in deployment.warehouse.query(query).to_pylist()}


def _days_to_build(context: dg.AssetExecutionContext, stale: StaleStatistics) -> list[date]:
    days = set(stale.days)
    asked = requested_days(context)
    if asked is not None and not is_set(context, ONLY_DUE):
        days.update(asked.days())
    return sorted(days)


def _span(days: list[date]) -> str:
    return f"{days[0]} to {days[-1]} ({len(days)})" if days else "none"


def _messages(results: Mapping[str, NodeResult]) -> str:
    return "\n\n".join(f"{uid}: {result.message}" for uid, result in results.items() if result.status in ("error", "fail"))
