"""`verified`: the check on each published table that every copy of it holds the same rows."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from lakehouse.orchestration.keys import DEEP, is_set, verified_key, warehouse_key
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.verify import CopyReport, TableReport, verify_source_tables
from lakehouse.pipeline.verify_results import keep_results
from lakehouse.spec import Source, lake_tables
from lakehouse.spec.quarantine import quarantine_name


def source_checks(deployment: Deployment, source: Source) -> dg.AssetChecksDefinition:
    """One step for all tables of a source, because they are read from one view of it; it is part of no job but `verify`."""
    specs = [
        dg.AssetCheckSpec(
            verified_key(source, table).name,
            asset=warehouse_key(source, table),
            description="Source, raw log, lake and warehouse hold the same rows: counted, and compared by checksum.",
        )
        for table in lake_tables(source)
    ]

    @dg.multi_asset_check(name=f"{source.name}__verify", specs=specs, can_subset=True)
    def verify(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        tables = [table for table in lake_tables(source) if verified_key(source, table) in context.selected_asset_check_keys]
        deep = is_set(context, DEEP)
        reports = verify_source_tables(deployment, source, tables, on_event=context.log.info, deep=deep)
        keep_results(deployment, reports, run=context.run.run_id, on_event=context.log.warning)
        by_name = {report.table: report for report in reports}
        for table in tables:
            report, beside = (by_name.get(f"{source.name}.{name}") for name in (table.name, quarantine_name(table)))
            assert report is not None
            key = verified_key(source, table)
            yield dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=report.equal and (beside is None or beside.equal),
                severity=dg.AssetCheckSeverity.ERROR,
                metadata=_metadata(report) | ({"quarantine": _metadata(beside)["copies"]} if beside else {}),
            )

    return verify


def _metadata(report: TableReport) -> dict[str, Any]:
    metadata: dict[str, Any] = {"copies": dg.MetadataValue.md(_table(report)), "deep": report.deep}
    wrong = [f"{copy.copy}: {_trouble(copy)}" for copy in report.copies if not copy.equal]
    if wrong:
        metadata["error"] = "\n".join(wrong)
    since = [copy.since for copy in report.copies if copy.since is not None]
    if since:
        metadata["not read again since"] = min(since).isoformat()
    return metadata


def _table(report: TableReport) -> str:
    lines = ["| copy | sequence | rows | checksum | rows read now | |", "| --- | ---: | ---: | --- | ---: | --- |"]
    lines += [
        f"| {copy.copy} | {copy.sequence} | {copy.rows:,} | `{copy.checksum}` | {copy.read:,} | "
        f"{'equal' if copy.equal else 'DIFFERENT'} |"
        for copy in report.copies
    ]
    return "\n".join(lines)


def _trouble(copy: CopyReport) -> str:
    differs = f"differs in {', '.join(copy.differs)}" if copy.differs else ""
    return "; ".join(text for text in (copy.problem, differs) if text)
