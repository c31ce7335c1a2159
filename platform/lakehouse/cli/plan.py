"""`plan`: what the next run would change."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from lakehouse.cli.session import deployment
from lakehouse.pipeline.plan import Kind, RunPlan, TablePlan, plan_run

SIGNS: dict[Kind, str] = {
    "new": "+",
    "added": "+",
    "renamed": "~",
    "widened": "~",
    "optional": "~",
    "kept": "~",
    "gone": "-",
    "read": "<",
    "apply": ">",
    "publish": ">",
    "stops": "!",
}
COLORS = {"+": "green", "~": "yellow", "-": "yellow", "!": "red"}


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plan(tables: tuple[str, ...], as_json: bool) -> None:
    """What the next run would change: columns, windows to read, batches that wait. Nothing is changed, no row is read.

    TABLE is a source or source.table; all tables by default. Exit 2 when the run would stop at a table, so that it can be asked
    before a change of the declarations or of the application is let in.
    """
    here = deployment()
    found = plan_run(here, here.select(tables))
    if as_json:
        click.echo(json.dumps(_document(found), indent=2))
    else:
        _print(found)
    if found.stops:
        raise click.exceptions.Exit(2)


def _document(found: RunPlan) -> dict[str, object]:
    tables = [{**asdict(table), "stops": table.stops} for table in found.tables]
    days = [day.isoformat() for day in found.days]
    return {
        "stops": found.stops,
        "problem": found.problem,
        "tables": tables,
        "statistics": {"days": days, "first_build": found.first_build},
    }


def _print(found: RunPlan) -> None:
    for table in found.tables:
        _print_table(table)
    if found.problem:
        _print_line("!", found.problem)
    elif found.first_build:
        click.echo("statistics: built for the first time")
    elif found.days:
        click.echo(f"statistics: {_count(len(found.days), 'day')} to build anew, {found.days[0]} to {found.days[-1]}")
    columns = sum(SIGNS[change.kind] in "+~-" for table in found.tables for change in table.changes)
    stopped = sum(table.stops for table in found.tables)
    click.echo(
        f"{_count(len(found.tables), 'table')}: {_count(columns, 'change')} of columns, {stopped or 'none'} would stop the run"
    )


def _print_table(table: TablePlan) -> None:
    click.echo(table.table + ("" if table.changes else ": nothing"))
    for change in table.changes:
        _print_line(SIGNS[change.kind], change.text)
    for warning in table.warnings:
        _print_line("?", warning)


def _print_line(sign: str, text: str) -> None:
    first, *more = text.splitlines()
    click.echo(click.style(f"  {sign} {first}", fg=COLORS.get(sign)))
    for line in more:
        click.echo(f"    {line}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
