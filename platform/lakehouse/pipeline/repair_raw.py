"""Mending a raw log by what is landed on top of it. The log stays as it is: nothing in it is overwritten, and no place left out.

- A file of a day of an `append` table: the day is landed anew, which makes the damaged batch void. The rows are those of the
  source or of the lake, whichever has just the rows and the checksum of the manifest; else what the source has now, unless that
  is less than there was and the source has purged rows of that time.
- Anything else: a snapshot of the table, which makes all before it void. Its rows are those of the lake, when the lake has
  applied what is damaged and holds just the rows that its marker tells of: they are the fold of the log. Where the lake has not,
  the rows that can still be read are landed as a snapshot, which says that it is incomplete: to `windows.py` nothing was read
  before it, so that the next extraction, here or in any run, reads the source in full on top of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa

from lakehouse.errors import CommitConflict, LakehouseError, TransientError
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.column_types import refuse_changed_types
from lakehouse.pipeline.damage import Diagnosis
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.fitting import Fitting
from lakehouse.pipeline.gate import passing_rows, recorded
from lakehouse.pipeline.quarantine import Quarantine
from lakehouse.pipeline.sweep import SWEPT
from lakehouse.pipeline.windows import INCOMPLETE, REPAIRS
from lakehouse.raw import Written, as_stored, schema_of
from lakehouse.raw.current import fold_entries
from lakehouse.raw.scratch import scratch_folder
from lakehouse.rows.checksum import checksum_of
from lakehouse.rows.duck import connect_duckdb
from lakehouse.rows.partition import partition_prefix
from lakehouse.sources.reader import SourceSnapshot
from lakehouse.spec import BatchKind, LogEntry, Position, RowChecksum, Source, Table, Window

Origin = Literal["source", "lake", "log and source"]


@dataclass(frozen=True)
class RawStep:
    """One batch that is to be landed. entry: the damaged batch that it replaces; None for a snapshot of the whole table.

    exact: it must have just the rows of that entry, or of the lake's marker.
    """

    origin: Origin
    entry: LogEntry | None
    exact: bool
    text: str


def plan_raw(deployment: Deployment, source: Source, table: Table, found: Diagnosis) -> tuple[list[RawStep], list[str]]:
    """What to land, and, where something cannot be mended, why."""
    raw = found.raw
    if raw.whole:
        return [], []
    if table.mode == "append" and not raw.unreadable and not raw.lost:
        return _plan_days(deployment, source, table, found)
    from_lake = table.mode != "snapshot" or table.gone_at_most < 1  # the source may be just the one that lost its rows
    if from_lake and found.lake.good and found.lake.sequence >= _last_damaged(found):
        rows = found.lake.state.current.marker.rows if found.lake.state else 0
        return [RawStep("lake", None, True, f"land a snapshot of the lake's {rows:,} rows; it makes what is damaged void")], []
    if problem := _unreachable(deployment, source, table):
        if table.mode == "snapshot" and found.lake.good and found.lake.sequence >= _last_damaged(found):
            return [RawStep("lake", None, True, "land a snapshot of the lake's rows; the source does not answer")], []
        return [], [f"the rows are in no copy but the source, and the source cannot be read: {problem}"]
    if table.mode == "snapshot":
        return [RawStep("source", None, False, "land a snapshot of the source as it is now")], []
    text = "land a snapshot of the rows that can be read in the log, then read the source in full"
    lost = "; rows of the damaged batches that the source has not got any more are lost"
    return [RawStep("log and source", None, False, text + lost)], []


def land_step(deployment: Deployment, source: Source, table: Table, found: Diagnosis, step: RawStep) -> str:
    """Land one batch; what was done, in words.

    Raises CommitConflict when anybody landed something since the diagnosis, or the rows are not those that were planned: nothing
    was claimed then, and a new diagnosis tells what is left.
    """
    if step.entry is not None:
        return _land_day(deployment, source, table, found, step, step.entry)
    if step.origin == "lake":
        return _land_lake(deployment, source, table, found)
    if step.origin == "source":
        return _land_source(deployment, source, table, found)
    return _land_log_and_source(deployment, source, table, found)


def _last_damaged(found: Diagnosis) -> int:
    return max([found.raw.lost, *found.raw.unreadable, *(entry.sequence for entry in found.raw.broken)])


def _plan_days(deployment: Deployment, source: Source, table: Table, found: Diagnosis) -> tuple[list[RawStep], list[str]]:
    steps: list[RawStep] = []
    problems: list[str] = []
    unreachable = ""
    try:
        with closing(deployment.reader(source)) as reader:
            reader.check([table])
            schema = Fitting(table, found.raw.entries).schema(reader.schema(table))
            with reader.snapshot() as snapshot:
                for entry in found.raw.broken:
                    step, problem = _plan_day(deployment, source, table, found, entry, snapshot, schema)
                    steps += [step] if step else []
                    problems += [problem] if problem else []
                return steps, problems
    except LakehouseError as error:
        unreachable = f"{error.tried}: {error.value}"
    for entry in found.raw.broken:
        if _lake_has(deployment, source, table, found, entry):
            steps.append(_from_lake(entry))
        else:
            problems.append(f"{_day(entry)}: the lake has not got its rows, and the source cannot be read: {unreachable}")
    return steps, problems


def _plan_day(
    deployment: Deployment,
    source: Source,
    table: Table,
    found: Diagnosis,
    entry: LogEntry,
    snapshot: SourceSnapshot,
    schema: pa.Schema,
) -> tuple[RawStep | None, str]:
    had, day = entry.manifest, _day(entry)
    now = checksum_of(_source_rows(deployment, source, table, found, snapshot, entry), schema)
    if (now.rows, now.hex) == (had.rows, had.checksum):
        return RawStep("source", entry, True, f"land {day} anew from the source, which has the same {now.rows:,} rows"), ""
    if _lake_has(deployment, source, table, found, entry):
        return _from_lake(entry), ""
    assert table.event_time is not None
    extent = snapshot.extent(table, table.event_time)
    low = had.window.low if had.window else None
    if now.rows < had.rows and (extent is None or low is None or extent[0] >= low):
        return None, f"{day} had {had.rows:,} rows; the source has purged to {now.rows:,}, and the lake has not got them"
    text = f"land {day} anew from the source as it is now: {now.rows:,} rows where the damaged batch had {had.rows:,}"
    return RawStep("source", entry, False, text), ""


def _from_lake(entry: LogEntry) -> RawStep:
    return RawStep("lake", entry, True, f"land {_day(entry)} anew from the lake, which has its {entry.manifest.rows:,} rows")


def _day(entry: LogEntry) -> str:
    window = entry.manifest.window
    return f"the day {window.low.date()}" if window and window.low else f"entry {entry.sequence}"


def _source_rows(
    deployment: Deployment,
    source: Source,
    table: Table,
    found: Diagnosis,
    snapshot: SourceSnapshot,
    entry: LogEntry | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of the source, or of a day of it as far as nothing of it is missing, as they land."""
    window = entry.manifest.window if entry else None
    if window is not None and window.low is not None and window.high is not None:
        window = Window(window.low, min(window.high, max(snapshot.position.bound, window.low)))
    key = deployment.settings.privacy_key.get_secret_value()
    relations = recorded(table, lambda: Quarantine(deployment, source, table).rows())
    fitting = Fitting(table, found.raw.entries)
    yield from passing_rows(snapshot, table, key, window, relations=relations, fitting=fitting)


