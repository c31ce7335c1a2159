"""The least and the greatest date of a field.

A server with an index on the field answers a sorted query with a limit at once. secantusdb, the embedded server, first collects
every match of the filter, however many, and so do its aggregates; an empty range costs it a millisecond, though. So there the
ends are looked for by small ranges, and what was found once is where the next search begins. A guess only chooses what is
asked: nothing is answered that the server did not say of all dates.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from bson.datetime_ms import DatetimeMS
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from lakehouse.sources.mongodb.values import DAY_MILLISECONDS, FIRST_MILLISECOND, LAST_MILLISECOND

_SECOND = 1_000
_WEEK = 7 * DAY_MILLISECONDS
_CENTURY = 36_600 * DAY_MILLISECONDS
_SHARE = 16
"""A range is no longer than a day, or than this part of the silence after it: that says little of how dense documents were."""

Documents = Collection[dict[str, Any]]
Extent = tuple[int, int]


class NotADate(Exception):
    """The field holds something else around a date: a list."""


class KnownExtents:
    """The ends that were found before, by collection and field; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], Extent] = {}

    def get(self, key: tuple[str, str, str]) -> Extent | None:
        """What was found last."""
        with self._lock:
            return self._known.get(key)

    def put(self, key: tuple[str, str, str], extent: Extent) -> None:
        """Remember what was found."""
        with self._lock:
            self._known[key] = extent


KNOWN = KnownExtents()
"""Of this process: a run asks once which days are due, and again when it reads them."""


def date_extent(
    documents: Documents,
    field: str,
    now: int,
    near: Extent | None = None,
    *,
    limit_stops: bool,
    session: ClientSession | None = None,
) -> Extent | None:
    """The least and the greatest date of `field` in milliseconds, of the years 1 to 9999; None when there is none, NotADate.

    now: the server's clock in milliseconds. near: where the ends were, as far as the caller knows. limit_stops: the server stops
    at a query's limit. session: to read in.
    """
    search = _Search(documents, field, session)
    if limit_stops:
        last = search.last(FIRST_MILLISECOND, LAST_MILLISECOND)
        first = search.first(FIRST_MILLISECOND, LAST_MILLISECOND)
        return None if first is None or last is None else (first, last)
    key = (repr(documents.database.client.address), documents.full_name, field)
    known = KNOWN.get(key) or near
    last = search.newest(now, known)
    if last is None:
        return None
    extent = search.oldest(last, known), last
    KNOWN.put(key, extent)
    return extent


def downwards(now: int) -> Iterator[Extent]:
    """Ranges that cover all dates: the future, then back from `now` by growing steps."""
    yield now, LAST_MILLISECOND
    high, distance = now - 1, _SECOND
    while distance < _CENTURY and now - distance > FIRST_MILLISECOND:
        low = now - distance
        yield low, high
        high = low - 1
        distance += min(3 * distance, max(DAY_MILLISECONDS, distance // _SHARE))
    if high >= FIRST_MILLISECOND:
        yield FIRST_MILLISECOND, high


class _Search:
    """Questions about one field of one collection."""

    def __init__(self, documents: Documents, field: str, session: ClientSession | None) -> None:
        self._session = session
        self._documents = documents
        self._field = field

    def first(self, low: int, high: int) -> int | None:
        """The least date between `low` and `high`, both included."""
        return self._edge(low, high, 1)

    def last(self, low: int, high: int) -> int | None:
        """The greatest one."""
        return self._edge(low, high, -1)

    def newest(self, now: int, known: Extent | None) -> int | None:
        """The greatest date of all."""
        if known is not None:
            later = self.last(known[1] + 1, LAST_MILLISECOND)
            if later is not None or self.last(known[1], known[1]) is not None:
                return known[1] if later is None else later
            now = known[1]
        return next((found for low, high in downwards(now) if (found := self.last(low, high)) is not None), None)

    def oldest(self, last: int, known: Extent | None) -> int:
        """The least date of all, when `last` is the greatest."""
        if known is not None and known[0] <= last:
            earlier = self.first(FIRST_MILLISECOND, known[0] - 1)
            if earlier is not None or self.first(known[0], known[0]) is not None:
                return known[0] if earlier is None else earlier
        low, high = self._guess(last)
        for start, end in ((FIRST_MILLISECOND, low - 1), (low, high), (high + 1, last)):
            if start <= end and (found := self.first(start, end)) is not None:
                return found
        return last

    def _guess(self, last: int) -> Extent:
        """A short range with documents where those before it seem to end: far enough, doubled, then halved between.

        Days are counted back from `last`; it is right if the days with documents, or a week before them, have no gaps.
        """
        days = (last - FIRST_MILLISECOND) // DAY_MILLISECONDS
        filled, step = 0, 1
        while filled + step <= days and self._lived(last, filled + step):
            filled, step = filled + step, 2 * step
        empty = min(filled + step, days + 1)
        while empty - filled > 1:
            middle = (filled + empty) // 2
            if self._lived(last, middle):
                filled = middle
            else:
                empty = middle
        low = max(last - (filled + 1) * DAY_MILLISECONDS, FIRST_MILLISECOND)
        return low, min(low + 2 * DAY_MILLISECONDS, last)

    def _lived(self, last: int, day: int) -> bool:
        """Whether the day has documents, that many days back, or the week before it."""
        high = last - day * DAY_MILLISECONDS
        low = max(high - DAY_MILLISECONDS, FIRST_MILLISECOND)
        if self.first(low, high) is not None:
            return True
        return low > FIRST_MILLISECOND and self.first(max(low - _WEEK, FIRST_MILLISECOND), low - 1) is not None

    def _edge(self, low: int, high: int, direction: int) -> int | None:
        condition = {self._field: {"$gte": DatetimeMS(low), "$lte": DatetimeMS(high)}}
        found = (
            self._documents.find(condition, {self._field: 1, "_id": 0}, session=self._session)
            .sort(self._field, direction)
            .limit(1)
        )
        for document in found:
            value: Any = document
            for name in self._field.split("."):
                value = value.get(name) if isinstance(value, dict) else value
            if not isinstance(value, DatetimeMS):
                raise NotADate(repr(value))
            return int(value)
        return None
