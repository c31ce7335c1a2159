"""`lakehouse run`: one Dagster run in this process, recorded like any other."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date

import dagster as dg

from lakehouse.orchestration.automation import RUN_JOB
from lakehouse.orchestration.dbt_process import dbt_ahead
from lakehouse.orchestration.dead_runs import PROCESS, ending_dead_runs, this_process
from lakehouse.orchestration.keys import ACCEPT_DELETES, FULL, ONLY_DUE, lake_key, range_tags, raw_key, warehouse_key
from lakehouse.orchestration.storage import hold_on, storage
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.windows import DayRange, columns_of, due_days, last_extent
from lakehouse.spec import Source, Table

_OURS = re.compile(r"^lakehouse\.errors\.\w+: ")
"""What Python puts before the message of our own errors."""


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. failures: steps and checks that failed, each with its message."""

    run_id: str
    success: bool
    days: DayRange
    failures: tuple[str, ...]


def pending_days(deployment: Deployment, chosen: Sequence[tuple[Source, Table]], *, full: bool) -> DayRange | None:
    """The span of days that are not closed yet, over the chosen `append` tables; `full` counts the closed ones too.

    None when the sources have no rows. Call `check_sources` first: here a missing table has no good words.
    """
    days: set[date] = set()
    for source in {source.name: source for source, _ in chosen}.values():
        tables = [table for s, table in chosen if s.name == source.name and table.mode == "append"]
        if not tables:
            continue
        with closing(deployment.reader(source)) as reader, reader.snapshot() as snapshot:
            for table in tables:
                assert table.event_time is not None
                entries, columns = deployment.log(source, table).entries(), columns_of(reader.schema(table))
                extent = snapshot.extent(table, table.event_time, last_extent(entries))
                if extent is not None:
                    days.update(due_days(table, entries, extent, snapshot.position, None, full=full, columns=columns))
    return DayRange(min(days), max(days)) if days else None


def execute(
    definitions: dg.Definitions,
    deployment: Deployment,
    chosen: Sequence[tuple[Source, Table]],
    days: DayRange,
    *,
    asked: bool,
    full: bool,
    accept_deletes: bool,
    on_event: Callable[[str], None],
) -> RunOutcome:
    """Run the chosen tables and the statistics for `days`.

    asked: somebody named the days, so they are all read and built; else only those that are not closed, or stale.
    Raises ServiceFailed when the storage that Dagster keeps its runs in goes away; what the hops have done until then stands.
    """
    keys = [make(source, table) for source, table in chosen for make in (raw_key, lake_key, warehouse_key)]
    everything = len(chosen) == len(deployment.select())
    job = definitions.resolve_job_def(RUN_JOB)
    selection = None if everything else [*keys, *_statistics_keys(job)]
    chosen_tags = {ONLY_DUE: not asked, FULL: full, ACCEPT_DELETES: accept_deletes}
    tags = range_tags(days) | {name: "true" for name, is_set in chosen_tags.items() if is_set}
    run_id = str(uuid.uuid4())
    with dbt_ahead(), storage(deployment.settings), dg.DagsterInstance.get() as instance:
        hold_on(instance)
        instance.add_event_listener(run_id, lambda entry: _tell(entry, on_event))
        with ending_dead_runs(instance, on_event, one_machine=deployment.settings.profile == "embedded"):
            result = job.execute_in_process(
                instance=instance,
                run_id=run_id,
                tags=tags | {PROCESS: this_process()},
                asset_selection=selection,
                raise_on_error=False,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
    failures = tuple(_failures(result))
    return RunOutcome(run_id, result.success and not failures, days, failures)


def _statistics_keys(job: dg.JobDefinition) -> list[dg.AssetKey]:
    layers = {"source", "raw", "lake", "warehouse"}
    return [key for key in job.asset_layer.executable_asset_keys if key.path[0] not in layers]


def _tell(entry: dg.EventLogEntry, on_event: Callable[[str], None]) -> None:
    if entry.dagster_event is not None:
        event = entry.dagster_event
        if event.is_step_success:
            on_event(f"done    {event.step_key}")
        elif event.is_step_failure:
            on_event(f"FAILED  {event.step_key}")
        elif event.is_step_skipped:
            on_event(f"skipped {event.step_key}")
    elif entry.user_message and int(entry.level) >= 20 and not entry.user_message.startswith("op '"):
        on_event(f"        {entry.user_message}")


def _failures(result: dg.ExecuteInProcessResult) -> list[str]:
    failures = []
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            cause = error.cause if error and error.cause else error
            told = _OURS.sub("", cause.message.strip()) if cause else "failed"
            if "DagsterExecutionInterruptedError" in told:
                told = "it was interrupted; run it again, nothing is done twice"
            failures.append(f"step {event.step_key}: {told}")
    for evaluation in result.get_asset_check_evaluations():
        if not evaluation.passed and evaluation.severity == dg.AssetCheckSeverity.ERROR:
            detail = evaluation.metadata.get("error")
            name = f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}"
            failures.append(f"check {name}: {detail.value}" if detail else f"check {name}")
    return failures
