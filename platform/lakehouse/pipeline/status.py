"""What each table holds at each hop, how far each hop is behind the one before it, and what is damaged.

It is cheap: manifests, markers and a listing of the raw files are read, and no rows but those in quarantine; of a published table
with `soft_delete`, that one column. Damage inside of a
file is found by `verify` and by whoever reads the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from lakehouse.errors import ConfigurationError, DamagedData, LakehouseError, TerminalError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.quarantine import Quarantine, open_rows
from lakehouse.raw import standing
from lakehouse.spec import History, LogEntry, Source, Table, declared_tables
from lakehouse.tables.engine import TableState
from lakehouse.warehouse.publisher import Published

T = TypeVar("T")


@dataclass(frozen=True)
class TableStatus:
    """One table: sequences of its copies (0: none), rows and bytes of each, when it last landed and was last applied.

    mode: that of the declaration; `history` for a history, whose raw log is that of its table: bytes there count as none.
    quarantined: rows in its quarantine that nobody has discarded. marked: published rows that `soft_delete` marks.
    reading_behind: whether readers of the published table see other rows than it is declared to show. problem: why it cannot be
    looked at. behind, damaged: what is, in words, each with the command that mends it.
    """

    table: str
    mode: str
    rows: int
    raw_sequence: int
    lake_sequence: int
    warehouse_sequence: int
    warehouse_rows: int
    raw_bytes: int
    lake_bytes: int
    warehouse_bytes: int
    last_landed: datetime | None
    last_applied: datetime | None
    problem: str = ""
    quarantined: int = 0
    marked: int = 0
    reading_behind: bool = False
    behind: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """In words: where the table is behind."""
        if self.problem:
            return "cannot be read"
        if self.damaged:
            return "damaged"
        if not self.raw_sequence:
            return "never extracted"
        if self.lake_sequence < self.raw_sequence:
            return f"lake is {self.raw_sequence - self.lake_sequence} batches behind"
        if self.warehouse_sequence != self.lake_sequence:
            return "warehouse is behind the lake"
        if self.reading_behind:
            return "readers do not see it as declared"
        return "up to date"


@dataclass(frozen=True)
class SourceStatus:
    """One source: whether it can be read as it is declared; `problem` is empty when it can. warnings: what makes reading slow."""

    source: str
    kind: str
    problem: str = ""
    warnings: tuple[str, ...] = ()


def table_status(deployment: Deployment, source: Source, table: Table) -> TableStatus:
    """Look at one table's copies; a server that does not answer is said in `problem`."""
    name = f"{source.name}.{table.name}"
    damaged: list[str] = []
    mode = "history" if isinstance(table, History) else table.mode
    mend = f"run `lakehouse repair {name}`"
    try:
        entries = _entries(deployment, source, table, damaged, mend)
        state = _or_damaged(lambda: deployment.lake.state(source.name, table), damaged, mend)
        published = _or_damaged(lambda: deployment.warehouse.state(source.name, table), damaged, mend)
        marked = _or_damaged(lambda: deployment.warehouse.marked(source.name, table), damaged, mend) if published else 0
        kept = _or_damaged(lambda: _quarantined(deployment, source, table), damaged, mend)
    except LakehouseError as error:
        return TableStatus(name, mode, 0, 0, 0, 0, 0, 0, 0, 0, None, None, problem=str(error))
    head = entries[-1].sequence if entries else 0
    if state and state.current.marker.sequence > head:
        gone = f"entries {head + 1} to {state.current.marker.sequence} are gone, which the lake has applied"
        damaged.append(f"the end of the raw log is lost: {gone}: {mend}")
    files = {file.path: file.bytes for entry in entries for file in entry.manifest.files}
    return TableStatus(
        table=name,
        mode=mode,
        rows=state.current.marker.rows if state else 0,
        raw_sequence=head,
        lake_sequence=state.current.marker.sequence if state else 0,
        warehouse_sequence=published.marker.sequence if published else 0,
        warehouse_rows=published.marker.rows if published else 0,
        raw_bytes=0 if isinstance(table, History) else sum(files.values()),
        lake_bytes=state.bytes if state else 0,
        warehouse_bytes=published.bytes if published else 0,
        last_landed=entries[-1].manifest.created_at if entries else None,
        last_applied=state.current.committed_at if state else None,
        reading_behind=published is not None and published.reading != table.reading,
        behind=() if damaged else tuple(_behind(table, name, head, state, published)),
        damaged=tuple(damaged),
        quarantined=kept or 0,
        marked=marked or 0,
    )


