"""One tool that applies a change, in a process of its own.

    python -m benchmarks.folds.subject TOOL FORMAT SCENARIO ROWS STORE TIMES

TOOL is one of `benchmarks.folds.tools`, or `prepare`, which builds what stands before the change. Before each time the table is
led back. Spark does it once before it is measured: a session is started once a run, and used for all of its tables. Its last
line is `{"seconds": [s], "cpu_seconds": [c]}`; the CPU is that of the process and of all that it has started.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from benchmarks.folds.data import Events, Prepared
from benchmarks.folds.tools import TOOLS

SPARKS = ("spark", "lakehouse-spark")


def main() -> None:
    """Do what the arguments say."""
    tool, format_, scenario, rows, store, times = sys.argv[1:]
    events = Events(scenario, format_, int(rows))  # type: ignore[arg-type]
    prepared = Prepared.of(events, store, "spark" if tool in SPARKS else "embedded")
    if tool == "prepare":
        prepared.prepare()
        return
    measured = []
    for number in range(int(times) + (tool in SPARKS)):
        prepared.reset()
        cpu, began = cpu_seconds(), time.perf_counter()
        TOOLS[tool](prepared)
        found = time.perf_counter() - began, cpu_seconds() - cpu
        if number or tool not in SPARKS:
            measured.append(found)
    prepared.reset()
    print(json.dumps({"seconds": [s for s, _ in measured], "cpu_seconds": [c for _, c in measured]}))


def cpu_seconds() -> float:
    """Of this process and of all its descendants, those that have ended among them. See proc(5)."""
    ticks, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        pid = int(folder.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    ours, total = {os.getpid()}, 0
    for pid in sorted(ticks):
        if pid in ours or parents[pid] in ours:
            ours.add(pid)
            total += ticks[pid]
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
