"""A deployment of a benchmark's own: a fresh home, its servers stopped and its data removed however the benchmark ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import ROOT, CommandFailed, Ended, run

_GUARD = """
import shutil, subprocess, sys
sys.stdin.read()
subprocess.run([sys.executable, "-m", "lakehouse.cli", "down", "--wipe"], capture_output=True)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""
"""Waits until its standard input closes, which it does however this process ends, then stops what was left."""


@dataclass(frozen=True)
class Step:
    """What one hop did, told by the process that did it: rows that it moved, and the time without imports and start."""

    rows: int
    ended: Ended


@dataclass(frozen=True)
class Home:
    """A deployment of the example application; nothing runs before `up`."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What processes of this deployment are started with; nothing of the shell's own deployment."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LAKEHOUSE_", "DAGSTER_"))}
        return {**inherited, "LAKEHOUSE_HOME": str(self.folder), "DAGSTER_DISABLE_TELEMETRY": "yes"}

    def python(self, *arguments: str) -> Ended:
        """Run the interpreter in the project's folder."""
        return run([sys.executable, *arguments], self.environment)

    def lakehouse(self, *arguments: str) -> Ended:
        """Run the command `lakehouse`."""
        return self.python("-m", "lakehouse.cli", *arguments)

    def step(self, *arguments: str) -> Step:
        """Run one hop as a process of its own; see `benchmarks.step`."""
        return told(self.python("-m", "benchmarks.step", *arguments))


def told(ended: Ended) -> Step:
    """What a process tells of itself in its last line."""
    last = json.loads(ended.output.splitlines()[-1])
    return Step(last["rows"], Ended(ended.output, last["seconds"], last["cpu_seconds"], ended.peak_rss_mb))


@contextmanager
def own_home() -> Iterator[Home]:
    """A fresh home outside of the checkout, under a short path: Postgres limits the length of its socket's."""
    folder = Path(tempfile.mkdtemp(prefix="lh-bench-"))
    home = Home(folder)
    guard = subprocess.Popen(
        [sys.executable, "-c", _GUARD, str(folder)],
        cwd=ROOT,
        env=home.environment,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield home
    finally:
        try:
            home.lakehouse("down", "--wipe")
            shutil.rmtree(folder, ignore_errors=True)
        except CommandFailed as error:
            print(error, file=sys.stderr)
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait()
