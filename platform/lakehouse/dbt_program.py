"""`python -m lakehouse.dbt_program FOLDER`: dbt in a process of its own, made ready before it is known which days to build.

It imports dbt and parses the project in FOLDER, then waits for one line of JSON on its standard input: `days` (ISO dates) and
`only` (names of nodes; none means all). It builds those and answers with one line of JSON on its standard output: `results`, or
`error` when dbt could not begin. What dbt itself prints goes to standard error.

The project is parsed without variables: those that change between builds would make dbt parse all of it anew each time.
When its standard input ends, whoever started it is gone: it ends at once, so that no two dbt runs meet on one target.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import Any

from lakehouse.imports import for_good

QUIET = ["--log-level", "warn", "--no-use-colors", "--no-write-json"]
"""A line or two for each of fifty nodes is too much; and nobody reads the artifacts of a build."""


def main() -> None:
    """Get ready, wait for the question, answer it."""
    folder = sys.argv[1]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it is interrupted too, and ends it
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    answer = _Dbt(folder).build(asked)
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    # What is left is only memory to be freed.
    os._exit(0)


def _listen(asked: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        asked.put(json.loads(line))
    os._exit(1)


class _Dbt:
    """dbt, imported, with the project parsed."""

    def __init__(self, folder: str) -> None:
        self._place = ["--project-dir", folder, "--profiles-dir", folder]
        with for_good():
            from dbt.cli.main import dbtRunner

            self._parsed = dbtRunner().invoke([*QUIET, "parse", *self._place])

    def build(self, asked: queue.SimpleQueue[dict[str, Any]]) -> dict[str, Any]:
        """Wait until somebody asks, and build what is asked for."""
        from dbt.artifacts.schemas.run import RunExecutionResult
        from dbt.cli.main import dbtRunner
        from dbt.contracts.graph.manifest import Manifest

        question = asked.get()
        manifest = self._parsed.result
        if not isinstance(manifest, Manifest):
            return {"error": str(self._parsed.exception)}
        command = [*QUIET, "build", *self._place, "--vars", json.dumps({"days": question["days"]})]
        if question["only"]:
            command += ["--select", *question["only"]]
        outcome = dbtRunner(manifest=manifest).invoke(command)
        if not isinstance(outcome.result, RunExecutionResult):
            return {"error": str(outcome.exception)}
        return {"results": [_told(result) for result in outcome.result.results]}


def _told(result: Any) -> dict[str, Any]:
    """One node's result, as `orchestration.dbt_process.NodeResult` has it."""
    return {
        "unique_id": result.node.unique_id,
        "status": str(result.status),
        "message": result.message or "",
        "seconds": float(result.execution_time),
        "failures": int(result.failures or 0),
    }


if __name__ == "__main__":
    main()
