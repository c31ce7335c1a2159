"""`lakehouse backup` and `lakehouse restore` on a deployment whose own databases were lost."""

from __future__ import annotations

import signal
from pathlib import Path

import dagster as dg
import psycopg
from dagster_postgres import DagsterPostgresStorage

from lakehouse.orchestration.dead_runs import PROCESS
from tests.deployments import Project, demo_project


def runs(project: Project) -> int:
    """Runs that Dagster remembers."""
    with psycopg.connect(project.env()["LAKEHOUSE_DAGSTER__URL"]) as connection:
        row = connection.execute("select count(*) from runs").fetchone()
    assert row is not None
    return int(row[0])


def test_after_both_databases_were_lost_two_commands_bring_the_deployment_back(tmp_path: Path) -> None:
    place = (tmp_path / "backups").as_uri()
    with demo_project() as project:
        under_way = "4f6f6b6e-0000-4000-8000-000000000001"
        run = dg.DagsterRun("tea", under_way, status=dg.DagsterRunStatus.STARTED, tags={PROCESS: "elsewhere 1 1"})
        DagsterPostgresStorage(project.env()["LAKEHOUSE_DAGSTER__URL"]).run_storage.add_run(run)
        told = project.lakehouse("backup", "--to", place)
        assert "catalog.json" in told.out
        assert "chronochat.users" in told.out
        assert "fingerprint" in told.err
        env, sequences, remembered = project.env(), project.sequences(), runs(project)
        assert env["LAKEHOUSE_PRIVACY_KEY"] not in told.out + told.err
        refused = project.lakehouse("restore", "--from", place, ends=2)
        assert "a catalog without tables" in refused.err or "without runs" in refused.err
        catalog, dagster = env["LAKEHOUSE_CATALOG__URL"], env["LAKEHOUSE_DAGSTER__URL"]
        with psycopg.connect(f"{catalog.rpartition('/')[0]}/postgres", autocommit=True) as connection:
            for url in (catalog, dagster):
                connection.execute(f"drop database {url.rpartition('/')[2]} with (force)")
                connection.execute(f"create database {url.rpartition('/')[2]}")
        killed = project.having(LAKEHOUSE_FAULT="restore.dagster:before:kill").started("restore", "--from", place)
        assert killed.end() == -signal.SIGKILL
        assert runs(project) == 0
        done = project.lakehouse("restore", "--from", place, "--json").json()
        assert (done["catalog"], done["dagster"], done["newer"]) == (False, True, {})
        assert done["settled"] == [under_way]
        project.verify()
        assert (project.sequences(), runs(project)) == (sequences, remembered)
        assert "no run was needed" in project.lakehouse("run").err
        project.lakehouse("demo", "tick")
        project.lakehouse("run")
        project.verify()
        assert runs(project) == remembered + 1
