"""The first hop: rows of a source become batches of the raw logs, all tables of a source from one consistent view.

A window that was read before is first read for its checksum alone; only what differs is landed. So running again costs reading,
never a new batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import date

import pyarrow as pa

from lakehouse.errors import LakehouseError, TerminalError
from lakehouse.pipeline.column_types import column_changes, landed_types, last_fields, refuse_changed_types
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.landing import Landing, Looking, SomethingNew
from lakehouse.pipeline.quarantine import open_rows
from lakehouse.pipeline.refusal import refusal
from lakehouse.pipeline.relations import check_expected
from lakehouse.pipeline.replaying import replay_referring
from lakehouse.pipeline.sweep import SweepBase, sweep_base, sweep_deleted
from lakehouse.pipeline.windows import (
    DayRange,
    columns_of,
    due_days,
    extent_detail,
    is_closed,
    last_extent,
    tail_detail,
    upsert_plan,
)
from lakehouse.rows.expected import Unmet
from lakehouse.rows.soft_delete import check_mark
from lakehouse.sources.reader import SourceReader, SourceSnapshot
from lakehouse.spec import LogEntry, Position, Source, Table, Window
from lakehouse.spec.references import referred_first, referred_to
from lakehouse.spec.types import field_paths

READERS = 2
"""Tables of one source that are read at once: gentle on the application's database, enough for two cores."""


@dataclass(frozen=True)
class Extracted:
    """What one extraction of a table did.

    entries: the batches it claimed. days: the days of the event time that it read (mode `append`). sequence: the head of the log
    afterwards. unchanged: windows that held what was landed before. sample: at most five landed rows. error: why it stopped;
    entries claimed before the error stand. unmet: expectations that landed rows do not meet. refused: rows of the windows that
    were read which went to the quarantine, or were there; quarantined: rows that are there now and that nobody has discarded.
    changes: how the columns of the landed batches differ from those of the batch before them.
    """

    source: str
    table: str
    entries: tuple[LogEntry, ...]
    days: tuple[date, ...]
    sequence: int
    unchanged: int
    position: Position | None
    sample: pa.Table | None = None
    notes: tuple[str, ...] = ()
    error: LakehouseError | None = None
    unmet: tuple[Unmet, ...] = ()
    refused: int = 0
    quarantined: int = 0
    changes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows in the claimed batches."""
        return sum(entry.manifest.rows for entry in self.entries)

    @property
    def bytes(self) -> int:
        """Bytes of the claimed batches' files."""
        return sum(file.bytes for entry in self.entries for file in entry.manifest.files)


def extract_source(
    deployment: Deployment,
    source: Source,
    tables: Sequence[Table],
    *,
    days: DayRange | None = None,
    full: bool = False,
    accept_deletes: bool = False,
    run_id: str = "",
    on_event: Callable[[str], None] = lambda _: None,
) -> list[Extracted]:
    """Land what is new in `tables`, one result each, in their order.

    days: of the event time, for `append` tables (None: every day that is not closed yet). full: read closed days and whole
    tables again; what did not change is still not landed twice. accept_deletes: however many rows are gone, see `gone_at_most`.
    A source that cannot be reached raises, before anything was landed; a table that cannot be read carries its own error.
    """
    with closing(deployment.reader(source)) as reader:
        warned = {table.name: _warnings(reader, table) for table in tables}
        for name, found in warned.items():
            for warning in found:
                on_event(f"{source.name}.{name}: {warning}")
        refused = {table.name: error for table in tables if (error := refusal(deployment, reader, table))}
        wanted = [table for table in tables if table.name not in refused]
        bases = {table.name: sweep_base(deployment, source, table) for table in wanted if table.deletes == "sweep"}
        results: dict[str, Extracted] = {
            name: Extracted(source.name, name, (), (), 0, 0, None, error=error) for name, error in refused.items()
        }
        if wanted:
            with reader.snapshot() as snapshot, ThreadPoolExecutor(READERS) as pool:
                under_way: dict[str, Future[Extracted]] = {}

                def read(table: Table) -> Extracted:
                    for name in referred_to(source, table).intersection(under_way):
                        under_way[name].result()
                    landing = Landing(
                        deployment,
                        source,
                        table,
                        reader.schema(table),
                        snapshot.position,
                        run_id,
                        accept_deletes=accept_deletes,
                    )
                    for warning in warned[table.name]:
                        landing.note(warning)
                    base = bases.get(table.name)
                    result = _extract_table(landing, snapshot, base, days, full, sweep_now=full or accept_deletes)
                    on_event(summary(result))
                    for unmet in result.unmet:
                        on_event(f"{source.name}.{table.name}: {unmet}")
                    return result

                # In this order no table waits for one that has not begun.
                for table in referred_first(source, wanted):
                    under_way[table.name] = pool.submit(read, table)
                for name, future in under_way.items():
                    results[name] = future.result()
    return [results[table.name] for table in tables]


