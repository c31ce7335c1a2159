"""Statistics of a data file for Delta's log: rows, nulls and bounds, from the footer of its Parquet file.

Bounds are given where they are exact in JSON: for booleans, integers, dates, times and short texts. Delta's readers take
a bound of a time for one of milliseconds, so they are rounded outwards. What has no bounds prunes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq

LONGEST_TEXT = 32
_MILLISECOND = timedelta(milliseconds=1)
_LAST = datetime.max.replace(tzinfo=UTC) - _MILLISECOND


def statistics_json(footer: pq.FileMetaData) -> str:
    """The `stats` of an `add` action."""
    nulls: dict[str, int] = {}
    bounds: dict[str, tuple[Any, Any]] = {}
    unbounded: set[str] = set()
    for group in range(footer.num_row_groups):
        row_group = footer.row_group(group)
        for place in range(row_group.num_columns):
            column = row_group.column(place)
            name, found = column.path_in_schema, column.statistics
            if footer.schema.column(place).max_repetition_level or "." in name or found is None or not found.has_null_count:
                unbounded.add(name)
                continue
            nulls[name] = nulls.get(name, 0) + found.null_count
            if (ends := _bounds(found)) is not None:
                low, high = bounds.get(name, ends)
                bounds[name] = min(low, ends[0]), max(high, ends[1])
            elif found.null_count < column.num_values:
                unbounded.add(name)
    told = {name: ends for name, ends in bounds.items() if name not in unbounded and all(map(_is_told, ends))}
    return json.dumps(
        {
            "numRecords": footer.num_rows,
            "minValues": {name: _text(low, _floor) for name, (low, _) in told.items()},
            "maxValues": {name: _text(high, _ceiling) for name, (_, high) in told.items()},
            "nullCount": {name: count for name, count in nulls.items() if name not in unbounded},
        },
        separators=(",", ":"),
    )


def _bounds(found: Any) -> tuple[Any, Any] | None:
    """The bounds of a column in a row group; None when it has none, or none that Python has a value for."""
    if not found.has_min_max:
        return None
    try:
        return found.min, found.max
    except (ValueError, OverflowError):  # a time outside of the years 1 to 9999
        return None


def _is_told(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and value.isprintable()
    return isinstance(value, bool | int | date)


def _text(value: Any, rounded: Callable[[datetime], datetime]) -> Any:
    if isinstance(value, datetime):
        at = rounded(value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value


def _floor(at: datetime) -> datetime:
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def _ceiling(at: datetime) -> datetime:
    floor = _floor(at)
    return floor if floor == at or floor > _LAST else floor + _MILLISECOND
