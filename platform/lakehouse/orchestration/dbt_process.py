"""dbt's own process, seen from the run: started ahead, asked once.

Importing dbt and parsing the project take seconds of one core. A run begins them when it begins itself, beside extraction.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from lakehouse.orchestration.dbt_manifest import dbt_environment
from lakehouse.settings import Settings


@dataclass(frozen=True)
class NodeResult:
    """How dbt ended with one node: its own status word, message and seconds."""

    unique_id: str
    status: str
    message: str
    seconds: float
    failures: int


class DbtFailed(Exception):
    """dbt could not begin, or its process ended without an answer."""


class Builder:
    """dbt for one project. One that was made ready is used for the next build; without one a build takes its seconds more."""

    def __init__(self, project_dir: Path, settings: Settings) -> None:
        self._folder = project_dir
        self._settings = settings
        self._ready: subprocess.Popen[str] | None = None

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Have a process ready while the context lasts; ended with it, used or not."""
        self._ready = self._start()
        try:
            yield
        finally:
            left, self._ready = self._ready, None
            if left is not None:
                _end(left)

    def build(self, days: Sequence[date], only: Sequence[str]) -> dict[str, NodeResult]:
        """Build nodes (none named: all) for the days; results by unique id. Raises DbtFailed."""
        process, self._ready = self._ready or self._start(), None
        try:
            answer = _ask(process, {"days": [day.isoformat() for day in days], "only": list(only)})
        finally:
            _end(process)
        if "error" in answer:
            raise DbtFailed(str(answer["error"]))
        return {result["unique_id"]: NodeResult(**result) for result in answer["results"]}

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", _ENDED_EARLY, "-m", "lakehouse.dbt_program", str(self._folder)],
            env={**os.environ, **dbt_environment(self._settings)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


_ENDED_EARLY = "ignore:resource_tracker:UserWarning"
"""dbt's locks are freed for it when it is ended; Python's warning of that would worry the reader of a run."""

_builders: list[Builder] = []


def builder(project_dir: Path, settings: Settings) -> Builder:
    """dbt for a project of the loaded definitions."""
    made = Builder(project_dir, settings)
    _builders.append(made)
    return made


@contextmanager
def dbt_ahead() -> Iterator[None]:
    """Make dbt ready for each project of the loaded definitions."""
    with ExitStack() as stack:
        for each in _builders:
            stack.enter_context(each.ahead())
        yield


def _ask(process: subprocess.Popen[str], question: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise DbtFailed(f"dbt's process ended with {process.wait()} and no answer; what it said stands above")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
