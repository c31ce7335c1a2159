"""The pause before something is tried again: at random, so that those who met do not meet again, and longer each time."""

from __future__ import annotations

import random
from time import sleep

FIRST_SECONDS = 0.05
LONGEST_SECONDS = 2.0


def pause(failed: int) -> None:
    """Wait up to 50 ms after the first attempt that failed, up to twice as long after each further one, never above 2 s."""
    sleep(random.uniform(0, min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** (failed - 1))))
