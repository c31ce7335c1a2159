"""A healthy table folded anew from its raw log under today's declaration, and exchanged in.

What changes no row (partitions, format) is a fold of the log as it is. What does (types, personal columns, a key) is landed
first: a snapshot of the log's fold as it is declared now, after which the columns, types and rows of all that came before count
no more. Either way the lake's table is replaced in one commit, beside which readers go on, and the warehouse's in one exchange.
Who is killed leaves the table as it was or as it is to be, and is begun again; a run that comes in between goes on from what it
finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

import pyarrow as pa

from lakehouse.errors import CommitConflict, DamagedData
from lakehouse.pipeline.attempts import until_won
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.publish import publish_table, republish_table
from lakehouse.pipeline.quarantine import Quarantine
from lakehouse.pipeline.rebuild_reading import (
    Reading,
    built_state,
    landed_rows,
    log_checksum,
    read_log,
    refuse_lost_history,
    todays_rows,
)
from lakehouse.pipeline.repair_record import REBUILDS as FOLDER
from lakehouse.pipeline.repair_record import RepairRecord, begin_record, end_record, save_record
from lakehouse.pipeline.statistics import forget_statistics
from lakehouse.pipeline.windows import NEWEST, OLDEST
from lakehouse.raw import Written
from lakehouse.rows.checksum import checksum_of
from lakehouse.spec import REBUILDS, History, LogEntry, RowChecksum, Source, Table, history_of
from lakehouse.spec.declaration import TableFormat
from lakehouse.spec.types import declared_type
from lakehouse.tables.engine import Applied

Say = Callable[[str], None]


@dataclass(frozen=True)
class Shape:
    """How a table is kept. types: of its columns, by name. rows, bytes: of the lake's table; 0 for one that is to come."""

    format: str
    partitioning: str
    key: tuple[str, ...]
    types: dict[str, str]
    rows: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class RebuildPlan:
    """What a rebuild is about to do. now: the lake's table, None for none. declared: as it is to be. notes: what else to know."""

    table: str
    now: Shape | None
    declared: Shape
    reading: Reading
    changes: tuple[str, ...]
    steps: tuple[str, ...]
    notes: tuple[str, ...]


def plan_rebuild(deployment: Deployment, source: Source, table: Table) -> RebuildPlan:
    """Read the whole log under today's declaration, and say what is to be done; nothing is changed.

    Raises as `read_log`: what stops the rebuild stops here.
    """
    reading = read_log(deployment, source, table)
    refuse_lost_history(source, table, reading)
    types = {field.name: declared_type(field) for field in reading.schema}
    declared = Shape(table.format, str(table.partition), table.key, types)
    now = _shape(deployment, source, table, reading)
    changes = tuple(_changes(now, declared, reading, table))
    steps = tuple(_steps(f"{source.name}.{table.name}", reading, table))
    notes = (*reading.notes, *_notes(deployment, source, table, reading))
    return RebuildPlan(f"{source.name}.{table.name}", now, declared, reading, changes, steps, notes)


def rebuild_table(
    deployment: Deployment, source: Source, table: Table, plan: RebuildPlan, on_event: Say = lambda _: None
) -> RepairRecord:
    """Carry out a plan; the record of it, which is in the store as well.

    When a run lands or commits meanwhile, the log is read again and the rest is done anew. Raises CommitConflict after losing
    `ATTEMPTS` times in a row, and what `read_log` raises; what was landed stays, and counts.
    """
    record = begin_record(deployment, source, table, changes=plan.changes or ("none: folded anew as it was",), folder=FOLDER)

    def done(text: str) -> None:
        record.done.append(text)
        on_event(text)
        save_record(deployment, record)

    readings = [plan.reading]

    def attempt() -> None:
        reading = readings.pop() if readings else read_log(deployment, source, table)
        try:
            _rebuild(deployment, source, table, reading, done)
        except CommitConflict as error:
            on_event(f"another process was faster, reading the log again: {error.value}")
            raise

    try:
        until_won(attempt)
    except BaseException as error:
        end_record(deployment, record, f"{type(error).__name__}: {error}")
        raise
    end_record(deployment, record)
    return record


def _rebuild(deployment: Deployment, source: Source, table: Table, reading: Reading, done: Say) -> None:
    """One attempt, from a reading of the log to the exchange in the warehouse."""
    expected, entries = reading.landed, [*reading.entries]
    if reading.changes_rows(table):
        entries.append(_land(deployment, source, table, reading))
        rows = entries[-1].manifest.rows
        done(
            f"raw: landed {rows:,} rows as they are declared now as entry {entries[-1].sequence}, from the {reading.head} before"
        )
        expected = log_checksum(deployment, source, table, entries[-1].sequence)
    _check_head(deployment, source, table, entries)
    state = _fold(deployment, source, table, entries, expected).state
    told = f"{state.current.marker.rows:,} rows in version {state.current.version}, {state.files} files"
    done(f"lake: folded {entries[-1].sequence} entries anew: {told}; rows and checksum are those of a second reading of the log")
    forget_statistics(deployment, source, table)
    until_won(lambda: _republish(deployment, source, table))
    publish_table(deployment, source, table)
    if table.history:
        _rebuild_history(deployment, source, history_of(table), entries, done)
    done(f"warehouse: copied all {state.current.marker.rows:,} rows, in one exchange; statistics are built anew by the next run")


