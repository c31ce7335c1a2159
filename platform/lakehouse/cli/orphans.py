"""`orphans`: what dead attempts left behind."""

from __future__ import annotations

import json

import click

from lakehouse.cli.session import deployment
from lakehouse.cli.terminal import print_table, say, size_of
from lakehouse.pipeline.orphans import Orphan, find_orphans, oldest_writer, remove_orphans


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--delete", is_flag=True, help="Remove what is older than every possible writer.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def orphans(tables: tuple[str, ...], delete: bool, as_json: bool) -> None:
    """Files and tables that nothing names: left by attempts that died. Without --delete they are only shown.

    TABLE is a source or source.table; all tables by default. What any log entry or any version of a lake table names is never
    touched, nor is anything that is younger than twice LAKEHOUSE_LONGEST_WRITE_HOURS.
    """
    here = deployment()
    found = find_orphans(here, here.select(tables))
    removed = remove_orphans(here, found) if delete else []
    if as_json:
        items = [{**vars(o), "age": o.age.total_seconds(), "removed": o in removed} for o in found.found]
        click.echo(json.dumps({"orphans": items, "skipped": list(found.skipped)}, indent=2))
        return
    groups: dict[tuple[str, str, bool], list[Orphan]] = {}
    for orphan in found.found:
        groups.setdefault((orphan.table, orphan.where, orphan.young), []).append(orphan)
    rows = [
        (table, where, len(items), size_of(sum(o.bytes for o in items)), _age(items), _verdict(young, delete))
        for (table, where, young), items in sorted(groups.items())
    ]
    print_table(("table", "where", "count", "size", "oldest", "verdict"), rows, right=("count", "size", "oldest"))
    for reason in found.skipped:
        say(f"not looked at: {reason}")
    size = size_of(sum(o.bytes for o in removed))
    limit = oldest_writer(here).total_seconds() / 3600
    say(
        f"removed {len(removed)}, {size}"
        if delete
        else f"nothing was removed; --delete removes what is older than {limit:.0f} hours"
    )


def _age(items: list[Orphan]) -> str:
    return f"{max(o.age for o in items).total_seconds() / 3600:.1f} h"


def _verdict(young: bool, delete: bool) -> str:
    if young:
        return "kept: its writer may be alive"
    return "removed" if delete else "can be removed"
