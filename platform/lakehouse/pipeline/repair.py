"""Find the damaged copy of a table and rebuild it from the nearest good one: raw from source or lake, lake from raw, warehouse
from lake.

It goes in rounds: look at every copy, mend what can be mended now, look again. So a copy that stands on another is mended after
it, a repair that is killed is simply begun again, and one that a run gets ahead of finds what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lakehouse.errors import CommitConflict, DamagedData
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.damage import Diagnosis, diagnose
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.histories import provable_entries
from lakehouse.pipeline.publish import publish_table, republish_table
from lakehouse.pipeline.repair_raw import RawStep, land_step, plan_raw
from lakehouse.pipeline.repair_record import RepairRecord, begin_record, end_record, save_record
from lakehouse.pipeline.statistics import forget_statistics
from lakehouse.spec import History, Source, Table

ROUNDS = 6
"""Looks at a table before a repair gives up; three copies take at most three."""


@dataclass(frozen=True)
class Plan:
    """What a repair is about to do. raw: batches to land. problems: what cannot be mended, and why."""

    diagnosis: Diagnosis
    raw: tuple[RawStep, ...]
    problems: tuple[str, ...]

    @property
    def damaged(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.diagnosis.damage)

    @property
    def steps(self) -> tuple[str, ...]:
        """In words, in order."""
        name = f"{self.diagnosis.source}.{self.diagnosis.table}"
        steps = [f"raw: {step.text}" for step in self.raw]
        if self.diagnosis.of("lake") and self.diagnosis.lake.metadata:
            steps.append(f"lake: lead {name} back to metadata that can be read, then apply what came after it")
        elif self.diagnosis.of("lake"):
            steps.append(f"lake: fold the raw log of {name} anew, in one commit over the table; its versions stay")
        if self.diagnosis.of("warehouse"):
            steps.append(f"warehouse: copy all rows of {name} from the lake, in one exchange")
        return tuple(steps)


def plan_repair(deployment: Deployment, source: Source, table: Table) -> Plan:
    """Look at every copy of a table, and say what is to be done; nothing is changed."""
    found = diagnose(deployment, source, table)
    if isinstance(table, History):
        first = (
            f"the raw log is that of {source.name}.{table.of.name}: run `lakehouse repair {source.name}.{table.of.name}` first"
        )
        return Plan(found, (), (first,) if found.of("raw") else ())
    steps, problems = plan_raw(deployment, source, table, found)
    return Plan(found, tuple(steps), tuple(problems))


def repair_table(
    deployment: Deployment, source: Source, table: Table, plan: Plan, on_event: Callable[[str], None] = lambda _: None
) -> RepairRecord:
    """Carry out a plan, and what follows from it, until no copy is damaged; the record of it, which is in the store as well.

    Raises DamagedData when something is left that cannot be mended; what was mended stays.
    """
    record = begin_record(deployment, source, table, plan.diagnosis.damage)
    try:
        for _ in range(ROUNDS):
            _round(deployment, source, table, plan, record, on_event)
            save_record(deployment, record)
            plan = plan_repair(deployment, source, table)
            record.found(plan.diagnosis.damage)
            if not plan.damaged:
                end_record(deployment, record)
                return record
            if plan.problems:
                break
        raise _left(source, table, plan)
    except BaseException as error:
        end_record(deployment, record, f"{type(error).__name__}: {error}")
        raise


def _round(
    deployment: Deployment,
    source: Source,
    table: Table,
    plan: Plan,
    record: RepairRecord,
    on_event: Callable[[str], None],
) -> None:
    """Mend each copy as far as it can be now. Who loses to another process leaves it to the next round."""

    def done(text: str) -> None:
        record.done.append(text)
        on_event(text)

    try:
        for step in plan.raw:
            found = diagnose_again(deployment, source, table, plan) if step is not plan.raw[0] else plan.diagnosis
            done(f"raw: {land_step(deployment, source, table, found, step)}")
        if plan.problems:
            raise _left(source, table, plan)
        if plan.diagnosis.of("lake"):
            done(f"lake: {_mend_lake(deployment, source, table, plan.diagnosis)}")
        apply_table(deployment, source, table)
        if plan.diagnosis.of("warehouse"):
            done(f"warehouse: {_mend_warehouse(deployment, source, table, plan.diagnosis)}")
        forget_statistics(deployment, source, table)
        publish_table(deployment, source, table)
    except CommitConflict as error:
        on_event(f"another process was faster, looking again: {error.value}")
    except DamagedData as error:
        if plan.problems:
            raise
        on_event(f"found more, looking again: {error.tried}: {error.value}")


def diagnose_again(deployment: Deployment, source: Source, table: Table, plan: Plan) -> Diagnosis:
    """The diagnosis with the log's head as this repair has moved it: several days are landed one after the other."""
    head = deployment.log(source, table).head()
    return replace(plan.diagnosis, raw=replace(plan.diagnosis.raw, head=head))


def _mend_lake(deployment: Deployment, source: Source, table: Table, found: Diagnosis) -> str:
    if found.lake.metadata:
        restored = deployment.lake.restore(source.name, table)
        return f"led the table back to {restored}" if restored else "the metadata can be read again"
    log = deployment.log(source, table)
    entries = provable_entries(log, log.entries()) if isinstance(table, History) else log.entries()
    applied = deployment.lake.rebuild(source.name, table, entries, log.folder)
    marker = applied.state.current.marker
    return f"folded {marker.sequence} entries anew: {marker.rows:,} rows in version {applied.state.current.version}"


def _mend_warehouse(deployment: Deployment, source: Source, table: Table, found: Diagnosis) -> str:
    published = republish_table(deployment, source, table, found.published)
    if published is None:
        return "nothing to publish: the lake has no such table"
    return f"copied all {published.rows:,} rows of version {published.version}"


def _left(source: Source, table: Table, plan: Plan) -> DamagedData:
    found = [f"{one.copy}: {one.what}: {one.found}" for one in plan.diagnosis.damage]
    return DamagedData(
        f"repairing {source.name}.{table.name}",
        value="; ".join([*plan.problems, *found]),
        allowed="a good copy of every row",
        remedy="Restore the files that are named from a copy of the store, or make the source answer; then run it again.",
    )
