"""Which entries of a raw log an apply takes."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse.errors import CommitConflict
from lakehouse.spec import History, LogEntry, Table, since_rebuilt
from lakehouse.spec.history import dated


def pending_entries(source: str, table: Table, watermark: int, entries: Sequence[LogEntry]) -> list[LogEntry]:
    """The entries after the watermark; CommitConflict when they do not follow on it without a gap, for rows would be lost.

    What comes before a snapshot may have a gap: nothing of it counts any more.
    """
    pending = sorted((entry for entry in entries if entry.sequence > watermark), key=lambda entry: entry.sequence)
    followed = pending[_beginning(pending) :]
    begun = has_snapshot(pending)
    for expected, entry in enumerate(followed, start=followed[0].sequence if begun else watermark + 1):
        if entry.sequence != expected:
            raise CommitConflict(
                f"applying to {source}.{table.name}, whose watermark is {watermark}",
                value=f"entry {entry.sequence} where {expected} should follow",
                allowed="all entries after the watermark, in order",
                remedy="Read the watermark and the raw log again, then apply; the table may have been rolled back meanwhile.",
            )
    return pending


def folded_entries(table: Table, entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """Entries as they are folded: for a history they are dated, and begin where a rebuild began the columns anew."""
    return dated(since_rebuilt(entries)) if isinstance(table, History) else entries


def needed_entries(table: Table, entries: Sequence[LogEntry]) -> list[LogEntry]:
    """Those entries whose rows can be in the result: not the snapshots and windows that a later entry replaces as a whole.

    A history needs all of them.
    """
    if isinstance(table, History):
        return list(entries)
    entries = entries[_beginning(entries) :]
    if table.mode == "upsert":
        return list(entries)
    seen: set[object] = set()
    needed: list[LogEntry] = []
    for entry in reversed(entries):
        window = entry.manifest.window if table.mode == "append" else None
        if window not in seen:
            needed.insert(0, entry)
        seen.add(window)
    return needed


def has_snapshot(entries: Sequence[LogEntry]) -> bool:
    """Whether any entry is a new beginning."""
    return any(entry.manifest.kind == "snapshot" for entry in entries)


def _beginning(entries: Sequence[LogEntry]) -> int:
    """The index of the last snapshot, before which nothing counts; 0 when there is none."""
    return max((index for index, entry in enumerate(entries) if entry.manifest.kind == "snapshot"), default=0)
