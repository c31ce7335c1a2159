"""Benchmarks: the JSON that is promised, goals told and never asserted, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.__main__ import main
from benchmarks.beside import fake_server
from benchmarks.home import own_home, told
from benchmarks.measuring import CommandFailed, Ended, run
from benchmarks.results import Measurement, report, table
from benchmarks.suite import BENCHMARKS, WAYS, Size
from lakehouse.services.processes import poll

ROOT = Path(__file__).resolve().parents[2]
PROMISED = {"tool": str, "rows": int, "seconds": float, "rows_per_s": float, "peak_rss_mb": float}
MACHINE = {"cores": int, "memory_mb": int, "os": str, "python": str}


def assert_is_as_promised(content: dict[str, Any], name: str) -> None:
    assert set(content) == {"name", "machine", "results"}
    assert content["name"] == name
    for fact, kind in MACHINE.items():
        assert isinstance(content["machine"][fact], kind)
    assert content["results"]
    for result in content["results"]:
        for field, kind in PROMISED.items():
            assert isinstance(result[field], kind), field
        assert result["seconds"] > 0
        assert result["peak_rss_mb"] > 0


def test_a_benchmark_gives_the_json_that_is_promised(tmp_path: Path) -> None:
    measured = BENCHMARKS["definitions"](Size(repetitions=1), lambda text: None)
    path = results.write(report("definitions", results.machine(), measured), tmp_path)
    assert path.name == "definitions.json"
    assert_is_as_promised(json.loads(path.read_text()), "definitions")


def test_the_results_that_are_kept_are_as_promised_and_of_benchmarks_that_exist() -> None:
    kept = {path.stem: json.loads(path.read_text()) for path in results.FOLDER.glob("*.json")}
    counted = kept.pop("crash")
    assert counted.keys() >= {"points", "kills", "rows_checked", "lost", "doubled", "manual_steps", "seed"}
    assert (counted["lost"], counted["doubled"], counted["manual_steps"]) == (0, 0, 0)
    assert set(kept) <= set(BENCHMARKS)
    for name, content in kept.items():
        assert_is_as_promised(content, name)


def test_the_machine_is_described_without_its_name() -> None:
    described = results.machine()
    assert set(described) == {*MACHINE, "load_average"}
    assert os.uname().nodename not in described["os"].split()


def test_the_median_of_the_repetitions_is_told_and_held_against_the_goal() -> None:
    runs = [Ended("", seconds, 1.0, peak) for seconds, peak in ((9.0, 10.0), (1.0, 30.0), (2.0, 20.0))]
    slow, fast, without = (Measurement.of("run", runs, rows=8, goal=goal) for goal in (2.0, 2.5, None))
    assert (fast.median, fast.rows_per_s, fast.peak_rss_mb) == (2.0, 4.0, 30.0)
    assert [each.goal_met for each in (slow, fast, without)] == [False, True, None]
    lines = table(report("path", results.machine(), [slow, fast, without])).splitlines()
    assert [line.split()[-1] for line in lines[2:4]] == ["NO", "yes"]


def test_the_time_of_a_process_counts_the_children_that_it_waited_for() -> None:
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    ended = run([sys.executable, "-c", child, burn], {})
    assert ended.cpu_seconds >= 0.3


def test_a_command_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(CommandFailed, match=r"ended with 3:\nno such thing"):
        run([sys.executable, "-c", "import sys; sys.stderr.write('no such thing'); sys.exit(3)"], {})


def test_an_unknown_benchmark_is_wrong_use_and_names_those_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["paht"])
    assert left.value.code == 2
    assert "path, verify, empty, definitions, up" in capsys.readouterr().err


def test_a_home_of_its_own_is_gone_when_the_benchmark_fails() -> None:
    folders = []

    def fail() -> None:
        with own_home() as home:
            (home.folder / "something").write_text("left")
            folders.append(home.folder)
            home.python("-c", "raise SystemExit(1)")

    with pytest.raises(CommandFailed):
        fail()
    assert not folders[0].exists()


def test_the_servers_of_a_killed_benchmark_are_stopped() -> None:
    program = (
        "import json\n"
        "from benchmarks.home import own_home\n"
        "from lakehouse import services\n"
        "from lakehouse.settings import Settings\n"
        "with own_home() as home:\n"
        "    services.start(Settings.model_construct(home=home.folder), {}, only=['postgres'])\n"
        "    [status] = [s for s in services.status(Settings.model_construct(home=home.folder)) if s.name == 'postgres']\n"
        "    print(json.dumps([str(home.folder), status.pid]), flush=True)\n"
        "    input()\n"
    )
    benchmark = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert benchmark.stdout is not None
    folder, pid = json.loads(benchmark.stdout.readline())
    server = Path(f"/proc/{pid}")
    assert server.exists()
    benchmark.send_signal(signal.SIGKILL)
    benchmark.communicate()
    assert poll(lambda: not server.exists() and not Path(folder).exists(), seconds=60)


def test_prebuilt_replies_are_read_whole_by_every_way() -> None:
    with fake_server(12_345) as url:
        for way in WAYS:
            done = told(run([sys.executable, "-m", "benchmarks.documents", way, url], os.environ))
            assert done.rows == 12_345 or way == "drain"
            assert done.rows > 0
