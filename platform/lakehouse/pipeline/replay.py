"""Rows of a quarantine put in their place, once the declaration takes them, and rows of it that nobody wants.

A replay lands a batch like any other: of an `upsert` table the rows, of the others the last batch of their window once more with
the rows in it. The batch names the rows that it has taken up; they leave the quarantine after it. So a row that is replayed twice
is there once, and whatever dies in between is finished by the next replay or run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime

from lakehouse.errors import WrongUse
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.attempts import until_won
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.landing import Landing
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.quarantine import Quarantine, open_rows
from lakehouse.pipeline.refusal import refusal
from lakehouse.pipeline.replaying import Replayed, Replaying
from lakehouse.spec import Position, Source, Table
from lakehouse.spec.quarantine import QuarantinedRow


def quarantined(deployment: Deployment, source: Source, table: Table, ids: Collection[str] = ()) -> list[QuarantinedRow]:
    """The rows of a table's quarantine, open ones first; those with these ids. WrongUse for an id of none."""
    _refuse_none(source, table)
    there = Quarantine(deployment, source, table).rows()
    rows = [*open_rows(there.values()), *(row for row in there.values() if row.state != "open")]
    if not ids:
        return rows
    chosen = []
    for one in ids:
        found = [row for row in rows if row.row_id.startswith(one)]
        if len(found) != 1:
            raise WrongUse(
                f"looking for row {one!r} in the quarantine of {source.name}.{table.name}",
                value=f"{len(found)} rows whose id begins so",
                allowed="the id of one row, or as much of it as tells it from others",
                remedy=f"Look at them: `lakehouse quarantine list {source.name}.{table.name}`.",
            )
        chosen += found
    return chosen


def discard_rows(deployment: Deployment, source: Source, table: Table, rows: Iterable[QuarantinedRow]) -> int:
    """Mark rows as looked at, and not wanted; they stay as they are, and are counted no more. How many were open."""
    now = datetime.now(UTC)
    quarantine = Quarantine(deployment, source, table)
    done = quarantine.discard([row.row_id for row in rows], Position(now, now, exact=False), "")
    _follow(deployment, source, table)
    return done


def replay_rows(
    deployment: Deployment, source: Source, table: Table, rows: Sequence[QuarantinedRow], run_id: str = ""
) -> Replayed:
    """Put rows in their place, as far as the table takes them as it is declared today; all copies follow.

    Raises what stops the table as a whole (SourceUnavailable, SourceMismatch, SchemaChanged); nothing was landed then. A death in
    the middle leaves batches that are whole, and rows in the quarantine that the next replay or run takes out of it.
    """
    _refuse_none(source, table)
    with closing(deployment.reader(source)) as reader:
        problem = refusal(deployment, reader, table)
        if problem is not None:
            raise problem
        with reader.snapshot() as snapshot:
            schema = reader.schema(table)

            def attempt() -> Replayed:
                with closing(Landing(deployment, source, table, schema, snapshot.position, run_id)) as landing:
                    return Replaying(landing, snapshot).run(rows)

            done = until_won(attempt)
    _follow(deployment, source, table)
    return done


def _follow(deployment: Deployment, source: Source, table: Table) -> None:
    apply_table(deployment, source, table)
    publish_table(deployment, source, table)


def _refuse_none(source: Source, table: Table) -> None:
    if not table.keeps_refused:
        raise WrongUse(
            f"looking at the quarantine of {source.name}.{table.name}",
            value="the table has none: what it refuses stops it",
            allowed="a table that is declared with on_refused='quarantine', or an expectation with otherwise='quarantine'",
            remedy="Leave on_refused='stop' out of its declaration.",
        )
