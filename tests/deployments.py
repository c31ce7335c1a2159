"""A deployment as its user has it: a folder of its own with the project in it, worked with by commands alone.

The folder holds what a clone of this checkout would hold if everything were committed. Programs run with the Python that runs the
tests, and `PYTHONPATH` makes them import the package from the folder: installing 2 GB again would show nothing. The command
`lakehouse` is a process as well, forked from one that has made its imports.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from lakehouse.services.processes import poll
from tests.stem import Stem

CHECKOUT = Path(__file__).resolve().parent.parent
PROGRAMS = Path(sys.executable).parent
SMALL = ("--days", "3", "--users", "60")
"""A demo that loads and runs in seconds."""
PATIENCE = 300
"""Seconds that a command may take on a machine that is busy with other things."""

GUARD = """
import shutil, sys
from pathlib import Path
from lakehouse import services
from lakehouse.settings import Settings
sys.stdin.read()
folder = Path(sys.argv[1])
services.stop(Settings.model_construct(home=folder / ".lakehouse"), wipe=True)
shutil.rmtree(folder, ignore_errors=True)
"""
"""Waits until its standard input closes, which it does however the session ends, then stops and removes what was left."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    command: str
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its standard output as a document."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Project:
    """A project folder with its own home under it (or another project's), and variables beside those of the tests."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The home of its servers."""
        return Path(self.variables.get("LAKEHOUSE_HOME", self.folder / ".lakehouse"))

    def having(self, **variables: str) -> Project:
        """The same project under other variables."""
        return replace(self, variables={**self.variables, **variables})

    def environment(self) -> dict[str, str]:
        """The environment of its commands: ours without settings, this Python's programs first, the folder's package first.

        Bytecode may be written: without it each command would compile the folder's package again, for a fifth of its CPU.
        """
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "PG", "DAGSTER_"))}
        ours.pop("PYTHONDONTWRITEBYTECODE", None)
        path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        return {**ours, "PATH": path, "PYTHONPATH": str(self.folder / "platform"), **self.variables}

    def program(self, *command: str, ends: int | None = 0, cwd: Path | None = None) -> Finished:
        """Run a program in the folder and wait; `ends`: the exit code that it must have (None: any)."""
        ended = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )
        return _checked(Finished(shlex.join(command), ended.returncode, ended.stdout, ended.stderr), ends)

    def lakehouse(self, *arguments: str, ends: int | None = 0, cwd: Path | None = None) -> Finished:
        """Run the command `lakehouse`, as `program` would run it."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            command = stem().start(
                arguments, cwd=cwd or self.folder, env=self.environment(), stdout=out.fileno(), stderr=err.fileno()
            )
            try:
                code = command.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                command.kill()
                raise
            out.seek(0)
            err.seek(0)
            return _checked(Finished(shlex.join(["lakehouse", *arguments]), code, out.read(), err.read()), ends)

    def shell(self, script: str, ends: int | None = 0) -> Finished:
        """Run a line as a person types it."""
        return self.program("bash", "-euo", "pipefail", "-c", script, ends=ends)

    def started(self, *arguments: str) -> Running:
        """Start the command `lakehouse` and go on."""
        return Running(self, *arguments)

    def env(self) -> dict[str, str]:
        """What `lakehouse env` says."""
        found: dict[str, str] = self.lakehouse("env", "--format", "json").json()
        return found

    def verify(self) -> dict[str, Any]:
        """What `lakehouse verify --json` says; every copy must be equal."""
        found = self.lakehouse("verify", "--json", ends=None)
        assert found.out, found.err
        document: dict[str, Any] = found.json()
        assert document["equal"], [table for table in document["tables"] if not table["equal"]]
        assert found.code == 0
        return document

    def sequences(self) -> dict[str, tuple[int, int, int]]:
        """By table: the sequence of its raw log, lake table and published table."""
        found = self.lakehouse("tables", "--json").json()
        return {t["table"]: (t["raw_sequence"], t["lake_sequence"], t["warehouse_sequence"]) for t in found}

    def query(self, statement: str, on: str) -> list[dict[str, Any]]:
        """Rows of a layer."""
        rows: list[dict[str, Any]] = self.lakehouse("sql", statement, "--on", on, "--format", "json").json()
        return rows

    def warehouse(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of the warehouse, asked directly."""
        import clickhouse_connect

        found = json.loads((self.home / "services.json").read_text())["settings"]["warehouse"]
        client = clickhouse_connect.get_client(
            host=found["host"], port=found["port"], username=found["user"], password=found["password"]
        )
        try:
            return [tuple(row) for row in client.query(statement).result_rows]
        finally:
            client.close()

    def statistics(self) -> dict[str, list[tuple[Any, ...]]]:
        """By model of the statistics: its rows, without the time at which they were built."""
        names = [name for (name,) in self.warehouse("select name from system.tables where database = 'statistics'")]
        assert names
        rows = "select * except (built_at) from statistics.{} order by all"
        return {name: self.warehouse(rows.format(name)) for name in sorted(names)}

    def built_at(self) -> dict[str, str]:
        """By day: when its row of the daily statistics was built."""
        rows = self.warehouse("select toString(day), toString(built_at) from statistics.daily_statistics")
        return {str(day): str(at) for day, at in rows}

    def pid(self, service: str) -> int | None:
        """The process of an embedded server, as it was recorded."""
        recorded = json.loads((self.home / "services.json").read_text())["services"]
        process = recorded.get(service, {}).get("process")
        return process["pid"] if process else None

    def kill(self, service: str) -> None:
        """Kill an embedded server as the system would, and wait until it is gone."""
        pid = self.pid(service)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert poll(lambda: pid not in self.processes(), seconds=30)

    def processes(self) -> dict[int, str]:
        """Command lines by pid of all processes that belong to the folder: by their environment, folder or command line."""
        found = {}
        needle = str(self.folder).encode()
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    continue
                words = (entry / "cmdline").read_bytes()
                told = words + (entry / "environ").read_bytes() + os.fsencode(os.readlink(entry / "cwd"))
                if needle in told and GUARD.encode() not in words:
                    found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace")
        return found


