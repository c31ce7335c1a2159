"""`rollback`, `tag`: versions of a lake table."""

from __future__ import annotations

import click

from lakehouse.cli.session import deployment, one_table
from lakehouse.cli.terminal import say
from lakehouse.pipeline.rollback import rollback_table
from lakehouse.pipeline.tags import remove_tag, tag_version, version_named


@click.command()
@click.argument("table")
@click.option("--to", "version", required=True, help="The version, by number or name, as `lakehouse show TABLE` lists them.")
def rollback(table: str, version: str) -> None:
    """Make an earlier version of TABLE (source.table) the current one, marker and all; the warehouse follows.

    The raw log is untouched: the next run applies what came after that version again.
    """
    here = deployment()
    source, declared = one_table(here, "rolling back", table)
    state = rollback_table(here, source, declared, version_named(here, source, declared, version))
    say(f"{table} is at version {state.current.version} again (sequence {state.current.marker.sequence})")


@click.command()
@click.argument("table")
@click.argument("name")
@click.option("--version", help="The version, by number or name [default: the current one].")
@click.option("--remove", is_flag=True, help="Take the name away; the version stays.")
def tag(table: str, name: str, version: str | None, remove: bool) -> None:
    """Give a version of TABLE (source.table) a NAME, by which `rollback` and `sql --version` know it.

    Iceberg tables have tags, which other tools read too; Delta tables have none.
    """
    here = deployment()
    source, declared = one_table(here, "naming a version", table)
    if remove:
        remove_tag(here, source, declared, name)
        say(f"no version of {table} is named {name} any more")
        return
    number = None if version is None else version_named(here, source, declared, version)
    say(f"version {tag_version(here, source, declared, name, number)} of {table} is named {name}")
