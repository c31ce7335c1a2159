"""`lakehouse run` killed with everything that it started, and servers killed under it: the next run is all that is needed."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.deployments import Project, demo_project
from tests.servers import SERVERS

FAULTS = (
    "store.create:after:kill:2",
    "lake.commit:after:kill:2",
    "statistics.build:before:kill",
    "statistics.build:after:error",
    "statistics.build:after:kill",
    "warehouse.statistics_marker:before:kill",
)
"""Where the run ends: rows landed, a table applied, dbt about to begin, dbt done and nobody knows it, dbt done, and all done
but for the note that it is. The platform is new: the first of these runs is its first."""


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with demo_project(run=False) as project:
        yield project


def assert_exact(project: Project) -> None:
    """Every copy is equal, and no key is there twice."""
    project.verify()
    for table, key in (("chronochat__api_logs", "id"), ("chronochat__users", "id"), ("chronochat_mongo__messages", "_id")):
        assert project.warehouse(f"select count() - uniqExact({key}) from lakehouse.{table}") == [(0,)]


def assert_statistics_right(project: Project) -> None:
    """The statistics are those that building all days anew gives."""
    found = project.statistics()
    days = sorted(project.built_at())
    project.lakehouse("run", "--from", days[0], "--to", days[-1], "--no-show")
    assert project.statistics() == found


def test_a_run_killed_at_any_moment_is_healed_by_the_next_one(project: Project) -> None:
    for fault in FAULTS:
        if not fault.startswith(("statistics", "warehouse")):  # there the days stay stale
            project.lakehouse("demo", "tick")
        run = project.having(LAKEHOUSE_FAULT=fault).started("run", "--no-show")
        assert run.end() == (1 if "error" in fault else -signal.SIGKILL), f"{fault}: the run had ended\n{run.text}"
    done = project.lakehouse("run", "--no-show")
    assert "ended run" in done.err
    assert_exact(project)
    assert_statistics_right(project)


def test_a_server_killed_under_a_run_fails_it_soon_and_the_next_run_heals(project: Project) -> None:
    for server in SERVERS:
        project.lakehouse("demo", "tick")
        run = project.started("run", "--no-show")
        assert run.wait_for(lambda run=run: run.said(r"batches \(sequence") is not None), run.text  # type: ignore[misc]
        project.kill(server)
        run.end()
        assert "Traceback" not in run.text
        # Dagster alone would try eleven seconds for each event that it wants to keep.
        assert run.text.count("Retrying failed database connection") <= 12, run.text
        project.lakehouse("up")
    project.lakehouse("run", "--no-show")
    assert_exact(project)
