"""Which entries of a log still count: questions of the pipeline to a list of entries."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse.spec import LogEntry, Window


def latest(entries: Sequence[LogEntry], window: Window) -> LogEntry | None:
    """The last entry that replaced exactly this window, or None."""
    found = [entry for entry in entries if entry.manifest.kind == "replace" and entry.manifest.window == window]
    return max(found, key=lambda entry: entry.sequence, default=None)


def closed_windows(entries: Sequence[LogEntry]) -> dict[Window, LogEntry]:
    """The replaced windows to which no row can be added any more, each with its last entry, in order of time."""
    last = {
        entry.manifest.window: entry
        for entry in sorted(entries, key=lambda entry: entry.sequence)
        if entry.manifest.kind == "replace" and entry.manifest.window is not None
    }
    closed = {window: entry for window, entry in last.items() if entry.manifest.closed}
    return dict(sorted(closed.items(), key=lambda item: (item[0].low is not None, item[0].low or item[1].manifest.created_at)))


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
