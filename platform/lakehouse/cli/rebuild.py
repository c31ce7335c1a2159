"""`rebuild`: a healthy table folded anew under today's declaration."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from lakehouse.cli.session import deployment, one_table
from lakehouse.cli.terminal import print_table, say, size_of
from lakehouse.pipeline.rebuild import RebuildPlan, plan_rebuild, rebuild_table


@click.command()
@click.argument("table")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; nothing is done without --yes.")
def rebuild(table: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Fold the raw log of TABLE (source.table) anew under today's declaration, and exchange it in.

    For another partitioning, format, type or key, and for columns that became personal. The whole log is read first: a value
    that its new type cannot hold stops it there. Readers go on meanwhile. It shows what it will do and asks first; without a
    terminal it does nothing unless --yes is given. It leaves a record, which `lakehouse show TABLE` shows.
    """
    here = deployment()
    source, declared = one_table(here, "rebuilding", table)
    say(f"reading the raw log of {source.name}.{declared.name}")
    plan = plan_rebuild(here, source, declared)
    document: dict[str, Any] = {"plan": _document(plan), "done": [], "record": None}
    if not as_json:
        _print(plan)
    agreed = not dry_run and (yes or (not as_json and _agreed()))
    if agreed:
        record = rebuild_table(here, source, declared, plan, on_event=say)
        document |= {"done": record.done, "record": here.store.url_of(record.path)}
        say(f"rebuilt. Record: {document['record']}")
    if as_json:
        click.echo(json.dumps(document, indent=2))
    if not agreed and not dry_run:
        say("Nothing was done. Give --yes to do it.")
        raise click.exceptions.Exit(1)


def _document(plan: RebuildPlan) -> dict[str, Any]:
    shown = {name: asdict(value) if value else None for name, value in (("now", plan.now), ("declared", plan.declared))}
    texts = {name: [*getattr(plan, name)] for name in ("changes", "steps", "notes")}
    return {"table": plan.table, "entries": plan.reading.head, **shown, **texts}


def _print(plan: RebuildPlan) -> None:
    now, declared = plan.now, plan.declared
    rows = [
        ("format", now.format if now else "", declared.format),
        ("partitions", now.partitioning if now else "", declared.partitioning),
        ("key", ", ".join(now.key) if now else "", ", ".join(declared.key)),
        *((f"column {name}", had, declared.types.get(name, "dropped")) for name, had, _ in _differing(plan)),
    ]
    print_table(("", "now", "declared"), rows)
    size = f"{now.rows:,} rows, {size_of(now.bytes)} in the lake" if now else "no table in the lake"
    click.echo(f"\n{plan.table}: {plan.reading.head} entries, {size}")
    for text in plan.changes or ("none: the table is as it is declared",):
        click.echo(f"change: {text}")
    for text in plan.steps:
        click.echo(f"to do: {text}")
    for text in plan.notes:
        click.echo(f"note: {text}")


def _differing(plan: RebuildPlan) -> list[tuple[str, str, str]]:
    now = plan.now.types if plan.now else {}
    return [(n, had, plan.declared.types.get(n, "")) for n, had in now.items() if plan.declared.types.get(n) != had]


def _agreed() -> bool:
    return sys.stdin.isatty() and click.confirm("Do it?", default=False)
