"""The second hop: a lake table catches up with its raw log. Any process may do it, at any time, twice or at once."""

from __future__ import annotations

from lakehouse.errors import CommitConflict
from lakehouse.pipeline.deployment import Deployment
from lakehouse.spec import Source, Table
from lakehouse.tables.engine import Applied

ATTEMPTS = 8
"""Commits that another process may win before this one gives up; each loss means that somebody else's work went through."""


def apply_table(deployment: Deployment, source: Source, table: Table) -> Applied | None:
    """Fold the entries after the table's watermark into it; None for a table without entries.

    Raises CommitConflict only after losing `ATTEMPTS` commits in a row; the table is then as the winners left it.
    """
    log = deployment.log(source, table)
    for attempt in range(1, ATTEMPTS + 1):
        state = deployment.lake.state(source.name, table)
        watermark = state.current.marker.sequence if state else 0
        entries = log.entries(after=watermark)
        if not entries:
            return Applied(state, 0, (), (), 0) if state else None
        try:
            return deployment.lake.apply(source.name, table, entries, log.folder)
        except CommitConflict:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def pending_entries(deployment: Deployment, source: Source, table: Table) -> int:
    """How many log entries the lake table has not applied yet."""
    state = deployment.lake.state(source.name, table)
    return deployment.log(source, table).head() - (state.current.marker.sequence if state else 0)
