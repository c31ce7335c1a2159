"""Which entries of a log still count: questions of the pipeline to a list of entries."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse.spec import LogEntry, Window


def standing(entries: Sequence[LogEntry]) -> list[LogEntry]:
    """The entries that can still have a row in the table, in order of sequence.

    What a later snapshot, or a later replacement of the same window, has made void is left out: it need not be read.
    """
    kept: list[LogEntry] = []
    replaced: set[Window] = set()
    for entry in sorted(entries, key=lambda entry: entry.sequence, reverse=True):
        window = entry.manifest.window
        if entry.manifest.kind == "snapshot":
            kept.append(entry)
            break
        if entry.manifest.kind == "replace" and window is not None:
            if window in replaced:
                continue
            replaced.add(window)
        kept.append(entry)
    return kept[::-1]
