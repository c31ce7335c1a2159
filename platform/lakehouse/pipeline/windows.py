"""Which windows of a table are due: pure functions of its log, the source's extent and its position."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pyarrow as pa

from lakehouse.errors import WrongUse
from lakehouse.spec import LogEntry, Manifest, Position, RowChecksum, Table, Window
from lakehouse.spec.types import declared_type, field_paths

Extent = tuple[datetime, datetime]
ColumnPath = tuple[str, ...]
"""A column, or a field of a struct in it; see `field_paths`."""
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class DayRange:
    """The UTC days from `first` to `last`, both included."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise WrongUse(
                "choosing a range of days",
                value=f"{self.first} to {self.last}",
                allowed="a first day that is not after the last",
                remedy="Swap --from and --to.",
            )

    def __contains__(self, day: object) -> bool:
        return isinstance(day, date) and self.first <= day <= self.last

    def days(self) -> list[date]:
        """Every day, in order."""
        return [self.first + timedelta(days=i) for i in range((self.last - self.first).days + 1)]


@dataclass(frozen=True)
class UpsertPlan:
    """What to read of an `upsert` table.

    whole: everything that may be new, from the lookback before the last window on. overlap: the part of it that was read before
    (None: nothing was). tail: rows and checksum of that part as it was then, and the digest of the rows in it
    that were refused. fresh: the part that was not (None: nothing is
    newer). next_overlap: what the next run will read again.
    """

    whole: Window
    overlap: Window | None
    tail: tuple[int, str, str] | None
    fresh: Window | None
    next_overlap: Window


OLDEST, NEWEST = "oldest", "newest"
"""In the detail of an entry's position: the ends of the source's times as they were then."""


def extent_detail(extent: Extent) -> dict[str, str]:
    """The ends of the source's times, to be kept with what is landed."""
    return {OLDEST: extent[0].isoformat(), NEWEST: extent[1].isoformat()}


def last_extent(entries: Sequence[LogEntry]) -> Extent | None:
    """The ends of the source's times as the last entry that knows them has them."""
    for entry in reversed(entries):
        detail = entry.manifest.position.detail
        if OLDEST in detail and NEWEST in detail:
            return datetime.fromisoformat(detail[OLDEST]), datetime.fromisoformat(detail[NEWEST])
    return None


REPAIRS = "repairs"
"""In the detail of a position: which entries this batch stands in for."""
INCOMPLETE = "incomplete"
"""In the detail of a snapshot's position: it was landed by a repair without rows that the source may still have."""


def known_reads(entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """The entries that tell what was read of the source: those since the last snapshot that is incomplete, or all."""
    for index in range(len(entries) - 1, -1, -1):
        if INCOMPLETE in entries[index].manifest.position.detail:
            return entries[index + 1 :]
    return entries


def is_closed(table: Table, day: date, extent: Extent, position: Position) -> bool:
    """Whether no row of the day can arrive any more: the bound, and the source's newest row, are a lookback beyond it."""
    end = Window.of_day(day).high
    assert end is not None
    return min(position.bound, extent[1]) >= end + table.lookback


def closed_days(entries: Sequence[LogEntry], columns: Collection[ColumnPath] = ()) -> dict[date, bool]:
    """Each landed day of an `append` table, with whether its last entry closed it.

    columns: those of the source now; a day that was landed without one of them is open again, whatever its entry says.
    """
    days: dict[date, bool] = {}
    for entry in known_reads(entries):
        window = entry.manifest.window
        if window is not None and window.low is not None:
            days[window.low.date()] = entry.manifest.closed and not lacks_columns(entry.manifest, columns)
    return days


def columns_of(schema: pa.Schema) -> frozenset[ColumnPath]:
    """The columns of a schema, and the fields of structs in them."""
    return field_paths((field.name, declared_type(field)) for field in schema)


def lacks_columns(manifest: Manifest, columns: Collection[ColumnPath]) -> bool:
    """Whether the source has columns by now, or fields of structs, that the batch was read without."""
    return not field_paths((field.name, field.type) for field in manifest.fields).issuperset(columns)


def due_days(
    table: Table,
    entries: Sequence[LogEntry],
    extent: Extent,
    position: Position,
    days: DayRange | None,
    *,
    full: bool,
    columns: Collection[ColumnPath] = (),
) -> tuple[date, ...]:
    """The days of an `append` table to read, in order.

    Days that the source has rows around (its extent, up to the bound), within `days`, unless they are closed and not `full`; and
    always those that were landed open before `days` ends, so that late rows arrive with the next run, whatever it was asked.
    columns: those of the source now; a new one may have values in old rows too, so days landed without it are open.
    """
    landed = closed_days(entries, columns)
    last_visible = min(extent[1], position.bound)
    if last_visible < extent[0]:
        return ()
    available = DayRange(extent[0].date(), last_visible.date())
    due = set()
    for day in available.days():
        asked = days is None or day in days
        open_before = landed.get(day) is False and (days is None or day <= days.last)
        if open_before or (asked and (full or not landed.get(day, False))):
            due.add(day)
    return tuple(sorted(due))


_TAIL_REFUSED = "tail_refused"


def tail_detail(tail: RowChecksum, refused: str) -> dict[str, str]:
    """What the next overlap holds, to be kept with what is landed. refused: the digest of its refused rows."""
    found = {"tail_rows": str(tail.rows), "tail_checksum": tail.hex}
    return {**found, _TAIL_REFUSED: refused} if refused else found


def upsert_plan(
    table: Table,
    entries: Sequence[LogEntry],
    extent: Extent,
    position: Position,
    *,
    full: bool,
    columns: Collection[ColumnPath] = (),
) -> UpsertPlan:
    """The windows of the cursor to read; the upper end is the bound, or just above the newest row if that is older.

    columns: those of the source now; a new one may have values in rows whose cursor did not move, so all rows are read.
    """
    high = min(position.bound, extent[1] + _TICK)
    next_overlap = Window(high - table.lookback, high)
    known = known_reads(entries)
    last = next((e.manifest for e in reversed(known) if e.manifest.kind == "upsert" and e.manifest.window), None)
    if last is None or full or last.window is None or last.window.high is None or lacks_columns(last, columns):
        return UpsertPlan(Window(None, high), None, None, Window(None, high), next_overlap)
    seen = last.window.high
    high = max(high, seen)
    detail = last.position.detail
    tail = (
        (int(detail["tail_rows"]), detail["tail_checksum"], detail.get(_TAIL_REFUSED, "")) if "tail_checksum" in detail else None
    )
    return UpsertPlan(
        whole=Window(seen - table.lookback, high),
        overlap=Window(seen - table.lookback, seen),
        tail=tail,
        fresh=Window(seen, high) if high > seen else None,
        next_overlap=Window(high - table.lookback, high),
    )
