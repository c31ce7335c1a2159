"""Measurements, the machine they were made on, and how both are told: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import Ended

FOLDER = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Measurement:
    """One thing that was measured, once or several times.

    rows: that it moved, 0 for what moves none. seconds and cpu_seconds: one for each repetition. goal: seconds that the median
    should stay below, None when nobody set one.
    """

    tool: str
    rows: int
    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    peak_rss_mb: float
    goal: float | None = None

    @classmethod
    def of(cls, tool: str, ended: Sequence[Ended], *, rows: int = 0, goal: float | None = None) -> Measurement:
        """From repetitions of one process; the peak is the highest of them."""
        peak = max(each.peak_rss_mb for each in ended)
        return cls(tool, rows, tuple(each.seconds for each in ended), tuple(each.cpu_seconds for each in ended), peak, goal)

    @property
    def median(self) -> float:
        """Seconds, the median of the repetitions."""
        return statistics.median(self.seconds)

    @property
    def rows_per_s(self) -> float:
        """Rows a second, by the median."""
        return self.rows / self.median if self.rows else 0.0

    @property
    def goal_met(self) -> bool | None:
        """Whether the median stays below the goal; None without one."""
        return None if self.goal is None else self.median < self.goal

    def record(self) -> dict[str, Any]:
        """One entry of `results`: `seconds` is the median, and `cpu_seconds` too."""
        return {
            "tool": self.tool,
            "rows": self.rows,
            "seconds": round(self.median, 3),
            "rows_per_s": round(self.rows_per_s, 1),
            "peak_rss_mb": round(self.peak_rss_mb, 1),
            "min_seconds": round(min(self.seconds), 3),
            "cpu_seconds": round(statistics.median(self.cpu_seconds), 3),
            "repetitions": len(self.seconds),
            "goal_seconds": self.goal,
            "goal_met": self.goal_met,
        }


def machine() -> dict[str, Any]:
    """What the figures depend on; nothing that names the machine. load_average: of the last minute, 0 on a quiet machine."""
    system = os.uname()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    return {
        "cores": os.cpu_count() or 1,
        "memory_mb": round(memory),
        "os": f"{system.sysname} {system.release.split('-')[0]} {system.machine}",
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "load_average": round(os.getloadavg()[0], 2),
    }


def report(name: str, machine: dict[str, Any], measurements: Sequence[Measurement]) -> dict[str, Any]:
    """The content of `results/<name>.json`."""
    return {"name": name, "machine": machine, "results": [measurement.record() for measurement in measurements]}


def write(content: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Write a report to its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['name']}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def table(content: dict[str, Any]) -> str:
    """A report as a table."""
    header = ("tool", "rows", "min s", "median s", "CPU s", "rows/s", "peak MiB", "runs", "goal s", "goal met")
    met = {True: "yes", False: "NO", None: ""}
    lines = [
        (
            each["tool"],
            f"{each['rows']:,}" if each["rows"] else "",
            f"{each['min_seconds']:.2f}",
            f"{each['seconds']:.2f}",
            f"{each['cpu_seconds']:.2f}",
            f"{each['rows_per_s']:,.0f}" if each["rows"] else "",
            f"{each['peak_rss_mb']:,.0f}",
            str(each["repetitions"]),
            "" if each["goal_seconds"] is None else f"< {each['goal_seconds']:g}",
            met[each["goal_met"]],
        )
        for each in content["results"]
    ]
    widths = [max(len(line[column]) for line in (header, *lines)) for column in range(len(header))]
    rows = ["  ".join(_aligned(line, widths)).rstrip() for line in (header, *lines)]
    facts = ", ".join(f"{fact.replace('_', ' ')} {value}" for fact, value in content["machine"].items())
    return "\n".join([f"{content['name']} ({facts})", *rows])


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