def _rebuild_history(deployment: Deployment, source: Source, history: History, entries: list[LogEntry], done: Say) -> None:
    """The history is partitioned as its table is: fold it anew if it is not. One in another format is built by the next apply."""
    partitioning = deployment.lake.partitioning(source.name, history)
    if partitioning is None or partitioning == history.partition:
        return
    state = deployment.lake.rebuild(source.name, history, entries, deployment.log(source, history).folder).state
    until_won(lambda: _republish(deployment, source, history))
    done(f"history: folded {entries[-1].sequence} entries anew: {state.current.marker.rows:,} rows")


def _fold(deployment: Deployment, source: Source, table: Table, entries: list[LogEntry], expected: RowChecksum) -> Applied:
    return deployment.lake.rebuild(source.name, table, entries, deployment.log(source, table).folder, expected=expected)


def _land(deployment: Deployment, source: Source, table: Table, reading: Reading) -> LogEntry:
    """Land the log's fold as it is declared now, if the log is still what was read; CommitConflict otherwise."""
    log = deployment.log(source, table)
    with landed_rows(deployment, source, table, reading) as rows:
        seen = _Seen(rows, reading)
        written = log.write(todays_rows(deployment, source, table, reading, iter(seen)), reading.schema)
    _check_landed(source, table, reading, seen.checksum, written)
    position = reading.entries[-1].manifest.position
    kept = {name: text for name, text in position.detail.items() if name in (OLDEST, NEWEST)}
    detail = {**kept, REBUILDS: f"entries 1 to {reading.head}"}
    manifest = log.manifest(
        written, kind="snapshot", window=None, closed=False, schema=reading.schema, position=replace(position, detail=detail)
    )
    return log.claim(manifest, expected_head=reading.head)


class _Seen:
    """Rows on their way, and their checksum in the types that they came with."""

    def __init__(self, rows: Iterable[pa.RecordBatch], reading: Reading) -> None:
        self._rows, self._schema = rows, reading.landed_schema
        self.checksum = RowChecksum(0, 0)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._rows:
            self.checksum += checksum_of([batch], self._schema)
            yield batch


def _check_landed(source: Source, table: Table, reading: Reading, found: RowChecksum, written: Written) -> None:
    if (found, written.rows) != (reading.landed, reading.landed.rows):
        raise DamagedData(
            f"rebuilding {source.name}.{table.name}",
            value=f"{written.rows:,} rows written of {found.rows:,}, checksum {found.hex}",
            allowed=f"the {reading.landed.rows:,} rows that the log had when it was read before, checksum {reading.landed.hex}",
            remedy="Nothing was landed. Run it again.",
        )


def _check_head(deployment: Deployment, source: Source, table: Table, entries: list[LogEntry]) -> None:
    head = deployment.log(source, table).head()
    if head != entries[-1].sequence:
        raise CommitConflict(
            f"rebuilding {source.name}.{table.name}",
            value=f"entry {head} landed, after {entries[-1].sequence} were read",
            allowed="a log that nobody adds to",
            remedy="Run it again.",
        )


def _republish(deployment: Deployment, source: Source, table: Table) -> None:
    republish_table(deployment, source, table, deployment.warehouse.state(source.name, table))


def _shape(deployment: Deployment, source: Source, table: Table, reading: Reading) -> Shape | None:
    found = built_state(deployment, source, table)
    if found is None:
        return None
    as_built, state = found
    types = {field.name: declared_type(field) for field in state.schema}
    partitioning = deployment.lake.partitioning(source.name, as_built)
    return Shape(as_built.format, str(partitioning), reading.key, types, state.current.marker.rows, state.bytes)


def _changes(now: Shape | None, declared: Shape, reading: Reading, table: Table) -> list[str]:
    found = []
    if now is not None and now.format != declared.format:
        found.append(f"format: {now.format} to {declared.format}")
    if now is not None and now.partitioning != declared.partitioning:
        found.append(f"partitions: {now.partitioning} to {declared.partitioning}")
    if set(reading.key) != set(table.key):
        found.append(f"key: {', '.join(reading.key)} to {', '.join(table.key)}")
    found += [f"column {name}: {before} to {after}" for name, (before, after) in reading.retyped.items()]
    found += [f"column {name} is dropped: it is personal" for name in reading.dropped]
    for name, count in reading.plain.items():
        words = "masked" if table.personal[name] == "mask" else "tokens"
        found.append(f"column {name}: {count:,} values as they came become {words}")
    return found


def _steps(name: str, reading: Reading, table: Table) -> list[str]:
    steps = []
    if reading.changes_rows(table):
        steps.append(
            f"raw: land a snapshot of {name} as it is declared now, {reading.landed.rows:,} rows; none before it counts any more"
        )
    steps.append(f"lake: fold the raw log of {name} anew, in one commit over the table; its versions stay")
    steps.append(f"warehouse: copy all rows of {name} from the lake, in one exchange")
    return steps


def _notes(deployment: Deployment, source: Source, table: Table, reading: Reading) -> list[str]:
    notes = []
    if reading.plain or reading.dropped:
        notes.append(
            "personal values stay in the raw log's earlier batches, and in the lake's earlier versions until maintenance "
            "expires them and removes their files"
        )
        if table.keeps_refused and (kept := len(Quarantine(deployment, source, table).rows())):
            notes.append(f"{kept:,} rows in quarantine stay as they came, and are protected when they are replayed")
    for format_ in get_args(TableFormat):
        other = replace(table, format=format_)
        if format_ != table.format and deployment.lake.state(source.name, other) is not None:
            root = deployment.store.url_of(deployment.lake.root(source.name, other))
            notes.append(f"the {format_} table stays as it is, and is not kept up: {root}")
    return notes