def _lake_rows(
    deployment: Deployment, source: Source, table: Table, found: Diagnosis, entry: LogEntry
) -> Iterator[pa.RecordBatch]:
    """The lake's rows of a batch's window, with the columns and types of the batch, under the names that its files have."""
    schema, window = schema_of(entry.manifest), entry.manifest.window
    assert found.lake.state is not None
    assert table.event_time is not None
    assert window is not None
    version = found.lake.state.current.version
    partitions = None
    if table.partition.transform == "day" and table.partition.column == table.event_time and window.low is not None:
        partitions = [f"{partition_prefix(table.partition)}={window.low.date()}"]
    for batch in deployment.lake.scan(source.name, table, version=version, partitions=partitions):
        rows = _within(batch, table.event_time, window).select(schema.names).cast(schema)
        yield pa.RecordBatch.from_arrays(rows.columns, schema=as_stored(entry.manifest))


def _within(batch: pa.RecordBatch, column: str, window: Window) -> pa.RecordBatch:
    import pyarrow.compute as pc

    times = batch.column(column)
    kept = pc.and_(pc.greater_equal(times, pa.scalar(window.low, times.type)), pc.less(times, pa.scalar(window.high, times.type)))
    return batch.filter(kept)


def _lake_has(deployment: Deployment, source: Source, table: Table, found: Diagnosis, entry: LogEntry) -> bool:
    """Whether the lake holds just the rows of a day's batch, whatever else is wrong with it."""
    if found.lake.state is None or found.lake.sequence < entry.sequence:
        return False
    try:
        rows = checksum_of(_lake_rows(deployment, source, table, found, entry), as_stored(entry.manifest))
    except TransientError:
        raise
    except (LakehouseError, pa.ArrowException, KeyError):
        return False
    return (rows.rows, rows.hex) == (entry.manifest.rows, entry.manifest.checksum)


