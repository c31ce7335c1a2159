"""What a crash test counts, and the one table that it prints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts of one part of the crash tests. recovery: seconds of each run that healed."""

    name: str
    points: set[str] = field(default_factory=set)
    kills: int = 0
    failures: int = 0
    rows_checked: int = 0
    lost: int = 0
    doubled: int = 0
    manual_steps: int = 0
    recovery: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing was lost or doubled, nobody had to do anything, and nothing else was wrong."""
        return not (self.lost or self.doubled or self.manual_steps or self.problems)


HEADER = ("", "points", "kills", "failures", "rows checked", "lost", "doubled", "manual steps", "recovery s (median, most)")


def table(tallies: Sequence[Tally]) -> str:
    """The tallies, a line each, and what was wrong beneath."""
    lines = [HEADER, *(_line(tally) for tally in tallies)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    shown = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([*shown, *(f"{tally.name}: {problem}" for tally in tallies for problem in tally.problems)])


def _line(tally: Tally) -> tuple[str, ...]:
    counts = (tally.kills, tally.failures, tally.rows_checked, tally.lost, tally.doubled, tally.manual_steps)
    recovery = f"{statistics.median(tally.recovery):.1f}, {max(tally.recovery):.1f}" if tally.recovery else ""
    return (tally.name, str(len(tally.points) or ""), *(f"{count:,}" for count in counts), recovery)
