"""`diff`: two versions of a lake table compared."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from lakehouse.cli.session import deployment, one_table
from lakehouse.cli.terminal import print_table, say
from lakehouse.pipeline.diff import RowDiff, TableDiff, diff_table
from lakehouse.pipeline.tags import version_named


@click.command()
@click.argument("table")
@click.argument("before")
@click.argument("after", required=False)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=0), help="Rows to print; all are counted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def diff(table: str, before: str, after: str | None, limit: int, as_json: bool) -> None:
    """Show which rows of TABLE (source.table) differ between version BEFORE and AFTER (default: the current one), by key.

    A version is told by its number or name, as `lakehouse show TABLE` lists them. Only partitions with other files are read.
    """
    here = deployment()
    source, declared = one_table(here, "comparing versions", table)
    numbers = [None if name is None else version_named(here, source, declared, name) for name in (before, after)]
    assert numbers[0] is not None
    found = diff_table(here, source, declared, numbers[0], numbers[1], limit=limit)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2, default=str, ensure_ascii=False))
    else:
        _print(found)


def _print(found: TableDiff) -> None:
    if found.rows:
        rows = [(row.kind, _pairs(row.key), _told(row)) for row in found.rows]
        print_table(("", "key", "columns"), rows)
    for name, (before, after) in found.columns.items():
        say(f"column {name}: {before or 'not there'} → {after or 'not there'}")
    left = found.added + found.changed + found.removed - len(found.rows)
    if left:
        say(f"and {left:,} rows more; --limit shows others")
    say(
        f"{found.table}, version {found.before.version} (sequence {found.before.sequence}) to {found.after.version}"
        f" (sequence {found.after.sequence}): {found.added:,} rows added, {found.changed:,} changed, {found.removed:,} removed;"
        f" {len(found.partitions)} partitions have other files"
    )


def _told(row: RowDiff) -> str:
    if row.kind == "changed":
        return ", ".join(f"{name}: {_value(old)} → {_value(new)}" for name, (old, new) in row.values.items())
    side = 0 if row.kind == "removed" else 1
    return _pairs({name: pair[side] for name, pair in row.values.items() if pair[side] is not None})


def _pairs(values: dict[str, str | None]) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in values.items())


def _value(text: str | None) -> str:
    if text is None:
        return "null"
    return text if len(text) <= 40 else f"{text[:37]}…"
