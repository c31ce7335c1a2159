"""Beginning anew after another process was quicker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lakehouse.errors import CommitConflict
from lakehouse.pauses import pause

T = TypeVar("T")

ATTEMPTS = 8
"""Commits that other processes may win before this one gives up; each loss means that somebody else's work went through."""


def until_won(commit: Callable[[], T]) -> T:
    """What `commit` returns, which reads afresh and is called again after each CommitConflict, `ATTEMPTS` times in all."""
    for failed in range(1, ATTEMPTS):
        try:
            return commit()
        except CommitConflict:
            pause(failed)
    return commit()
