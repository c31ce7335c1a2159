"""What the next run would change, found out without changing anything: declarations, sources, lake and warehouse compared.

It asks the source for its columns and for the ends of its times, and reads manifests and markers. No row is read, so whether a
window holds anything new is not known before the run reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import pyarrow as pa

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.column_types import landed_types, last_fields, refuse_changed_types
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.fitting import Fitting
from lakehouse.pipeline.refusal import refusal
from lakehouse.pipeline.relations import check_expected
from lakehouse.pipeline.statistics import stale_statistics
from lakehouse.pipeline.status import TableStatus, table_status
from lakehouse.pipeline.sweep import next_sweep
from lakehouse.pipeline.windows import columns_of, due_days, last_extent, upsert_plan
from lakehouse.raw import RawLog
from lakehouse.rows.soft_delete import check_mark
from lakehouse.sources.reader import SourceReader, SourceSnapshot
from lakehouse.spec import History, LogEntry, Source, Table
from lakehouse.spec.types import declared_type
from lakehouse.tables.columns import field_specs
from lakehouse.tables.evolution import wider_type

Kind = Literal["new", "added", "renamed", "widened", "optional", "kept", "gone", "read", "apply", "publish", "stops"]


@dataclass(frozen=True)
class Change:
    """One thing that the next run would do to a table, or (`stops`) why it would do nothing to it."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class TablePlan:
    """One table. warnings: what makes reading it slow or its windows less sure."""

    table: str
    changes: tuple[Change, ...]
    warnings: tuple[str, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether the run would stop at this table."""
        return any(change.kind == "stops" for change in self.changes)


@dataclass(frozen=True)
class RunPlan:
    """All tables that were asked for, and the days of the statistics that are stale already."""

    tables: tuple[TablePlan, ...]
    days: tuple[date, ...] = ()
    first_build: bool = False
    problem: str = ""

    @property
    def stops(self) -> bool:
        """Whether anything would stop."""
        return bool(self.problem) or any(table.stops for table in self.tables)


@dataclass
class _Found:
    """What is being found out of one table."""

    changes: list[Change] = field(default_factory=list)

    def add(self, kind: Kind, text: str) -> None:
        self.changes.append(Change(kind, text))

    def stop(self, error: LakehouseError) -> None:
        self.add("stops", str(error))


def plan_run(deployment: Deployment, chosen: Sequence[tuple[Source, Table]]) -> RunPlan:
    """Compare every chosen table at every hop. What cannot be read or followed is in the plan, not raised."""
    plans: list[TablePlan] = []
    for source in {source.name: source for source, _ in chosen}.values():
        tables = [table for of, table in chosen if of.name == source.name]
        try:
            declared = [table for table in tables if not isinstance(table, History)]
            if declared:
                with closing(deployment.reader(source)) as reader:
                    plans += list(_source_plans(deployment, reader, source, declared))
            plans += [_history_plan(deployment, source, table) for table in tables if isinstance(table, History)]
        except LakehouseError as error:
            plans += [TablePlan(f"{source.name}.{table.name}", (Change("stops", str(error)),)) for table in tables]
    try:
        stale = stale_statistics(deployment)
    except LakehouseError as error:
        return RunPlan(tuple(plans), problem=str(error))
    return RunPlan(tuple(plans), stale.days, stale.first_build)


def _source_plans(deployment: Deployment, reader: SourceReader, source: Source, tables: Sequence[Table]) -> Iterator[TablePlan]:
    """Each table of a source: one that cannot be read as declared does not hide the others."""
    refused = {table.name: refusal(deployment, reader, table) for table in tables}
    if all(refused.values()):
        yield from (_plan(deployment, reader, None, source, table, refused[table.name]) for table in tables)
        return
    with reader.snapshot() as snapshot:
        for table in tables:
            yield _plan(deployment, reader, snapshot, source, table, refused[table.name])


def _plan(
    deployment: Deployment,
    reader: SourceReader,
    snapshot: SourceSnapshot | None,
    source: Source,
    table: Table,
    refused: LakehouseError | None,
) -> TablePlan:
    found, name, warnings = _Found(), f"{source.name}.{table.name}", tuple[str, ...]()
    try:
        status = table_status(deployment, source, table)
        for words in filter(None, (status.problem, *status.damaged)):
            found.add("stops", words)
        if refused is not None:
            found.stop(refused)
        elif snapshot is not None and not status.problem:
            warnings = reader.warnings(table)
            entries = [] if status.damaged else deployment.log(source, table).entries()
            fitting = Fitting(table, entries)
            for words in fitting.changes(reader.schema(table)):
                found.add("kept", words)
            schema = fitting.schema(reader.schema(table))
            _columns(deployment, source, table, entries, schema, found)
            _windows(deployment.log(source, table), snapshot, entries, schema, found)
        _hops(status, table, found)
    except LakehouseError as error:
        found.stop(error)
    return TablePlan(name, tuple(found.changes), warnings)


def _history_plan(deployment: Deployment, source: Source, table: History) -> TablePlan:
    """A history reads nothing of the source: what waits for it in the raw log of its table."""
    found, status = _Found(), table_status(deployment, source, table)
    for words in filter(None, (status.problem, *status.damaged)):
        found.add("stops", words)
    if not status.lake_sequence and not status.problem:
        found.add("new", f"history of {table.of.name}, {table.format}, {_partitioned(table)}")
    _hops(status, table, found)
    return TablePlan(status.table, tuple(found.changes))


def _columns(
    deployment: Deployment, source: Source, table: Table, entries: Sequence[LogEntry], schema: pa.Schema, found: _Found
) -> None:
    """How the table's columns would follow the source's."""
    try:
        check_expected(deployment, source, table, schema)
        check_mark(source.name, table, schema)
        refuse_changed_types(source.name, table, entries, schema)
        deployment.lake.check(source.name, table, field_specs(schema))
    except LakehouseError as error:
        found.stop(error)
    state = deployment.lake.state(source.name, table)
    if state is None:
        if not entries:
            hidden = f"; readers of the warehouse do not see rows that {table.hides} marks" if table.hides else ""
            found.add("new", f"table with {len(schema)} columns, {table.format}, {_partitioned(table)}{hidden}")
        return
    landed = landed_types(entries)
    names = table.names_today(state.schema.names)
    for old, today in names.items():
        found.add("renamed", f"column {old} is {today} from now on: the table is built anew from its raw log")
    for column in schema:
        if column.name in names.values():
            continue
        known, type_ = state.schema.field(column.name) if column.name in state.schema.names else None, declared_type(column)
        if known is None:
            again = "" if column.name in landed or table.mode == "snapshot" else "; all rows are read again for it"
            found.add("added", f"column {column.name}: {type_}{again}")
            continue
        wider = wider_type(declared_type(known), type_)
        if wider not in (None, declared_type(known)):
            found.add("widened", f"column {column.name}: {declared_type(known)} to {wider}")
        if column.nullable and not known.nullable:
            found.add("optional", f"column {column.name} may be null from now on")
    for last in last_fields(entries):
        if last.name not in schema.names:
            found.add(
                "gone",
                f"column {last.name} is not in the source any more: it stays, and is null in rows that are read from now on",
            )


def _partitioned(table: Table) -> str:
    partition = table.partition
    return "in one piece" if partition.column is None else f"partitioned by {partition.transform} of {partition.column}"


def _windows(log: RawLog, snapshot: SourceSnapshot, entries: Sequence[LogEntry], schema: pa.Schema, found: _Found) -> None:
    """What would be read of the source."""
    table = log.table
    if any(change.kind == "stops" for change in found.changes):
        return
    if table.mode == "snapshot":
        found.add("read", "all rows, landed if they differ from the last ones")
        return
    column = table.event_time if table.mode == "append" else table.cursor
    assert column is not None
    extent = snapshot.extent(table, column, last_extent(entries))
    if extent is None:
        found.add("read", "the source has no rows")
    elif table.mode == "append":
        days = due_days(table, entries, extent, snapshot.position, None, full=False, columns=columns_of(schema))
        if days:
            span = f"{days[0]}" if len(days) == 1 else f"{len(days)} days, {days[0]} to {days[-1]}"
            found.add("read", f"{span} by {column}, each landed if it differs")
    else:
        plan = upsert_plan(table, entries, extent, snapshot.position, full=False, columns=columns_of(schema))
        if plan.whole.low is None:
            found.add("read", f"all rows up to {column} {plan.whole.high:%Y-%m-%d %H:%M:%S}")
        else:
            fresh = "nothing newer" if plan.fresh is None else f"rows from {column} {plan.fresh.low:%Y-%m-%d %H:%M:%S} on"
            found.add("read", f"{fresh}; {table.lookback} before that once more, for late commits")
    if table.deletes == "sweep":
        due = next_sweep(log, snapshot.position.taken_at)
        words = "the keys of all rows, to find deleted ones"
        found.add("read", words if due is None else f"no keys: the next sweep is due at {due:%Y-%m-%d %H:%M} UTC")


def _hops(status: TableStatus, table: Table, found: _Found) -> None:
    """What was landed or applied already, and waits."""
    if status.problem or status.damaged:
        return
    waiting = status.raw_sequence - status.lake_sequence
    if waiting > 0:
        found.add("apply", f"{waiting} batch{'es' * (waiting > 1)} that landed before")
    if status.lake_sequence and status.warehouse_sequence != status.lake_sequence:
        found.add(
            "publish",
            f"sequence {status.lake_sequence} of the lake, where the warehouse has {status.warehouse_sequence or 'nothing'}",
        )
    if status.reading_behind:
        found.add("publish", f"readers of the warehouse see {table.reading} from then on, and so do all days of its statistics")
