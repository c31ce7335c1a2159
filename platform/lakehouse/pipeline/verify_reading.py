"""Read the raw log and the source together: the rows of raw serve as the reference, and for the comparison with the source.

What of the source an earlier verification has compared is not read again, unless all is read: closed days of an `append` table
whose log entry is the same, and rows of an `upsert` table with a cursor older than what the next run would then have read again.
So a row that is changed there without its cursor, or put into a closed day, is found by a deep verification alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

import duckdb
import pyarrow as pa

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.fitting import Fitting
from lakehouse.pipeline.gate import Gate, recorded
from lakehouse.pipeline.quarantine import Quarantine
from lakehouse.pipeline.relations import Recorded
from lakehouse.pipeline.verify_copies import NOTHING
from lakehouse.pipeline.verify_raw import Digested, Raw, advance, day_of, entry_parts, entry_rows, finish_by_entry, folded_rows
from lakehouse.pipeline.verify_record import DaySeen, Parts, Record
from lakehouse.pipeline.verify_source import SourceComparison, read_again_from
from lakehouse.pipeline.windows import closed_days
from lakehouse.rows.checksum import digests_checksum, total
from lakehouse.rows.duck import borrowed_duckdb
from lakehouse.sources.reader import SourceSnapshot
from lakehouse.spec import LogEntry, RowChecksum, Source, Table, Window
from lakehouse.spec.quarantine import QuarantinedRow
from lakehouse.tables.engine import TableState

STRETCH = 300_000
"""Rows of an `append` table, about, that are compared row by row at a time: so memory does not grow with the table."""


@dataclass
class SourceFound:
    """A source as it was found; rows: without what is pending. days, upto, upto_at: what may be recorded."""

    problem: str = ""
    rows: RowChecksum = NOTHING
    differs: set[str] = field(default_factory=set)
    pending: int = 0
    read: int = 0
    taken: int = 0
    since: datetime | None = None
    days: dict[date, DaySeen] = field(default_factory=dict)
    upto: datetime | None = None
    upto_at: datetime | None = None


def read_raw_and_source(
    deployment: Deployment,
    source: Source,
    raw: Raw,
    snapshot: SourceSnapshot | None,
    state: TableState | None,
    unreachable: str,
) -> SourceFound:
    """Fill `raw.found`, and compare the source with it; snapshot None: the source cannot be read, for the reason given."""
    settings = deployment.settings
    limit, spill = settings.memory_limit_mb, settings.home / "tmp"
    # Two databases: a result that one of them streams cannot be the input of another statement of the same one.
    with (
        borrowed_duckdb(memory_limit_mb=limit, temp_directory=spill) as folded,
        borrowed_duckdb(memory_limit_mb=limit, temp_directory=spill) as connection,
    ):
        key = settings.privacy_key.get_secret_value()
        relations = recorded(raw.table, lambda: Quarantine(deployment, source, raw.table).rows())
        comparison = SourceComparison(raw.table, raw.entries, connection)
        reading = _Reading(raw, snapshot, comparison, key, SourceFound(unreachable), relations)
        try:
            if raw.by_entry and raw.table.mode == "append":
                reading.days()
            elif raw.by_entry:
                reading.compare([None], entry_rows(raw, raw.standing[-1]))
                finish_by_entry(raw)
            else:
                known = state is not None and advance(raw, deployment.lake, source, state, folded)
                reading.cursor(folded) if known else reading.everything(folded)
        except LakehouseError as error:
            raw.found.problem = str(error)
        found = reading.result()
        if reading.refused and not found.problem:
            there = Quarantine(deployment, source, raw.table).rows()
            missing = [row for one, row in reading.refused.items() if one not in there]
            lost = [row for row in missing if not _is_pending(raw, row)]
            found.pending += len(missing) - len(lost)
            if lost:
                found.problem = f"{len(lost):,} rows that the table refuses are not in its quarantine: {_first(lost)}"
        return found


def _is_pending(raw: Raw, row: QuarantinedRow) -> bool:
    """Whether the next run reads the row, and puts it into the quarantine."""
    if raw.table.mode == "snapshot":
        return True
    if raw.table.mode == "append":
        return row.moment is not None and not closed_days(raw.entries).get(row.moment.astimezone(UTC).date(), False)
    low = read_again_from(raw.table, raw.entries)
    return low is None or row.moment is None or row.moment >= low


def _first(rows: Sequence[QuarantinedRow]) -> str:
    return "; ".join(f"{row.key or row.row_id}: {row.column}: {row.reason}" for row in rows[:5])


@dataclass
class _Reading:
    """One table under way."""

    raw: Raw
    snapshot: SourceSnapshot | None
    comparison: SourceComparison
    key: str
    found: SourceFound
    relations: Recorded | None
    refused: dict[str, QuarantinedRow] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        return self.raw.table

    def compare(self, windows: Sequence[Window | None], rows: Iterator[Digested]) -> None:
        """Compare windows of the source with rows of raw, which are taken to their end even if the source cannot be read."""
        if self.snapshot is not None and not self.found.problem:
            snapshot = self.snapshot
            try:
                self.comparison.load_source(itertools.chain.from_iterable(self._passing(snapshot, window) for window in windows))
            except LakehouseError as error:
                self.found.problem = f"cannot be read: {error}"
            else:
                self.comparison.load_raw(rows)
                self.comparison.judge()
                return
        for _ in rows:
            pass

    def days(self) -> None:
        """An `append` table, day by day, by rows and checksum; row by row only the days that are not the same in the source.

        Closed days that were compared with the same entry before are left out.
        """
        raw, closed, now = self.raw, closed_days(self.raw.entries), datetime.now(UTC)
        entries = {day: entry for entry in raw.standing if (day := day_of(entry)) is not None}
        past = raw.usable.days if raw.usable else {}
        unequal = []
        for day, entry in sorted(entries.items()):
            seen = past.get(day)
            if closed[day] and seen is not None and seen.sequence == entry.sequence and entry.sequence in raw.known:
                self._take(seen.rows, seen.at)
                self.found.days[day] = seen
                continue
            landed = entry_parts(raw, entry)
            found = self._totals(Window.of_day(day))
            if found is None:
                continue
            if found != landed or not self.comparison.found.whole:
                unequal.append(day)
                continue
            rows = total(found.values())
            self.found.rows = self.found.rows + rows
            if closed[day]:
                self.found.days[day] = DaySeen(entry.sequence, now, rows)
        for days in _stretches(unequal, entries):
            again = itertools.chain.from_iterable(entry_rows(raw, entries[day], count=False) for day in days)
            self.compare([Window.of_day(day) for day in days], again)
        finish_by_entry(raw)

    def _totals(self, window: Window) -> Parts | None:
        """Rows and checksum of a window of the source, by partition; None when the source cannot be read."""
        if self.snapshot is None or self.found.problem:
            return None
        try:
            return self.comparison.totals(self._passing(self.snapshot, window))
        except LakehouseError as error:
            self.found.problem = f"cannot be read: {error}"
            return None

    def _passing(self, snapshot: SourceSnapshot, window: Window | None) -> Iterator[pa.RecordBatch]:
        """The rows of a window that the table takes; the others are noted."""
        gate = Gate(self.table, self.key, relations=self.relations, fitting=Fitting(self.table, self.raw.entries))
        yield from gate.rows(lambda refuse: snapshot.read(self.table, window, refuse))
        self.refused.update(gate.refused)

    def everything(self, folded: duckdb.DuckDBPyConnection, *, count: bool = True) -> None:
        """The fold of the whole log, and all of the source that was landed."""
        windows: list[Window | None] = [None]
        if self.table.mode == "append":
            windows = [Window.of_day(day) for day in sorted(closed_days(self.raw.entries))]
        self.compare(windows, folded_rows(self.raw, folded, count=count))
        self._compared_upto(datetime.now(UTC))

    def cursor(self, folded: duckdb.DuckDBPyConnection) -> None:
        """An `upsert` table whose raw rows are known: only source rows whose cursor is not older than what was compared."""
        record: Record | None = self.raw.usable
        if self.snapshot is None:
            return
        if record is None or record.upto is None or record.upto_at is None:
            self.everything(folded, count=False)
            return
        later: list[RowChecksum] = []
        rows = _counted(folded_rows(self.raw, folded, since=record.upto, count=False), later)
        self.compare([Window(record.upto, None)], rows)
        if not self.comparison.found.whole:
            self.comparison = self.comparison.anew()
            self.everything(folded, count=False)
            return
        self._take(total(self.raw.found.parts.values()) - total(later), record.upto_at)
        self._compared_upto(record.upto_at)

    def result(self) -> SourceFound:
        """All that was found of the source."""
        found, compared = self.found, self.comparison.found
        found.rows = found.rows + total(compared.parts.values())
        found.differs, found.pending, found.read = compared.differs, compared.pending, compared.read
        return found

    def _take(self, rows: RowChecksum, at: datetime) -> None:
        self.found.rows = self.found.rows + rows
        self.found.taken += rows.rows
        self.found.since = min(self.found.since or at, at)

    def _compared_upto(self, at: datetime) -> None:
        if self.table.mode == "upsert" and self.comparison.found.whole:
            self.found.upto, self.found.upto_at = read_again_from(self.table, self.raw.entries), at


def _stretches(days: Sequence[date], entries: dict[date, LogEntry]) -> Iterator[list[date]]:
    stretch: list[date] = []
    rows = 0
    for day in days:
        stretch.append(day)
        rows += entries[day].manifest.rows
        if rows >= STRETCH:
            yield stretch
            stretch, rows = [], 0
    if stretch:
        yield stretch


def _counted(rows: Iterator[Digested], into: list[RowChecksum]) -> Iterator[Digested]:
    for batch, digests in rows:
        into.append(digests_checksum(digests))
        yield batch, digests
