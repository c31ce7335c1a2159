"""Back to an earlier version: the lake table moves, marker and all, and the warehouse follows."""

from __future__ import annotations

from lakehouse.pipeline.attempts import until_won
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.publish import publish_table
from lakehouse.spec import Source, Table
from lakehouse.tables.engine import TableState


def rollback_table(deployment: Deployment, source: Source, table: Table, version: int) -> TableState:
    """Make a version the current one and publish what is current then; the table as the rollback left it.

    A run that applies meanwhile goes on from the earlier version, so that nothing is lost: it, or the next one, brings the table
    to where its log is. Raises CommitConflict only after losing `ATTEMPTS` commits in a row.
    """
    state = until_won(lambda: deployment.lake.rollback(source.name, table, version))
    publish_table(deployment, source, table)
    return state
