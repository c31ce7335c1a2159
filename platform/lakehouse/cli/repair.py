"""`repair`: rebuild a damaged copy of a table from the nearest good one."""

from __future__ import annotations

import sys

import click

from lakehouse.cli.session import deployment, one_table
from lakehouse.cli.terminal import print_table, say
from lakehouse.pipeline.repair import Plan, plan_repair, repair_table


@click.command()
@click.argument("table")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.option("--dry-run", is_flag=True, help="Only show what is damaged and what would be done; exit 1 when anything is.")
def repair(table: str, yes: bool, dry_run: bool) -> None:
    """Find the damaged copy of TABLE (source.table) and rebuild it from the nearest good one.

    Raw from source or lake, lake from raw, warehouse from lake. All copies are read. It shows what it will do and asks first;
    without a terminal it does nothing unless --yes is given. It leaves a record, which `lakehouse show TABLE` shows.
    """
    here = deployment()
    source, declared = one_table(here, "repairing", table)
    say(f"reading every copy of {source.name}.{declared.name}")
    plan = plan_repair(here, source, declared)
    if not plan.damaged:
        say("nothing is damaged")
        return
    _print(plan)
    if dry_run or not (plan.steps and (yes or _agreed())):
        raise click.exceptions.Exit(1)
    record = repair_table(here, source, declared, plan, on_event=say)
    say(f"repaired: every copy is whole. Record: {here.store.url_of(record.path)}")


def _print(plan: Plan) -> None:
    damage = plan.diagnosis.damage
    print_table(("copy", "damaged", "found"), [(d.copy, d.what, d.found) for d in damage])
    click.echo()
    for step in plan.steps:
        click.echo(f"to do: {step}")
    for problem in plan.problems:
        click.echo(f"cannot be mended: {problem}")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        say("Nothing was done. Give --yes to do it.")
        return False
    return click.confirm("Do it?", default=False)
