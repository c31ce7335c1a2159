"""Recompute rows and checksum of every copy of a table, and say where they differ.

Raw is the reference, its files proved by their own checksums; when it is damaged, the lake is. What an earlier verification found
equal is not read again while it is known to be unchanged, and the report says how much that is and since when it was not read
(`verify_record` says what is known how). A deep verification reads everything. How each copy is read is said in `verify_raw`,
`verify_copies` and `verify_source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.verify_copies import NOTHING, Found, differing, read_lake, read_warehouse
from lakehouse.pipeline.verify_history import history_record, read_history
from lakehouse.pipeline.verify_raw import Raw, open_raw
from lakehouse.pipeline.verify_reading import SourceFound, read_raw_and_source
from lakehouse.pipeline.verify_record import Record, Seen, declaration_of, load_record, log_prefix, save_record
from lakehouse.rows.checksum import total
from lakehouse.sources.reader import SourceSnapshot
from lakehouse.spec import History, Source, Table
from lakehouse.spec.quarantine import QuarantineTable, quarantine_of
from lakehouse.tables.engine import TableState
from lakehouse.warehouse.publisher import Published

COPIES = ("source", "raw", "lake", "warehouse")
ATTEMPTS = 3
"""Readings of a table that others move meanwhile; a difference is told only of one that stood still, or of the last."""


@dataclass(frozen=True)
class CopyReport:
    """One copy of a table as it was found.

    sequence: the raw sequence that it holds (for the source: the one that it was compared with). differs: the partitions whose
    rows are not those of the reference. problem: why the copy could not be read, or what is wrong with it. pending: rows that
    the source has since changed, and that the next run will land. read: rows that were read now. taken: rows that were not,
    because an earlier verification read them and nothing has changed them; since: when the oldest of these were read.
    """

    copy: str
    sequence: int
    rows: int
    checksum: str
    differs: tuple[str, ...] = ()
    problem: str = ""
    pending: int = 0
    read: int = 0
    taken: int = 0
    since: datetime | None = None

    @property
    def equal(self) -> bool:
        """Whether the copy holds just the rows that it should."""
        return not self.differs and not self.problem


@dataclass(frozen=True)
class TableReport:
    """All copies of one table. deep: whether everything was to be read."""

    table: str
    copies: tuple[CopyReport, ...]
    deep: bool = False

    @property
    def equal(self) -> bool:
        """Whether every copy holds the same rows."""
        return all(copy.equal for copy in self.copies)


@dataclass(frozen=True)
class _Job:
    """One table to verify. snapshot: a view of the source, or None and why there is none."""

    deployment: Deployment
    source: Source
    table: Table
    snapshot: SourceSnapshot | None
    unreachable: str
    deep: bool
    say: Callable[[str], None]

    @property
    def name(self) -> str:
        return f"{self.source.name}.{self.table.name}"


def verify_source_tables(
    deployment: Deployment,
    source: Source,
    asked: Sequence[Table],
    on_event: Callable[[str], None] = lambda _: None,
    *,
    deep: bool = False,
) -> list[TableReport]:
    """Verify tables of one source, read from one view of it; a source that cannot be reached is named in each report.

    A table's quarantine has a report of its own once it has a row, without a source: what the source has of it is compared with
    that of the table.
    """

    def verified(table: Table, snapshot: SourceSnapshot | None, unreachable: str) -> TableReport:
        name = f"{source.name}.{table.name}"
        on_event(f"verifying {name}")
        job = _Job(deployment, source, table, snapshot, unreachable, deep, lambda text: on_event(f"{name}: {text}"))
        return _verify(job)

    def beside() -> Iterator[TableReport]:
        for table in kept:
            if deployment.log(source, table).head():
                report = verified(table, None, "")
                yield replace(report, copies=report.copies[1:])

    tables = [table for table in asked if not isinstance(table, QuarantineTable)]
    kept = [quarantine_of(table) for table in tables if table.keeps_refused]
    kept += [table for table in asked if isinstance(table, QuarantineTable) and table not in kept]
    declared = [table for table in tables if not isinstance(table, History)]
    if not declared:
        return [*(verified(table, None, "") for table in tables), *beside()]
    with closing(deployment.reader(source)) as reader:
        try:
            reader.check(declared)
            with reader.snapshot() as snapshot:
                reports = [verified(table, snapshot, "") for table in tables]
        except LakehouseError as error:
            reports = [verified(table, None, str(error)) for table in tables]
    return [*reports, *beside()]


def _verify(job: _Job) -> TableReport:
    """Verify a table; again when it is found different and somebody moved it while it was read."""
    for _ in range(ATTEMPTS - 1):
        before = _stood(job)
        report = _verify_once(job, before)
        if report.equal:
            return report
        after = _stood(job)
        if (before and before.positions) == (after and after.positions):
            return report
        job.say("moved while it was read; reading again")
    return _verify_once(job, _stood(job))


@dataclass(frozen=True)
class _Stood:
    """Where the copies of a table stood when they were asked."""

    head: int
    state: TableState | None
    published: Published | None

    @property
    def positions(self) -> tuple[int, int | None, int | None]:
        lake = self.state.current.version if self.state else None
        return self.head, lake, self.published.version if self.published else None


def _stood(job: _Job) -> _Stood | None:
    """Where the copies stand; None when one of them cannot be asked, which the report says."""
    try:
        state = job.deployment.lake.state(job.source.name, job.table)
        published = job.deployment.warehouse.state(job.source.name, job.table)
        return _Stood(job.deployment.log(job.source, job.table).head(), state, published)
    except LakehouseError:
        return None


def _verify_once(job: _Job, stood: _Stood | None) -> TableReport:
    if isinstance(job.table, History):
        return _verify_history(job, job.table, stood)
    deployment, source, table = job.deployment, job.source, job.table
    record = None if job.deep else load_record(deployment.store, source, table, job.say)
    state, unmarked = _state(job, stood)
    if record is not None and state is not None and record.schema != deployment.log(source, table).fingerprint(state.schema):
        job.say("the columns have changed since the last verification: everything is read")
        record = None
    raw, damaged = _open_raw(job, record)
    found = SourceFound(job.unreachable)
    if raw is not None and raw.entries:
        found = read_raw_and_source(deployment, source, raw, job.snapshot, state, job.unreachable)
        damaged = raw.found.problem
    known: Mapping[str, Mapping[str, Seen]] = {} if record is None else {"lake": record.lake, "warehouse": record.warehouse}
    lake = Found(problem="the table was not built yet: run `lakehouse run`", there=False)
    if state is not None or unmarked:
        lake = read_lake(deployment, source, table, state, known.get("lake", {}))
        lake.problem = unmarked or lake.problem
    warehouse = read_warehouse(deployment, source, table, state, known.get("warehouse", {}), _published(job, stood))
    rows = raw.found if raw is not None else Found(problem=damaged)
    if raw is not None and not raw.entries:
        if not lake.there and not warehouse.there:
            nothing = tuple(CopyReport(copy, 0, 0, NOTHING.hex) for copy in COPIES)
            return TableReport(job.name, nothing, job.deep)
        rows.problem = "the raw log is empty, but there is a table that was built from one: its files are gone"
    reference = rows if not rows.problem else lake
    if rows.problem:
        found = SourceFound(job.unreachable or "not compared: the raw log is damaged")
    copies = [_report(name, one, reference) for name, one in (("raw", rows), ("lake", lake), ("warehouse", warehouse))]
    report = TableReport(job.name, (_source_report(found, reference), *copies), job.deep)
    if report.equal and raw is not None and state is not None:
        save_record(deployment.store, source, table, _record(job, raw, state, lake, warehouse, found), job.say)
    return report


def _verify_history(job: _Job, table: History, stood: _Stood | None) -> TableReport:
    """A history is no copy of the source: raw is what the log makes of it, and its current rows are those of its table."""
    deployment, source = job.deployment, job.source
    record = None if job.deep else load_record(deployment.store, source, table, job.say)
    state, unmarked = _state(job, stood)
    raw, taken = read_history(deployment, source, table, record)
    copies = {"raw": raw.found}
    known: Mapping[str, Mapping[str, Seen]] = (
        {} if record is None or not taken else {"lake": record.lake, "warehouse": record.warehouse}
    )
    copies["lake"] = Found(problem="the table was not built yet: run `lakehouse run`", there=False)
    if state is not None or unmarked:
        copies["lake"] = read_lake(deployment, source, table, state, known.get("lake", {}))
        copies["lake"].problem = unmarked or copies["lake"].problem
    copies["warehouse"] = read_warehouse(deployment, source, table, state, known.get("warehouse", {}), _published(job, stood))
    if not raw.found.sequence and not copies["lake"].there and not copies["warehouse"].there:
        copies = {copy: Found() for copy in copies}
    reference = copies["lake"] if raw.found.problem else raw.found
    report = TableReport(job.name, tuple(_report(name, one, reference) for name, one in copies.items()), job.deep)
    if report.equal and state is not None:
        lake, warehouse = copies["lake"].pieces, copies["warehouse"].pieces
        save_record(deployment.store, source, table, history_record(source, table, raw, state, lake, warehouse), job.say)
    return report


def _state(job: _Job, stood: _Stood | None) -> tuple[TableState | None, str]:
    """The lake table as it stands, or why that cannot be said: then somebody else wrote it, and its rows say where."""
    if stood is not None:
        return stood.state, ""
    try:
        return job.deployment.lake.state(job.source.name, job.table), ""
    except LakehouseError as error:
        return None, str(error)


def _published(job: _Job, stood: _Stood | None) -> Callable[[], Published | None]:
    """Gives the published table, or raises why it cannot be asked."""
    if stood is not None:
        return lambda: stood.published
    return lambda: job.deployment.warehouse.state(job.source.name, job.table)


def _open_raw(job: _Job, record: Record | None) -> tuple[Raw | None, str]:
    try:
        return open_raw(job.deployment, job.source, job.table, record), ""
    except LakehouseError as error:
        return None, str(error)


def _record(job: _Job, raw: Raw, state: TableState, lake: Found, warehouse: Found, found: SourceFound) -> Record:
    """What this verification found equal."""
    return Record(
        declaration=declaration_of(job.source, job.table),
        schema=raw.log.fingerprint(state.schema),
        sequence=raw.found.sequence,
        version=state.current.version,
        log=log_prefix(raw.entries),
        entries={int(sequence): seen for sequence, seen in raw.found.pieces.items()},
        raw={} if raw.by_entry else raw.found.parts,
        lake=lake.pieces,
        warehouse=warehouse.pieces,
        days=found.days,
        upto=found.upto,
        upto_at=found.upto_at,
    )


def _report(name: str, found: Found, reference: Found) -> CopyReport:
    rows = total(found.parts.values())
    problem = found.problem
    if not problem and found.sequence != reference.sequence:
        word = "behind" if found.sequence < reference.sequence else "ahead"
        problem = f"{word}: it holds sequence {found.sequence} of {reference.sequence}; run `lakehouse run`"
    differs = () if found.problem and not found.parts else differing(found.parts, reference.parts)
    return CopyReport(name, found.sequence, rows.rows, rows.hex, differs, problem, 0, found.read, found.taken, found.since)


def _source_report(found: SourceFound, reference: Found) -> CopyReport:
    if found.problem:
        return CopyReport("source", reference.sequence, 0, NOTHING.hex, problem=found.problem)
    return CopyReport(
        "source",
        reference.sequence,
        found.rows.rows,
        found.rows.hex,
        tuple(sorted(found.differs)),
        "",
        found.pending,
        found.read,
        found.taken,
        found.since,
    )
