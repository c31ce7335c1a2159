"""The benchmark: lake tables folded by this project's engines, and the same work by the tools that they stand on, in one run."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.folds import A_DAY
from benchmarks.home import Home, own_home
from benchmarks.measuring import Ended, run
from benchmarks.results import Measurement

FORMATS = ("iceberg", "delta")
NAMES = {
    "lakehouse": "lakehouse",
    "lakehouse-spark": "lakehouse on Spark",
    "spark": "Spark SQL",
    "delta-rs": "delta-rs",
    "pyiceberg": "pyiceberg",
}
OF_ONE_FORMAT = {"delta-rs": "delta", "pyiceberg": "iceberg"}
FASTER, DEARER, SAME, TWICE = 3.0, 1.15, 1.1, 1.4
"""What is wanted: the embedded engine against Spark SQL; this project on Spark against it; an upsert into three times the rows;
two workers against one."""
Say = Callable[[str], None]


def tables(fold: int, table: int, repetitions: int, say: Say) -> list[Measurement]:
    """fold: rows that are folded into nothing. table: rows of the tables of 365 days that a change is applied to."""
    found: list[Measurement] = []
    with own_home() as home, tempfile.TemporaryDirectory(prefix="lh-bench-") as folder:
        home.lakehouse("up")
        home.lakehouse("spark", "jars")
        for where, store in (("disk", f"file://{folder}/store"), ("S3", "s3://lakehouse/bench")):
            place = Place(home, where, store, repetitions, say)
            for scenario, rows in (("fold", fold), ("upsert", table), ("replace", table)):
                found += place.compared(scenario, rows)
            if where == "disk":
                found += place.larger(table, {m.tool: m for m in found})
                found += place.clustered(fold)
    return found


class Place:
    """One store of a deployment, and what is measured in it."""

    def __init__(self, home: Home, where: str, store: str, repetitions: int, say: Say) -> None:
        self._home, self._where, self._store, self._repetitions, self._say = home, where, store, repetitions, say

    def compared(self, scenario: str, rows: int) -> list[Measurement]:
        """Every tool, with the goals that a scenario has."""
        found: dict[tuple[str, str], Measurement] = {}
        for format_ in FORMATS:
            self._prepare(scenario, format_, rows)
            for tool in NAMES:
                if OF_ONE_FORMAT.get(tool, format_) != format_ or (tool, scenario) == ("pyiceberg", "upsert"):
                    continue
                found[format_, tool] = self._measured(tool, scenario, format_, rows)
        for format_ in FORMATS:
            plain = found[format_, "spark"].median
            ours = found[format_, "lakehouse-spark"]
            found[format_, "lakehouse-spark"] = replace(ours, goal=DEARER * plain)
            if scenario == "fold":
                found[format_, "lakehouse"] = replace(found[format_, "lakehouse"], goal=plain / FASTER)
        return list(found.values())

    def larger(self, rows: int, before: Mapping[str, Measurement]) -> list[Measurement]:
        """The same upsert into three times the rows; the days that it touches have as many rows as before."""
        found = []
        for format_ in FORMATS:
            self._prepare("upsert", format_, 3 * rows)
            measured = self._measured("lakehouse", "upsert", format_, 3 * rows)
            found.append(replace(measured, goal=SAME * before[self._name("lakehouse", "upsert", format_, rows)].median))
        return found

    def clustered(self, rows: int) -> list[Measurement]:
        """The fold on a standalone cluster of one worker and of two, of one core each."""
        from tests.cluster import cluster

        found: list[Measurement] = []
        for workers in (1, 2):
            with cluster(workers) as running:
                spark = {"LAKEHOUSE_SPARK__MASTER": running.url, "LAKEHOUSE_SPARK__CONF": json.dumps(LOOPBACK)}
                measured = self._measured("lakehouse-spark", "fold", "iceberg", rows, {**spark, "SPARK_LOCAL_IP": "127.0.0.1"})
            name = f"{measured.tool}, {workers} worker{'s' * (workers > 1)}"
            goal = found[0].median / TWICE if found else None
            found.append(replace(measured, tool=name, goal=goal))
        return found

    def _prepare(self, scenario: str, format_: str, rows: int) -> None:
        self._say(f"{self._where}: preparing {scenario} of {rows:,} rows, {format_}")
        self._subject("prepare", scenario, format_, rows, {})

    def _measured(self, tool: str, scenario: str, format_: str, rows: int, more: Mapping[str, str] | None = None) -> Measurement:
        ended = self._subject(tool, scenario, format_, rows, more or {})
        told = json.loads(ended.output.splitlines()[-1])
        name = self._name(tool, scenario, format_, rows)
        self._say(f"{name}: {min(told['seconds']):.2f} s")
        moved = rows if scenario == "fold" else 100_000 if scenario == "upsert" else A_DAY
        return Measurement(name, moved, tuple(told["seconds"]), tuple(told["cpu_seconds"]), ended.peak_rss_mb)

    def _name(self, tool: str, scenario: str, format_: str, rows: int) -> str:
        size = f" into {rows // 1_000_000}M" if scenario == "upsert" else ""
        return f"{self._where}: {scenario}{size}, {format_}: {NAMES[tool]}"

    def _subject(self, tool: str, scenario: str, format_: str, rows: int, more: Mapping[str, str]) -> Ended:
        arguments = [tool, format_, scenario, str(rows), self._store, str(self._repetitions)]
        return run([sys.executable, "-m", "benchmarks.folds.subject", *arguments], {**self._home.environment, **more})


LOOPBACK = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
