"""From a Source to its assets: one raw step for all its tables, then a lake and a warehouse step for each."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import dagster as dg
import pyarrow as pa

from lakehouse.errors import LakehouseError
from lakehouse.orchestration.keys import (
    ACCEPT_DELETES,
    FULL,
    ONLY_DUE,
    days_outside,
    is_set,
    lake_key,
    partitions_of,
    raw_key,
    requested_days,
    source_key,
    warehouse_key,
)
from lakehouse.orchestration.metadata import applied_metadata, extracted_metadata, published_metadata
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import Extracted, extract_source, summary
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.quarantine import quarantine_share
from lakehouse.spec import Source, Table, lake_tables
from lakehouse.spec.soft_delete import published_name, stored_name

Materialized = dg.MaterializeResult[Any]
Results = Iterator[Materialized | dg.AssetCheckResult]
EXPECTED = "expected"
QUARANTINE = "quarantine"
NAMED = 5
"""So many rows of a quarantine are named, by their keys: a key is never personal."""

ONE_RUN = dg.BackfillPolicy.single_run()


def source_assets(deployment: Deployment, source: Source) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Everything that follows from one declared source."""
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [_origin(source, table) for table in source.tables]
    assets.append(_raw_assets(deployment, source))
    for table in lake_tables(source):
        assets.append(_lake_asset(deployment, source, table))
        assets.append(_warehouse_asset(deployment, source, table))
    return assets


def _origin(source: Source, table: Table) -> dg.AssetSpec:
    return dg.AssetSpec(
        source_key(source, table),
        group_name=source.name,
        kinds={source.kind},
        owners=list(source.owners),
        description=f"{table.description}\n\nIn the application's own database, as `{table.relation or table.name}`.".strip(),
    )


def _raw_assets(deployment: Deployment, source: Source) -> dg.AssetsDefinition:
    specs = [
        dg.AssetSpec(
            raw_key(source, table),
            deps=[source_key(source, table)],
            group_name=source.name,
            kinds={source.kind, "parquet"},
            owners=list(source.owners),
            partitions_def=partitions_of(deployment.settings, table),
            skippable=True,
            description=f"{table.description}\n\nThe raw log: every batch that was read, immutable, with its manifest. "
            f"Mode `{table.mode}`.",
        )
        for table in source.tables
    ]
    checks = [
        dg.AssetCheckSpec("extracted", asset=raw_key(source, table), description="The table could be read as it is declared.")
        for table in source.tables
    ]
    checks += [
        dg.AssetCheckSpec(EXPECTED, asset=raw_key(source, table), description=f"Of all rows that land: {_told(table)}.")
        for table in source.tables
        if table.expect
    ]
    checks += [
        dg.AssetCheckSpec(
            QUARANTINE,
            asset=raw_key(source, table),
            description=f"At most {table.refused_at_most:.4g} of the rows are in the table's quarantine.",
        )
        for table in source.tables
        if table.keeps_refused
    ]

    @dg.multi_asset(
        name=f"{source.name}__extract",
        specs=specs,
        check_specs=checks,
        can_subset=True,
        backfill_policy=ONE_RUN,
        description=f"Read {source.name} from one consistent view and land what is new.",
    )
    def extract(context: dg.AssetExecutionContext) -> Results:
        tables = [table for table in source.tables if raw_key(source, table) in context.selected_asset_keys]
        results = extract_source(
            deployment,
            source,
            tables,
            days=requested_days(context),
            full=is_set(context, FULL) or (requested_days(context) is not None and not is_set(context, ONLY_DUE)),
            accept_deletes=is_set(context, ACCEPT_DELETES),
            run_id=context.run_id,
            on_event=context.log.info,
        )
        for table, result in zip(tables, results, strict=True):
            yield from _landed(context, source, table, result)
            if table.keeps_refused:
                yield _quarantined(deployment, source, table, result)
        if results and all(result.error is not None for result in results):
            raise dg.Failure(f"No table of {source.name} could be read.", metadata={"errors": _errors(results)})

    return extract


def _landed(context: dg.AssetExecutionContext, source: Source, table: Table, result: Extracted) -> Results:
    key = raw_key(source, table)
    if result.error is not None:
        context.log.error(summary(result))
    else:
        yield dg.MaterializeResult(asset_key=key, metadata=extracted_metadata(result))
    if result.changes:
        context.log_event(
            dg.AssetObservation(
                key, description="The source's columns changed.", metadata={"difference": "; ".join(result.changes)}
            )
        )
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="extracted",
        passed=result.error is None,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"error": str(result.error)} if result.error else {"rows": result.rows, "sequence": result.sequence},
    )
    if table.expect:
        yield _expected(key, result)


def _told(table: Table) -> str:
    return "; ".join(map(str, table.expect))


