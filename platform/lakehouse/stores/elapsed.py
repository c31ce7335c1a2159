"""How long a writer may take, so that files that nothing names can be told from files that are still to be named.

A writer notes the time before its first file and looks again before it claims. The clock is one that nobody sets and that goes on
while the machine sleeps. So a file that is older than that limit, and the time that one request may take, belongs to no writer.
"""

from __future__ import annotations

import time

from lakehouse.errors import TooLate

LONGEST_HOURS = 24
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def started() -> float:
    """Seconds on a clock that only runs forward: before the first file is written."""
    return time.clock_gettime(_CLOCK)


def refuse_late(tried: str, began: float, longest_hours: float) -> None:
    """Raise TooLate when the files written since `began` may have been removed by now: nothing may name them any more."""
    hours = (started() - began) / 3600
    if hours > longest_hours:
        raise TooLate(
            tried,
            value=f"{hours:.1f} hours since its first file was written",
            allowed=f"{longest_hours} hours (LAKEHOUSE_LONGEST_WRITE_HOURS): its files may have been removed as orphans",
            remedy="Run it again with less at once, or raise the setting.",
        )