def _checked(finished: Finished, ends: int | None) -> Finished:
    assert ends is None or finished.code == ends, f"{finished.command}: {finished.code}\n{finished.out}\n{finished.err}"
    assert "Traceback (most recent call last)" not in finished.out + finished.err or ends is None, finished.err
    return finished


@cache
def stem() -> Stem:
    """What this process forks its commands from."""
    return Stem()


class Running:
    """The command `lakehouse` under way, in a process group of its own; its output is read line by line as it comes."""

    def __init__(self, project: Project, *arguments: str) -> None:
        self.lines: list[str] = []
        output, theirs = os.pipe()
        try:
            env = {**project.environment(), "PYTHONUNBUFFERED": "1"}
            self.process = stem().start(arguments, cwd=project.folder, env=env, stdout=theirs, stderr=theirs)
        finally:
            os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(output,), daemon=True)
        self._reader.start()

    def _read(self, output: int) -> None:
        with open(output) as stream:
            self.lines.extend(iter(stream.readline, ""))

    def said(self, pattern: str) -> str | None:
        """The first line that holds the pattern."""
        return next((line for line in list(self.lines) if re.search(pattern, line)), None)

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Wait until the condition holds (True), or the command has ended (whether it holds then)."""
        poll(lambda: condition() or self.process.poll() is not None, seconds=PATIENCE, every=0.02)
        return condition()

    def kill(self) -> None:
        """End it as the system would, with everything that it started in its group."""
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Wait until it has ended; its exit code."""
        code = self.process.wait(timeout=PATIENCE)
        self._reader.join(timeout=PATIENCE)
        return code

    @property
    def text(self) -> str:
        """All that it has said."""
        return "".join(self.lines)


def copy_checkout(folder: Path) -> None:
    """Clone the checkout, and put what is not committed yet over it."""
    _git("clone", "--quiet", "--no-hardlinks", str(CHECKOUT), str(folder))
    changed = _git("-C", str(CHECKOUT), "ls-files", "-z", "--modified", "--deleted", "--others", "--exclude-standard")
    for name in {name for name in changed.split("\0") if name}:
        source, target = CHECKOUT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        else:
            target.unlink(missing_ok=True)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


@contextmanager
def fresh_project() -> Iterator[Project]:
    """A project outside of the checkout with nothing running yet; stopped and removed afterwards, however the session ends."""
    folder = Path(tempfile.mkdtemp(prefix="lh-"))
    guard = subprocess.Popen([sys.executable, "-c", GUARD, str(folder)], stdin=subprocess.PIPE, start_new_session=True)
    try:
        copy_checkout(folder)
        yield Project(folder)
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(timeout=PATIENCE)


@contextmanager
def another_folder(project: Project) -> Iterator[Project]:
    """A second folder for the servers and data of a project, so that its declarations can be changed."""
    with tempfile.TemporaryDirectory(prefix="lh-") as name:
        folder = Path(name)
        for part in ("platform/definitions.py", "assets", "dbt_project", "workspace.yaml"):
            target = folder / part
            target.parent.mkdir(parents=True, exist_ok=True)
            copy: Callable[..., Any] = shutil.copytree if (project.folder / part).is_dir() else shutil.copy2
            copy(project.folder / part, target)
        yield Project(folder, {**project.variables, "LAKEHOUSE_HOME": str(project.home), "PYTHONPATH": _package(project)})


def _package(project: Project) -> str:
    return str(project.folder / "platform")


@contextmanager
def demo_project(arguments: Sequence[str] = SMALL, *, run: bool = True) -> Iterator[Project]:
    """A project with its servers up and a small demo loaded, run once."""
    with fresh_project() as project:
        project.lakehouse("up")
        project.lakehouse("demo", "load", *arguments)
        if run:
            project.lakehouse("run")
        yield project
