"""How a marker is written into a commit of a lake table: text properties, the same for every format.

lakehouse.sequence       last raw sequence in the table
lakehouse.rows           rows of the whole table
lakehouse.checksum       checksum of the whole table, sixteen hexadecimal digits
lakehouse.changed-days   days whose rows the commit changed: `2026-01-01..2026-01-14,2026-02-03`
lakehouse.partitions     names of the partitions it changed, as a JSON list; left out when it is long
lakehouse.commit         unique for each attempt: tells whether a commit whose answer was lost went through
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import date, timedelta

from lakehouse.spec import Marker, RowChecksum

SEQUENCE = "lakehouse.sequence"
ROWS = "lakehouse.rows"
CHECKSUM = "lakehouse.checksum"
CHANGED_DAYS = "lakehouse.changed-days"
PARTITIONS = "lakehouse.partitions"
COMMIT = "lakehouse.commit"

LONGEST_PARTITIONS = 4000
"""Characters of `lakehouse.partitions` beyond which it is left out: a reader loads the properties of every snapshot."""

_DAY = timedelta(days=1)


def marker_properties(
    marker: Marker, *, changed_days: Iterable[str], partitions: Iterable[str], commit_id: str
) -> dict[str, str]:
    """The properties of one commit."""
    properties = {
        SEQUENCE: str(marker.sequence),
        ROWS: str(marker.rows),
        CHECKSUM: marker.checksum,
        CHANGED_DAYS: day_ranges(changed_days),
        COMMIT: commit_id,
    }
    names = json.dumps(sorted(partitions), ensure_ascii=False)
    if len(names) <= LONGEST_PARTITIONS:
        properties[PARTITIONS] = names
    return properties


def marker_of(properties: Mapping[str, str]) -> Marker | None:
    """The marker in a commit's properties, or None when another tool made the commit."""
    if SEQUENCE not in properties:
        return None
    return Marker(int(properties[SEQUENCE]), int(properties[ROWS]), properties[CHECKSUM])


def partitions_of(properties: Mapping[str, str]) -> tuple[str, ...] | None:
    """The partitions that a commit changed, or None when it does not say."""
    if PARTITIONS not in properties:
        return None
    return tuple(json.loads(properties[PARTITIONS]))


def row_checksum(marker: Marker) -> RowChecksum:
    """The marker's rows and checksum as a number that parts can be added to."""
    return RowChecksum(marker.rows, int(marker.checksum, 16))


def day_ranges(days: Iterable[str]) -> str:
    """ISO days as text, runs of consecutive days joined by `..`; `days_of_ranges` reads it back."""
    runs: list[list[date]] = []
    for day in sorted(date.fromisoformat(text) for text in set(days)):
        if runs and day - runs[-1][-1] == _DAY:
            runs[-1] = [runs[-1][0], day]
        else:
            runs.append([day])
    return ",".join("..".join(day.isoformat() for day in run) for run in runs)


def days_of_ranges(text: str) -> tuple[str, ...]:
    """The ISO days of `day_ranges`, sorted."""
    days: list[str] = []
    for part in filter(None, text.split(",")):
        ends = [date.fromisoformat(end) for end in part.split("..")]
        days += [(ends[0] + index * _DAY).isoformat() for index in range((ends[-1] - ends[0]).days + 1)]
    return tuple(days)
