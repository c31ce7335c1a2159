"""Importing what a process needs for as long as it lives."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def for_good() -> Iterator[None]:
    """Let Python not look for garbage while much is imported, and never among what was.

    A quarter of a million objects come with Dagster, dbt and their libraries, and none of them goes: looking through them
    again and again finds nothing.
    """
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if searched:
            gc.enable()