def has_news(deployment: Deployment, source: Source, tables: Sequence[Table], enough: Callable[[], bool]) -> bool:
    """Whether `extract_source` would land anything; it reads what that would read, until the first thing that is new.

    enough: asked before each table; once it is true nobody wants to know any more, and the answer means nothing.
    Raises what `extract_source` would put into the result of a table that cannot be read.
    """
    ordered = sorted(tables, key=lambda table: _LOOKS.index(table.mode))
    with closing(deployment.reader(source)) as reader:
        # What needs no lake is looked at first: its library takes a second to import, in which the source can answer.
        for swept in (False, True):
            chosen = [table for table in ordered if (table.deletes == "sweep") is swept]
            if chosen and not enough() and _has_news(deployment, reader, source, chosen, enough):
                return True
    return False


def _has_news(
    deployment: Deployment, reader: SourceReader, source: Source, tables: Sequence[Table], enough: Callable[[], bool]
) -> bool:
    bases = {table.name: sweep_base(deployment, source, table) for table in tables if table.deletes == "sweep"}
    with reader.snapshot() as snapshot:
        for table in tables:
            if enough():
                break
            landing = Looking(deployment, source, table, reader.schema(table), snapshot.position, "")
            try:
                result = _extract_table(landing, snapshot, bases.get(table.name), None, full=False, sweep_now=False)
            except SomethingNew:
                return True
            if result.error is not None:
                raise result.error
    return False


_LOOKS = ("append", "upsert", "snapshot")
"""Which tables tell soonest whether there is anything new."""


def summary(result: Extracted) -> str:
    """One line for people."""
    name = f"{result.source}.{result.table}"
    if result.error is not None:
        return f"{name}: {result.error}"
    kept = f"; rows in quarantine: {result.quarantined:,}" if result.quarantined else ""
    if not result.entries:
        return f"{name}: nothing new (sequence {result.sequence}){kept}"
    return f"{name}: {result.rows:,} rows in {len(result.entries)} batches (sequence {result.sequence}){kept}"


def _warnings(reader: SourceReader, table: Table) -> tuple[str, ...]:
    try:
        return reader.warnings(table)
    except TerminalError:  # said by the check that follows
        return ()