def _unreachable(deployment: Deployment, source: Source, table: Table) -> str:
    try:
        with closing(deployment.reader(source)) as reader:
            reader.check([table])
    except LakehouseError as error:
        return f"{error.tried}: {error.value}"
    return ""


def _land_day(deployment: Deployment, source: Source, table: Table, found: Diagnosis, step: RawStep, entry: LogEntry) -> str:
    log, manifest = deployment.log(source, table), entry.manifest
    folder = manifest.files[0].path.rpartition("/")[0] if manifest.files else ""
    if step.origin == "lake":
        schema = as_stored(manifest)
        written = log.write(_lake_rows(deployment, source, table, found, entry), schema, folder=folder)
        position = manifest.position
    else:
        with closing(deployment.reader(source)) as reader:
            schema = Fitting(table, found.raw.entries).schema(reader.schema(table))
            refuse_changed_types(source.name, table, found.raw.entries, schema)
            with reader.snapshot() as snapshot:
                written = log.write(_source_rows(deployment, source, table, found, snapshot, entry), schema, folder=folder)
                detail = {**manifest.position.detail, **snapshot.position.detail}
                position = replace(snapshot.position, detail=detail)
    if step.exact:
        _check_rows(step.text, written, RowChecksum(manifest.rows, int(manifest.checksum, 16)))
    head = found.raw.head
    claimed = _claim(
        deployment, source, table, written, schema, position, "replace", head, (entry.sequence,),
        window=manifest.window, closed=manifest.closed and step.exact,
    )  # fmt: skip
    return f"landed {_day(entry)} anew from the {step.origin} as entry {claimed}: {written.rows:,} rows"


def _land_lake(deployment: Deployment, source: Source, table: Table, found: Diagnosis) -> str:
    log = deployment.log(source, table)
    if not found.raw.lost and found.lake.sequence < found.raw.head:
        apply_table(deployment, source, table)
    state = deployment.lake.state(source.name, table)
    head = found.raw.lost or found.raw.head
    if state is None or state.current.marker.sequence != head:
        raise _moved(f"landing a snapshot of the lake table {source.name}.{table.name}", "the lake or the log has moved")
    written = log.write(deployment.lake.scan(source.name, table, version=state.current.version), state.schema)
    marker = state.current.marker
    _check_rows("landing a snapshot of the lake", written, RowChecksum(marker.rows, int(marker.checksum, 16)))
    if not found.raw.entries:
        with closing(deployment.reader(source)) as reader, reader.snapshot() as snapshot:
            position = snapshot.position
    else:
        position = found.raw.entries[-1].manifest.position
    claimed = _claim(deployment, source, table, written, state.schema, position, "snapshot", head, _damaged(found))
    return f"landed a snapshot of the lake as entry {claimed}: {written.rows:,} rows"


