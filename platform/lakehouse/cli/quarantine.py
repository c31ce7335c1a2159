"""`quarantine`: rows that their tables refused."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from lakehouse.cli.session import deployment, one_table
from lakehouse.cli.terminal import print_table, say
from lakehouse.errors import WrongUse
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.replay import discard_rows, quarantined, replay_rows
from lakehouse.spec import Source, Table
from lakehouse.spec.quarantine import QuarantinedRow

_SHOWN_ID = 12
_SHOWN_ROWS = 50


@click.group()
def quarantine() -> None:
    """Rows that their tables refused: look at them, put them in their place, or discard them.

    The quarantine of a table is a table of its own, `<table>__quarantine`, in the lake and in the warehouse; it is made with its
    first row. A table that is declared with on_refused="stop" has none.
    """


@quarantine.command("list")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--all", "everything", is_flag=True, help="Those that were discarded, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_(tables: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """What is in the quarantines: of each row its key, the column that refuses its value, and why.

    TABLE is a source or source.table; all tables by default.
    """
    here = deployment()
    found = [
        (f"{source.name}.{table.name}", row)
        for source, table in here.select(tables)
        if table.keeps_refused or f"{source.name}.{table.name}" in tables
        for row in quarantined(here, source, table)
        if everything or row.state == "open"
    ]
    if as_json:
        click.echo(json.dumps([{"table": name, **_document(row)} for name, row in found], indent=2, ensure_ascii=False))
        return
    if not found:
        say("no rows are in quarantine")
        return
    rows = [(name, row.row_id[:_SHOWN_ID], row.key or "", row.column, row.reason, row.state) for name, row in found]
    print_table(("table", "row", "key", "column", "reason", "state"), rows[:_SHOWN_ROWS])
    if len(rows) > _SHOWN_ROWS:
        say(f"{len(rows) - _SHOWN_ROWS:,} more; --json prints all")
    say("`lakehouse quarantine show TABLE ROW` shows a row; once the declaration takes it, `lakehouse quarantine replay TABLE`")


@quarantine.command()
@click.argument("table")
@click.argument("rows", nargs=-1, required=True, metavar="ROW...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(table: str, rows: tuple[str, ...], as_json: bool) -> None:
    """Rows of the quarantine of TABLE (source.table), as they came. ROW is the beginning of its id."""
    here, source, declared = _chosen(table)
    found = quarantined(here, source, declared, rows)
    if as_json:
        click.echo(json.dumps([_document(row) for row in found], indent=2, ensure_ascii=False))
        return
    for row in found:
        print_table(("", ""), [(name, str(value)) for name, value in _document(row).items() if name != "row"])
        click.echo(_pretty(row))


@quarantine.command()
@click.argument("table")
@click.argument("rows", nargs=-1, metavar="[ROW]...")
def replay(table: str, rows: tuple[str, ...]) -> None:
    """Put rows of the quarantine of TABLE in their place, as far as the table takes them as it is declared now.

    ROW is the beginning of a row's id; all open rows by default. All copies follow, the statistics with the next run. A row that
    is replayed twice is there once. Exit 1 when some are still refused.
    """
    here, source, declared = _chosen(table)
    chosen = [row for row in quarantined(here, source, declared, rows) if row.state == "open"]
    done = replay_rows(here, source, declared, chosen)
    for row in done.refused[:_SHOWN_ROWS]:
        say(f"still refused: {row.key or row.row_id[:_SHOWN_ID]}: {row.column}: {row.reason}")
    if done.waiting:
        say(f"rows of days that `lakehouse run` reads again, which takes them up: {len(done.waiting):,}")
    say(f"rows that are in {source.name}.{declared.name} now: {len(done.taken):,} of {len(chosen):,}")
    if done.refused:
        raise click.exceptions.Exit(1)


@quarantine.command()
@click.argument("table")
@click.argument("rows", nargs=-1, metavar="[ROW]...")
@click.option("--all", "everything", is_flag=True, help="All that are open.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
def discard(table: str, rows: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Mark rows of the quarantine of TABLE as not wanted: they stay as they are, and are counted no more.

    ROW is the beginning of a row's id.
    """
    if bool(rows) == everything:
        raise WrongUse(
            f"discarding rows of {table}",
            value="rows and --all" if rows else "no row",
            allowed="some rows, or --all",
            remedy=f"Name rows: `lakehouse quarantine list {table}` shows their ids.",
        )
    here, source, declared = _chosen(table)
    chosen = [row for row in quarantined(here, source, declared, rows) if row.state == "open"]
    if chosen and not (yes or _agreed(len(chosen))):
        raise click.exceptions.Exit(1)
    say(f"rows discarded: {discard_rows(here, source, declared, chosen):,}")


def _chosen(name: str) -> tuple[Deployment, Source, Table]:
    here = deployment()
    return here, *one_table(here, "looking at a quarantine", name)


def _document(row: QuarantinedRow) -> dict[str, Any]:
    plain = asdict(row)
    del plain["original"]
    return plain | {
        "moment": row.moment.isoformat() if row.moment else None,
        "seen_at": row.seen_at.isoformat(),
        "position": json.loads(row.position),
        "row": json.loads(row.row) if row.row else None,
    }


def _pretty(row: QuarantinedRow) -> str:
    if row.row is None:
        return f"(cannot be shown: {len(row.original):,} bytes of {row.form})"
    return json.dumps(json.loads(row.row), indent=2, ensure_ascii=False)


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        say("Nothing was done. Give --yes to do it.")
        return False
    return click.confirm(f"Discard these rows ({count:,})?", default=False)
