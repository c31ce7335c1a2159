"""Which days of the statistics are stale.

The warehouse keeps, beside the statistics, the sequence that each published table had when they were last built. A lake version
knows the days that it changed; the days of every version since then are stale, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from lakehouse.pipeline.deployment import Deployment
from lakehouse.spec import Source, Table
from lakehouse.spec.soft_delete import ALL_ROWS, WITH_DELETED, published_name
from lakehouse.tables.engine import TableVersion
from lakehouse.warehouse.publisher import Published


@dataclass(frozen=True)
class StaleStatistics:
    """Days to rebuild, in order, and the published sequences that a rebuild begun now will reflect."""

    days: tuple[date, ...]
    sequences: dict[str, int]
    first_build: bool

    @property
    def is_stale(self) -> bool:
        """Whether there is anything to build."""
        return bool(self.days) or self.first_build


def stale_statistics(deployment: Deployment, published: Mapping[str, Published | None] | None = None) -> StaleStatistics:
    """Compare what is published with what the statistics were built from.

    published: what the caller has found of some tables, by source.table; the others are asked for.
    """
    known = published or {}
    built = deployment.warehouse.read_statistics_marker()
    days: set[str] = set()
    sequences: dict[str, int] = {}
    for source, table in deployment.select():
        name = f"{source.name}.{table.name}"
        found = known[name] if name in known else deployment.warehouse.state(source.name, table)
        if found is None:
            continue
        # Rows that are hidden from now on, or shown again, change all days: what was built from other rows was not built.
        read = name if found.reading == ALL_ROWS else f"{name}: {found.reading}"
        sequences[read] = found.marker.sequence
        days.update(_days_between(deployment, source, table, built.get(read), found))
    return StaleStatistics(tuple(sorted(map(date.fromisoformat, days))), sequences, first_build=not built and bool(sequences))


def mark_built(deployment: Deployment, stale: StaleStatistics) -> None:
    """Record that the statistics reflect `stale.sequences`; call it after every model was built."""
    deployment.warehouse.write_statistics_marker(stale.sequences)


def forget_statistics(deployment: Deployment, source: Source, table: Table) -> None:
    """Let the next run build all days of the statistics that read this table: they may have read what it is not any more."""
    built = deployment.warehouse.read_statistics_marker()
    name = f"{source.name}.{table.name}"
    left = {read: sequence for read, sequence in built.items() if read != name and not read.startswith(f"{name}: ")}
    if left != built:
        deployment.warehouse.write_statistics_marker(left)


def _days_between(deployment: Deployment, source: Source, table: Table, built: int | None, found: Published) -> set[str]:
    published = found.marker.sequence
    if built == published or table.event_time is None:
        return set()
    history = deployment.lake.history(source.name, table)
    between = _versions_between(history, built, published)
    if between is None:
        return _all_days(deployment, source, table, found)
    return {day for version in between for day in version.changed_days}


def _versions_between(history: list[TableVersion], built: int | None, published: int) -> list[TableVersion] | None:
    """The versions with a sequence above the lower and up to the higher of the two; None when the history has a gap there.

    There may be one: versions expire. A version whose own parent is not there is the first after a gap, or the first of all.
    """
    low, high = sorted((built or 0, published))
    known, sequences = {version.version for version in history}, {version.marker.sequence for version in history}
    between = [version for version in history if low < version.marker.sequence <= high]
    if not {low, high} <= sequences or any(version.parent not in known for version in between):
        return None
    return between


def _all_days(deployment: Deployment, source: Source, table: Table, found: Published) -> set[str]:
    """The days of all published rows, those too that readers do not see: a day may have no other."""
    name = published_name(source.name, table) + ("" if found.reading == ALL_ROWS else WITH_DELETED)
    relation = f"`{deployment.settings.warehouse.database}`.`{name}`"
    column = f"`{table.event_time}`"
    query = f"select distinct toString(toDate({column}, 'UTC')) as day from {relation} where {column} is not null"
    return set(deployment.warehouse.query(query)["day"].to_pylist())
