"""Back to an earlier version: the lake table moves, marker and all, and the warehouse follows."""

from __future__ import annotations

from lakehouse.errors import CommitConflict
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.publish import publish_table
from lakehouse.spec import Source, Table
from lakehouse.tables.engine import TableState

ATTEMPTS = 8
"""Commits that other processes may win before this one gives up."""


def rollback_table(deployment: Deployment, source: Source, table: Table, version: int) -> TableState:
    """Make a version the current one and publish what is current then; the table as the rollback left it.

    A run that applies meanwhile goes on from the earlier version, so that nothing is lost: it, or the next one, brings the table
    to where its log is. Raises CommitConflict only after losing `ATTEMPTS` commits in a row.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            state = deployment.lake.rollback(source.name, table, version)
            break
        except CommitConflict:
            if attempt == ATTEMPTS:
                raise
    publish_table(deployment, source, table)
    return state
