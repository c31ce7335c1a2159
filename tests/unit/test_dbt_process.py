"""dbt's own process: ready ahead, gone with whoever started it; and a manifest that was cut short."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lakehouse.orchestration.dbt_manifest import project_graph
from lakehouse.orchestration.dbt_process import Builder, DbtFailed
from lakehouse.services.processes import poll, started_at
from lakehouse.settings import Settings


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one model, whose warehouse is not there."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "one.sql").write_text("select 1 as a")
    (tmp_path / "dbt_project.yml").write_text("name: small\nversion: '1.0.0'\nprofile: small\n")
    output = {"type": "clickhouse", "host": "127.0.0.1", "port": 1, "schema": "none", "driver": "http"}
    (tmp_path / "profiles.yml").write_text(json.dumps({"small": {"target": "w", "outputs": {"w": output}}}))
    return tmp_path


def test_a_build_that_cannot_begin_says_why(project: Path) -> None:
    (project / "models" / "one.sql").write_text("select * from {{ ref('nowhere') }}")
    builder = Builder(project, Settings())
    with builder.ahead(), pytest.raises(DbtFailed, match="nowhere"):
        builder.build([], [])


def test_a_process_that_is_not_used_ends_with_its_run(project: Path) -> None:
    builder = Builder(project, Settings())
    with builder.ahead():
        assert builder._ready is not None
        process = builder._ready.pid
        assert started_at(process) is not None
    assert started_at(process) is None


def test_dbt_ends_when_the_run_that_started_it_is_killed(project: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom lakehouse.orchestration.dbt_process import Builder\n"
        "from lakehouse.settings import Settings\nbuilder = Builder(Path(sys.argv[1]), Settings())\n"
        "with builder.ahead():\n    print(builder._ready.pid, flush=True)\n    sys.stdin.read()\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script, str(project)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    dbt = int(run.stdout.readline())
    assert started_at(dbt) is not None
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    assert poll(lambda: started_at(dbt) is None, seconds=60)


def test_a_manifest_that_was_cut_short_is_made_anew(project: Path) -> None:
    assert [node.name for node in project_graph(project, Settings()).nodes] == ["one"]
    manifest = project / "target" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:1000])
    assert [node.name for node in project_graph(project, Settings()).nodes] == ["one"]