def _extract_table(
    landing: Landing, snapshot: SourceSnapshot, base: SweepBase | None, days: DayRange | None, full: bool, *, sweep_now: bool
) -> Extracted:
    error: LakehouseError | None = None
    read: tuple[date, ...] = ()
    before = last_fields(landing.entries)
    try:
        check_expected(landing.deployment, landing.source, landing.table, landing.schema)
        check_mark(landing.source.name, landing.table, landing.schema)
        if landing.others is not None and landing.table.deletes == "sweep":
            landing.others.source_keys = lambda: snapshot.keys(landing.table, lambda _: None)
        refuse_changed_types(landing.source.name, landing.table, landing.entries, landing.schema)
        _note_new_columns(landing)
        landing.finish()
        if landing.table.mode == "append":
            read = _extract_days(landing, snapshot, days, full)
        elif landing.table.mode == "upsert":
            _extract_changes(landing, snapshot, full)
            if base is not None:
                sweep_deleted(landing, snapshot, base, now=sweep_now)
        else:
            _extract_whole(landing, snapshot)
        replay_referring(landing, snapshot)
    except LakehouseError as problem:
        error = problem
    finally:
        landing.close()
    return Extracted(
        source=landing.source.name,
        table=landing.table.name,
        entries=tuple(landing.claimed),
        days=read,
        sequence=landing.head,
        unchanged=landing.unchanged,
        position=snapshot.position,
        sample=landing.sample,
        notes=tuple(landing.notes),
        error=error,
        unmet=landing.unmet,
        refused=landing.refused,
        changes=tuple(column_changes(before, last_fields(landing.claimed))),
        quarantined=0 if landing.quarantine is None or error else len(open_rows(landing.quarantine.rows().values())),
    )


def _note_new_columns(landing: Landing) -> None:
    new = columns_of(landing.schema) - field_paths(landed_types(landing.entries).items())
    if landing.entries and new:
        names = ", ".join(sorted(".".join(path) for path in new if path[:-1] not in new))
        landing.note(f"new in the source: {names}; rows that were landed without are read again")


def _extract_days(landing: Landing, snapshot: SourceSnapshot, days: DayRange | None, full: bool) -> tuple[date, ...]:
    assert landing.table.event_time is not None
    extent = snapshot.extent(landing.table, landing.table.event_time, last_extent(landing.entries))
    if extent is None:
        landing.note("the source has no rows")
        return ()
    columns = columns_of(landing.schema)
    due = due_days(landing.table, landing.entries, extent, snapshot.position, days, full=full, columns=columns)
    for day in landing.in_order(due):
        window = Window.of_day(day)
        assert window.high is not None
        visible = Window(window.low, min(window.high, max(snapshot.position.bound, window.low or window.high)))
        landing.land(
            lambda refuse, visible=visible: snapshot.read(landing.table, visible, refuse),  # type: ignore[misc]
            kind="replace",
            window=window,
            closed=is_closed(landing.table, day, extent, snapshot.position),
            folder=f"day={day.isoformat()}",
            detail=extent_detail(extent),
        )
    return due


def _extract_changes(landing: Landing, snapshot: SourceSnapshot, full: bool) -> None:
    assert landing.table.cursor is not None
    extent = snapshot.extent(landing.table, landing.table.cursor, last_extent(landing.entries))
    if extent is None:
        landing.note("the source has no rows")
        return
    columns = columns_of(landing.schema)
    plan = upsert_plan(landing.table, landing.entries, extent, snapshot.position, full=full, columns=columns)
    if plan.fresh is not None:
        landing.expect_rows()
    if plan.overlap is not None:
        overlap, refused = landing.window_checksum(lambda refuse: snapshot.read(landing.table, plan.overlap, refuse))
        if plan.tail is not None and (overlap.rows, overlap.hex, refused) == plan.tail:
            if plan.fresh is None:
                landing.unchanged += 1
                return
            window = plan.fresh
        else:
            window = plan.whole
    elif full and landing.is_in_lake(lambda refuse: snapshot.read(landing.table, plan.whole, refuse)):
        landing.unchanged += 1
        return
    else:
        window = plan.whole
    tail, refused = landing.window_checksum(lambda refuse: snapshot.read(landing.table, plan.next_overlap, refuse))
    landing.land(
        lambda refuse: snapshot.read(landing.table, window, refuse),
        kind="upsert",
        window=plan.whole,
        closed=False,
        detail={**tail_detail(tail, refused), **extent_detail(extent)},
    )


def _extract_whole(landing: Landing, snapshot: SourceSnapshot) -> None:
    landing.land(lambda refuse: snapshot.read(landing.table, None, refuse), kind="snapshot", window=None, closed=False)