def _land_source(deployment: Deployment, source: Source, table: Table, found: Diagnosis) -> str:
    log = deployment.log(source, table)
    with closing(deployment.reader(source)) as reader:
        schema = Fitting(table, found.raw.entries).schema(reader.schema(table))
        refuse_changed_types(source.name, table, found.raw.entries, schema)
        with reader.snapshot() as snapshot:
            written = log.write(_source_rows(deployment, source, table, found, snapshot), schema)
            position = snapshot.position
    head = found.raw.lost or found.raw.head
    claimed = _claim(deployment, source, table, written, schema, position, "snapshot", head, _damaged(found))
    return f"landed a snapshot of the source as entry {claimed}: {written.rows:,} rows"


def _land_log_and_source(deployment: Deployment, source: Source, table: Table, found: Diagnosis) -> str:
    log = deployment.log(source, table)
    broken = {entry.sequence for entry in found.raw.broken}
    good = [entry for entry in found.raw.entries if entry.sequence not in broken]
    with closing(deployment.reader(source)) as reader:
        now = Fitting(table, good).schema(reader.schema(table))
        refuse_changed_types(source.name, table, good, now)
        schema = None if good else now
        with reader.snapshot() as snapshot:
            position = snapshot.position
    limit = deployment.settings.memory_limit_mb
    with (
        connect_duckdb(memory_limit_mb=limit, temp_directory=deployment.settings.home / "tmp" / "repair") as connection,
        scratch_folder() as scratch,
    ):
        rows = fold_entries(table, good, schema, connection, lambda e: log.local_files(e, scratch / str(e.sequence)))
        batches = connection.execute(f"select * from {rows.relation}").to_arrow_reader(65536)
        written = log.write((batch.cast(rows.schema) for batch in batches), rows.schema)
    head = found.raw.lost or found.raw.head
    position = replace(position, detail={**position.detail, INCOMPLETE: "the source is read in full after it"})
    claimed = _claim(deployment, source, table, written, rows.schema, position, "snapshot", head, _damaged(found))
    apply_table(deployment, source, table)
    if table.sweep_every:
        log.keep_note(SWEPT, b"not since the repair")  # deletes that were lost have brought rows back
    (read,) = extract_source(deployment, source, [table])
    if read.error is not None:
        raise read.error
    return f"landed {written.rows:,} rows that could be read as entry {claimed}, and {read.rows:,} rows of the source on top"


def _claim(
    deployment: Deployment,
    source: Source,
    table: Table,
    written: Written,
    schema: pa.Schema,
    position: Position,
    kind: BatchKind,
    head: int,
    damaged: Iterable[int],
    *,
    window: Window | None = None,
    closed: bool = False,
) -> int:
    log = deployment.log(source, table)
    detail = {**position.detail, REPAIRS: ", ".join(map(str, damaged)) or "the end of the log"}
    manifest = log.manifest(
        written, kind=kind, window=window, closed=closed, schema=schema, position=replace(position, detail=detail)
    )
    if log.head() < head:
        return log.claim_beyond(manifest, head).sequence
    return log.claim(manifest, expected_head=head).sequence


def _damaged(found: Diagnosis) -> list[int]:
    return sorted([*found.raw.unreadable, *(entry.sequence for entry in found.raw.broken)])


def _check_rows(tried: str, written: Written, expected: RowChecksum) -> None:
    if (written.rows, written.checksum) != (expected.rows, expected):
        raise _moved(tried, f"{written.rows:,} rows, checksum {written.checksum.hex}: something was changed meanwhile")


def _moved(tried: str, value: str) -> CommitConflict:
    return CommitConflict(tried, value=value, allowed="what the diagnosis found", remedy="Run `lakehouse repair` again.")
