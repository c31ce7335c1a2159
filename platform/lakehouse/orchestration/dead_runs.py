"""Runs whose process is gone are ended in Dagster's records too, and what they held is freed.

A killed process cannot say that its run has failed: it would count as under way for ever, the sensor would wait for it, and the
place in the pool of dbt would never be free again. Dagster does not look at the processes that its default launcher starts.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from lakehouse.services.processes import Process, is_alive, started_at

PROCESS = "lakehouse/process"
"""On a run of `lakehouse run`: host, pid and start time of its process."""
UNDER_WAY = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
LOOK_EVERY = 10.0
"""Seconds between two looks while a run may be waiting for what a killed one holds."""


def this_process() -> str:
    """The value of the tag PROCESS for a run in this process."""
    return f"{socket.gethostname()} {os.getpid()} {started_at(os.getpid())}"


def end_dead_runs(instance: dg.DagsterInstance, *, one_machine: bool) -> list[str]:
    """End the runs whose process is gone and free their pools; their ids.

    one_machine: Dagster and all its runs are on this machine, so that the pid of a run that Dagster launched means something.
    """
    ended = []
    for found in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY)):
        if not _is_gone(instance, found, one_machine):
            continue
        # It may have ended rightly since it was listed; now that its process is gone its status stays what it is.
        run = instance.get_run_by_id(found.run_id)
        if run is not None and run.status in UNDER_WAY:
            instance.report_run_failed(run, "The process of this run is gone: it was killed, or its machine was. Run it again.")
            ended.append(run.run_id)
    _free_pools(instance)
    return ended


def end_restored_runs() -> list[str]:
    """End the runs that a backup of Dagster's storage shows under way or waiting, and free their pools; their ids.

    They are those of the storage's past, wherever they ran: the one that was lost is what they would have reported to.
    """
    with dg.DagsterInstance.get() as instance:
        statuses = [*UNDER_WAY, dg.DagsterRunStatus.QUEUED]
        found = [record.run_id for record in instance.get_runs(dg.RunsFilter(statuses=statuses))]
        for run_id in found:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            instance.report_run_failed(run, "This run was under way when the backup was made that its records come from.")
        _free_pools(instance)
    return found


def _free_pools(instance: dg.DagsterInstance) -> None:
    """Free what runs hold that have ended or are not known."""
    for run_id in instance.event_log_storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)


@contextmanager
def ending_dead_runs(instance: dg.DagsterInstance, on_event: Callable[[str], None], *, one_machine: bool) -> Iterator[None]:
    """Do so now, and again and again until the context ends: the run in it may come to wait for one that is killed later."""
    done = threading.Event()

    def look() -> None:
        for run_id in end_dead_runs(instance, one_machine=one_machine):
            on_event(f"ended run {run_id}, whose process was gone")

    def watch() -> None:
        while not done.wait(LOOK_EVERY):
            try:
                look()
            except SQLAlchemyError:
                return  # Dagster's storage has gone; the run itself will say so.

    look()
    watcher = threading.Thread(target=watch, name="dead-runs", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _is_gone(instance: dg.DagsterInstance, run: dg.DagsterRun, one_machine: bool) -> bool:
    told = run.tags.get(PROCESS)
    if told is not None:
        host, pid, started = told.split(" ", 2)
        return host == socket.gethostname() and not is_alive(Process(int(pid), started))
    if not one_machine or run.status == dg.DagsterRunStatus.NOT_STARTED:
        return False
    worker = _worker(instance, run.run_id)
    return worker is not None and started_at(worker) is None


def _worker(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The pid of the process that Dagster launched for a run, which its first events say."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        if entry.dagster_event is not None:
            pid = entry.dagster_event.engine_event_data.metadata.get("pid")
            if pid is not None and str(pid.value).isdigit():
                return int(str(pid.value))
    return None
