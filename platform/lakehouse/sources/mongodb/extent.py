"""The least and the greatest date of a field.

A server with an index on the field answers a sorted query with a limit at once. secantusdb, the embedded server, first collects
every match of the filter, however many; an empty range costs it a millisecond, though. So there the range is approached from
outside, by steps that grow with the distance, until one holds a few documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bson.datetime_ms import DatetimeMS
from pymongo.collection import Collection

from lakehouse.sources.mongodb.values import FIRST_MILLISECOND, LAST_MILLISECOND

_SECOND = 1_000
_DAY = 86_400_000
_CENTURY = 36_600 * _DAY
_GROWTH = 1.07
"""Steps of 7% of the distance: about 350 of them from a second to a century, and the last one holds few documents. Back from now,
where the distance says nothing of how dense documents are, no step is longer than a day in the first 400 days."""

Documents = Collection[dict[str, Any]]


def date_extent(documents: Documents, field: str, now: int, *, limit_stops: bool) -> tuple[Any, Any] | None:
    """The least and the greatest value of `field` among the dates, as the driver decodes them; None when there is none.

    now: the server's clock in milliseconds. limit_stops: the server stops at a query's limit.
    """
    if limit_stops:
        last = _edge(documents, field, FIRST_MILLISECOND, LAST_MILLISECOND, -1)
        return None if last is None else (_edge(documents, field, FIRST_MILLISECOND, LAST_MILLISECOND, 1), last)
    last = next(
        (edge for low, high in downwards(now) if (edge := _edge(documents, field, low, high, -1)) is not None),
        None,
    )
    if last is None:
        return None
    first = next(
        (edge for low, high in upwards(_milliseconds(last)) if (edge := _edge(documents, field, low, high, 1)) is not None),
        last,
    )
    return first, last


def _edge(documents: Documents, field: str, low: int, high: int, direction: int) -> Any:
    """The first (direction 1) or last (-1) value between `low` and `high`, both included."""
    condition = {field: {"$gte": DatetimeMS(low), "$lte": DatetimeMS(high)}}
    found = documents.find(condition, {field: 1, "_id": 0}).sort(field, direction).limit(1)
    for document in found:
        value: Any = document
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else value
        return value
    return None


def downwards(now: int) -> Iterator[tuple[int, int]]:
    """Ranges that cover all dates: the future, then back from `now` by growing steps."""
    yield now, LAST_MILLISECOND
    high, distance = now - 1, float(_SECOND)
    while distance < _CENTURY and now - distance > FIRST_MILLISECOND:
        low = now - int(distance)
        yield low, high
        high = low - 1
        step = distance * (_GROWTH - 1)
        distance += max(_SECOND, min(step, _DAY) if distance < 400 * _DAY else step)
    if high >= FIRST_MILLISECOND:
        yield FIRST_MILLISECOND, high


def upwards(last: int) -> Iterator[tuple[int, int]]:
    """Ranges that cover all dates up to `last`: everything long before, then towards it by shrinking steps."""
    low, distance = FIRST_MILLISECOND, float(min(_CENTURY, last - FIRST_MILLISECOND))
    while distance > _SECOND:
        high = last - int(distance)
        yield low, high
        low = high + 1
        distance = min(distance / _GROWTH, distance - _SECOND)
    yield low, last


def _milliseconds(value: Any) -> int:
    return int(value) if isinstance(value, DatetimeMS) else 0
