"""Runs whose process is gone: which are ended, which are left alone, and what becomes of their place in a pool."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from lakehouse.orchestration.dead_runs import PROCESS, end_dead_runs, ending_dead_runs, this_process
from lakehouse.services.processes import poll


@dg.job
def nothing() -> None:
    """A job without steps."""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def a_dead_process() -> tuple[int, str]:
    """The pid of a process that has ended, and what it would have written on its run."""
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, start_new_session=True
    ) as process:
        told = this_process().replace(f" {os.getpid()} ", f" {process.pid} ")
    return process.pid, told


def a_run(instance: dg.DagsterInstance, tags: dict[str, str] | None = None) -> dg.DagsterRun:
    """A run that Dagster takes to be under way."""
    run = instance.create_run_for_job(nothing, tags=tags or {})
    event = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_START.value, "nothing")
    instance.report_dagster_event(event, run.run_id)
    return run


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status


def test_a_run_whose_process_is_gone_is_ended_and_its_place_in_the_pool_is_free(instance: dg.DagsterInstance) -> None:
    run, waiting = a_run(instance, {PROCESS: a_dead_process()[1]}), a_run(instance, {PROCESS: this_process()}).run_id
    storage = instance.event_log_storage
    storage.set_concurrency_slots("dbt", 1)
    assert storage.claim_concurrency_slot("dbt", run.run_id, "statistics").is_claimed
    assert not storage.claim_concurrency_slot("dbt", waiting, "statistics").is_claimed

    assert end_dead_runs(instance, one_machine=False) == [run.run_id]
    assert status(instance, run) == dg.DagsterRunStatus.FAILURE
    assert storage.claim_concurrency_slot("dbt", waiting, "statistics").is_claimed


def test_a_run_whose_process_lives_is_left_alone(instance: dg.DagsterInstance) -> None:
    ours = a_run(instance, {PROCESS: this_process()})
    unknown = a_run(instance)
    assert end_dead_runs(instance, one_machine=True) == []
    assert {status(instance, run) for run in (ours, unknown)} == {dg.DagsterRunStatus.STARTED}


def test_another_process_behind_the_same_pid_is_not_the_run(instance: dg.DagsterInstance) -> None:
    run = a_run(instance, {PROCESS: f"{socket.gethostname()} {os.getpid()} 12"})
    assert end_dead_runs(instance, one_machine=True) == [run.run_id]


def test_a_run_of_another_machine_is_left_alone(instance: dg.DagsterInstance) -> None:
    run = a_run(instance, {PROCESS: f"elsewhere {a_dead_process()[0]} 12"})
    assert end_dead_runs(instance, one_machine=True) == []
    assert status(instance, run) == dg.DagsterRunStatus.STARTED


@pytest.mark.parametrize("one_machine", [True, False])
def test_a_run_that_dagster_launched_is_ended_where_its_pid_means_something(
    instance: dg.DagsterInstance, one_machine: bool
) -> None:
    run = a_run(instance)
    instance.report_engine_event("Started process for run.", run, EngineEventData.in_process(a_dead_process()[0]))
    assert end_dead_runs(instance, one_machine=one_machine) == ([run.run_id] if one_machine else [])


def test_a_run_that_ended_by_itself_keeps_its_status_and_gives_its_place_back(instance: dg.DagsterInstance) -> None:
    run = a_run(instance, {PROCESS: a_dead_process()[1]})
    instance.event_log_storage.set_concurrency_slots("dbt", 1)
    instance.event_log_storage.claim_concurrency_slot("dbt", run.run_id, "statistics")
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.PIPELINE_SUCCESS.value, "nothing"), run.run_id)
    assert end_dead_runs(instance, one_machine=True) == []
    assert status(instance, run) == dg.DagsterRunStatus.SUCCESS
    assert instance.event_log_storage.get_concurrency_run_ids() == set()


def test_a_run_that_dies_while_another_waits_is_ended_too(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.orchestration.dead_runs.LOOK_EVERY", 0.05)
    told: list[str] = []
    with ending_dead_runs(instance, told.append, one_machine=False):
        assert told == []
        run = a_run(instance, {PROCESS: a_dead_process()[1]})
        assert poll(lambda: bool(told), seconds=60)
    assert run.run_id in told[0]