def _quarantined(deployment: Deployment, source: Source, table: Table) -> int:
    return len(open_rows(Quarantine(deployment, source, table).rows().values())) if table.keeps_refused else 0


def _behind(table: Table, name: str, head: int, state: TableState | None, published: Published | None) -> Iterator[str]:
    run = f"run `lakehouse run --select {name}`"
    watermark = state.current.marker.sequence if state else 0
    if head > watermark:
        yield f"{_batches(head - watermark)} landed that the lake has not applied: {run}"
    if state is None:
        return
    if published is None:
        yield f"the published table is missing: {run}"
    elif published.marker.sequence < watermark:
        yield f"the warehouse has sequence {published.marker.sequence} of the lake's {watermark}: {run}"
    elif published.marker.sequence > watermark:
        yield f"the lake went back to sequence {watermark}, the warehouse has {published.marker.sequence}: {run}"
    elif published.marker != state.current.marker:
        yield f"lake and warehouse disagree on what sequence {watermark} holds: run `lakehouse repair {name}`"
    elif published.reading != table.reading:
        yield f"readers of the published table see {published.reading}, and are to see {table.reading}: {run}"


def _batches(count: int) -> str:
    return "1 batch" if count == 1 else f"{count} batches"


def _entries(deployment: Deployment, source: Source, table: Table, damaged: list[str], mend: str) -> list[LogEntry]:
    """The entries that can be read; what is wrong with those that count, and with their files as a listing shows them."""
    log = deployment.log(source, table)
    looked = log.look()
    entries = [found for found in looked if isinstance(found, LogEntry)]
    begins = max((entry.sequence for entry in entries if entry.manifest.kind == "snapshot"), default=0)
    for sequence, found in enumerate(looked, start=1):
        if isinstance(found, DamagedData) and sequence > begins:
            damaged.append(f"raw log entry {sequence} cannot be read ({found.tried}: {found.value}): {mend}")
    sizes = {info.path: info.size for info in deployment.store.list(log.folder)}
    for entry in standing(entries):
        for file in entry.manifest.files:
            path = f"{log.folder}/{file.path}"
            if (size := sizes.get(path)) != file.bytes:
                said = "is gone" if size is None else f"has {size} bytes instead of {file.bytes}"
                damaged.append(f"raw file {deployment.store.url_of(path)} of entry {entry.sequence} {said}: {mend}")
    return entries


def _or_damaged(look: Callable[[], T], damaged: list[str], mend: str) -> T | None:
    try:
        return look()
    except ConfigurationError:
        raise
    except TerminalError as error:
        damaged.append(f"{error.tried}: {error.value}: {mend}")
        return None


def check_sources(deployment: Deployment, chosen: Sequence[tuple[Source, Table]]) -> None:
    """Connect to each source of the chosen tables and compare it with the declaration; the first that is not as it should raises.

    Raises SourceUnavailable, ConfigurationError or SourceMismatch; nothing was done.
    """
    for source in {source.name: source for source, _ in chosen}.values():
        with closing(deployment.reader(source)) as reader:
            reader.check(declared_tables(table for of, table in chosen if of.name == source.name))


def source_status(deployment: Deployment, source: Source) -> SourceStatus:
    """Connect to a source and compare it with its declaration."""
    try:
        with closing(deployment.reader(source)) as reader:
            reader.check(source.tables)
            warnings = tuple(f"{table.name}: {warning}" for table in source.tables for warning in reader.warnings(table))
    except LakehouseError as error:
        return SourceStatus(source.name, source.kind, str(error))
    return SourceStatus(source.name, source.kind, warnings=warnings)
