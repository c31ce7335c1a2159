"""`rollback`: move a lake table to an earlier version."""

from __future__ import annotations

import click

from lakehouse.cli.session import deployment
from lakehouse.cli.terminal import say
from lakehouse.errors import WrongUse
from lakehouse.pipeline.rollback import rollback_table


@click.command()
@click.argument("table")
@click.option("--to", "version", type=int, required=True, help="The version, as `lakehouse show TABLE` lists them.")
def rollback(table: str, version: int) -> None:
    """Make an earlier version of TABLE (source.table) the current one, marker and all; the warehouse follows.

    The raw log is untouched: the next run applies what came after that version again.
    """
    here = deployment()
    chosen = here.select([table])
    if len(chosen) != 1:
        raise WrongUse("rolling back", value=table, allowed="one table, as source.table", remedy="Name the table.")
    source, declared = chosen[0]
    state = rollback_table(here, source, declared, version)
    say(f"{table} is at version {state.current.version} again (sequence {state.current.marker.sequence})")
