"""Asset keys, groups, tags and partitions that the factories share."""

from __future__ import annotations

from datetime import date, timedelta

import dagster as dg

from lakehouse.pipeline.windows import DayRange
from lakehouse.settings import Settings
from lakehouse.spec import Source, Table, logged

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
ONLY_DUE = "lakehouse/only-due"
"""On a run: read only days that are not closed, and build only days that are stale (else: all that the run was asked for)."""
FULL = "lakehouse/full"
"""On a run: read closed days and whole tables again."""
ACCEPT_DELETES = "lakehouse/accept-deletes"
"""On a run: rows that are gone from the source are deleted, however many they are."""
DEEP = "lakehouse/deep"
"""On a run that verifies: read every row of every copy, whatever an earlier verification has read."""


def source_key(source: Source, table: Table) -> dg.AssetKey:
    """The table in the application's own database."""
    return dg.AssetKey(["source", source.name, table.name])


def raw_key(source: Source, table: Table) -> dg.AssetKey:
    """The table's raw log; a history has that of its table."""
    return dg.AssetKey(["raw", source.name, logged(table).name])


def lake_key(source: Source, table: Table) -> dg.AssetKey:
    """The lake table."""
    return dg.AssetKey(["lake", source.name, table.name])


def warehouse_key(source: Source, table: Table) -> dg.AssetKey:
    """The published table."""
    return dg.AssetKey(["warehouse", source.name, table.name])


def maintenance_key(source: Source) -> dg.AssetKey:
    """The maintenance of all lake tables of a source."""
    return dg.AssetKey(["maintenance", source.name])


def verified_key(source: Source, table: Table) -> dg.AssetCheckKey:
    """The check that every copy of a table holds the same rows; it is one of the published table, the last of them."""
    return dg.AssetCheckKey(warehouse_key(source, table), "verified")


def daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """The one partitions definition of the deployment: UTC days from `start_date` to today.

    One for all, because assets whose partitions begin on different days would split a backfill into several runs.
    """
    return dg.DailyPartitionsDefinition(start_date=settings.start_date.isoformat(), timezone="UTC", end_offset=1)


def partitions_of(settings: Settings, table: Table) -> dg.DailyPartitionsDefinition | None:
    """Daily partitions for `append` tables; the others are read as a whole."""
    return daily_partitions(settings) if table.mode == "append" else None


def requested_days(context: dg.AssetExecutionContext) -> DayRange | None:
    """The days that the run was asked for, or None for a run without partitions."""
    if not context.has_partition_key and not context.has_partition_key_range:
        return None
    asked = context.partition_key_range
    return DayRange(date.fromisoformat(asked.start), date.fromisoformat(asked.end))


def range_tags(days: DayRange) -> dict[str, str]:
    """The tags that make one run cover a range of days."""
    return {RANGE_START: days.first.isoformat(), RANGE_END: days.last.isoformat()}


def is_set(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, tag: str) -> bool:
    """Whether the run carries the tag."""
    return context.run.tags.get(tag) == "true"


def days_outside(days: tuple[str, ...], asked: DayRange | None) -> list[str]:
    """ISO days that a step changed although the run was not asked for them."""
    return [day for day in days if asked is None or date.fromisoformat(day) not in asked]


def yesterday(today: date) -> DayRange:
    """The last whole UTC day."""
    day = today - timedelta(days=1)
    return DayRange(day, day)
