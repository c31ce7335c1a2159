"""The second hop: a lake table catches up with its raw log. Any process may do it, at any time, twice or at once."""

from __future__ import annotations

from lakehouse.pipeline.attempts import until_won
from lakehouse.pipeline.deployment import Deployment
from lakehouse.spec import History, Source, Table
from lakehouse.spec.quarantine import quarantine_of
from lakehouse.tables.engine import Applied


def apply_table(deployment: Deployment, source: Source, table: Table) -> Applied | None:
    """Fold the entries after the table's watermark into it; None for a table without entries.

    Its quarantine catches up as well. Raises CommitConflict only after losing `ATTEMPTS` commits in a row; the table is then as
    the winners left it.
    """
    applied = until_won(lambda: _apply(deployment, source, table))
    if table.keeps_refused and deployment.log(source, quarantine_of(table)).head():
        until_won(lambda: _apply(deployment, source, quarantine_of(table)))
    return applied


def _apply(deployment: Deployment, source: Source, table: Table) -> Applied | None:
    """One attempt, from the watermark as it stands; from the first entry where columns were renamed."""
    log = deployment.log(source, table)
    if deployment.lake.has_old_names(source.name, table):
        return deployment.lake.rebuild(source.name, table, log.entries(), log.folder)
    state = deployment.lake.state(source.name, table)
    entries = log.entries(after=state.current.marker.sequence if state else 0)
    if not entries:
        return Applied(state, 0, (), (), 0) if state else None
    if isinstance(table, History) and state:
        entries = log.entries()  # each entry's moment follows from those before it
    return deployment.lake.apply(source.name, table, entries, log.folder)


def pending_entries(deployment: Deployment, source: Source, table: Table) -> int:
    """How many log entries the lake table has not applied yet."""
    state = deployment.lake.state(source.name, table)
    return deployment.log(source, table).head() - (state.current.marker.sequence if state else 0)