def _expected(key: dg.AssetKey, result: Extracted) -> dg.AssetCheckResult:
    """Whether the rows of this run are what the table expects; where they did not land, `extracted` is the error."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=EXPECTED,
        passed=result.error is None and not result.unmet,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            str(unmet.expected): f"not so in {unmet.rows:,} rows, the first: {'; '.join(unmet.named)}" for unmet in result.unmet
        }
        | ({"error": str(result.error)} if result.error else {}),
    )


def _quarantined(deployment: Deployment, source: Source, table: Table, result: Extracted) -> dg.AssetCheckResult:
    """Whether no more rows are in quarantine than the table allows; where it could not be read, `extracted` is the error."""
    try:
        found = quarantine_share(deployment, source, table)
    except LakehouseError as error:
        return dg.AssetCheckResult(
            asset_key=raw_key(source, table),
            check_name=QUARANTINE,
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"error": str(error)},
        )
    return dg.AssetCheckResult(
        asset_key=raw_key(source, table),
        check_name=QUARANTINE,
        passed=found.share <= table.refused_at_most,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "rows in quarantine": len(found.rows),
            "share": found.share,
            "refused in this run": result.refused,
            **{f"row {row.key or row.row_id}": f"{row.column}: {row.reason}" for row in found.rows[:NAMED]},
        },
    )


def _errors(results: list[Extracted]) -> str:
    return "\n\n".join(str(result.error) for result in results)


def _lake_asset(deployment: Deployment, source: Source, table: Table) -> dg.AssetsDefinition:
    key = lake_key(source, table)

    @dg.asset(
        key=key,
        deps=[raw_key(source, table)],
        group_name=source.name,
        kinds={table.format, deployment.settings.engine},
        owners=list(source.owners),
        partitions_def=partitions_of(deployment.settings, table),
        backfill_policy=ONE_RUN,
        check_specs=[
            dg.AssetCheckSpec("rows_equal_marker", asset=key, description="Live files hold as many rows as the marker.")
        ],
        op_tags={"lakehouse/hop": "lake"},
        description=f"{table.description}\n\nThe fold of the raw log, as an {table.format.capitalize()} table.",
    )
    def lake(context: dg.AssetExecutionContext) -> Results:
        applied = apply_table(deployment, source, table)
        if applied is None:
            yield dg.MaterializeResult(
                metadata={"dagster/row_count": 0, "sequence": 0},
                check_results=[dg.AssetCheckResult(check_name="rows_equal_marker", passed=True, metadata={"rows": 0})],
            )
            return
        sample = _sample(deployment.lake.scan(source.name, table, version=applied.state.current.version))
        metadata = applied_metadata(applied, sample)
        if table.mode == "append":
            _report_other_days(context, applied.changed_days)
        live = sum(deployment.lake.partitions(source.name, table, version=applied.state.current.version).values())
        marker = applied.state.current.marker
        check = dg.AssetCheckResult(
            check_name="rows_equal_marker",
            passed=live == marker.rows,
            metadata={"rows in files": live, "rows in marker": marker.rows, "sequence": marker.sequence},
        )
        yield dg.MaterializeResult(metadata=metadata, check_results=[check])

    return lake


def _warehouse_asset(deployment: Deployment, source: Source, table: Table) -> dg.AssetsDefinition:
    key = warehouse_key(source, table)

    @dg.asset(
        key=key,
        deps=[lake_key(source, table)],
        group_name=source.name,
        kinds={"clickhouse"},
        owners=list(source.owners),
        partitions_def=partitions_of(deployment.settings, table),
        backfill_policy=ONE_RUN,
        check_specs=[
            dg.AssetCheckSpec("rows_equal_lake", asset=key, description="As many rows as the lake table, at its sequence.")
        ],
        op_tags={"lakehouse/hop": "warehouse"},
        description=f"{table.description}\n\nPublished to ClickHouse as `{published_name(source.name, table)}`; "
        f"only changed partitions are copied.{_hidden(source, table)}",
    )
    def warehouse(context: dg.AssetExecutionContext) -> Results:
        publication = publish_table(deployment, source, table)
        if publication is None:
            yield dg.MaterializeResult(
                metadata={"dagster/row_count": 0, "sequence": 0},
                check_results=[dg.AssetCheckResult(check_name="rows_equal_lake", passed=True, metadata={"rows": 0})],
            )
            return
        database = f"`{deployment.settings.warehouse.database}`"
        sample = deployment.warehouse.query(f"select * from {database}.`{published_name(source.name, table)}` limit 5")
        count = f"select count() as rows from {database}.`{stored_name(source.name, table)}`"
        counted = deployment.warehouse.query(count)["rows"][0].as_py()
        marker = publication.published.marker
        check = dg.AssetCheckResult(
            check_name="rows_equal_lake",
            passed=counted == marker.rows,
            metadata={"rows in warehouse": counted, "rows in lake": marker.rows, "sequence": marker.sequence},
        )
        yield dg.MaterializeResult(metadata=published_metadata(publication, table, sample), check_results=[check])

    return warehouse


def _hidden(source: Source, table: Table) -> str:
    """What its readers do not see."""
    if table.hides is None:
        return ""
    return f" Rows that `{table.hides}` marks are not in it; `{stored_name(source.name, table)}` has all."


def _sample(batches: Iterator[pa.RecordBatch]) -> pa.Table | None:
    for batch in islice((batch for batch in batches if batch.num_rows), 1):
        return pa.Table.from_batches([batch.slice(0, 5)])
    return None


def _report_other_days(context: dg.AssetExecutionContext, days: tuple[str, ...]) -> None:
    """Late rows changed days that the run was not asked for: say so on those partitions."""
    asked = requested_days(context)
    for day in days_outside(days, asked):
        context.log_event(
            dg.AssetMaterialization(
                context.asset_key, partition=day, description="Late rows were applied by a run for other days."
            )
        )
