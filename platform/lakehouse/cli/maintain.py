"""`maintain`: lake tables looked after."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from lakehouse.cli.session import deployment
from lakehouse.cli.terminal import print_table, say, size_of
from lakehouse.pipeline.maintain import Maintained, maintain_tables


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--dry-run", is_flag=True, help="Only show what there is to do.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def maintain(tables: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Look after lake tables: few files instead of many small ones, old versions expired, orphans removed.

    TABLE is a source or source.table; all tables by default. LAKEHOUSE_MAINTENANCE__KEEP_DAYS and KEEP_VERSIONS say which
    versions stay; those with a name and the published one always do. Safe beside runs, and to be killed.
    """
    here = deployment()
    done, errors = maintain_tables(here, here.select(tables), dry=dry_run)
    failed = [f"{name}: {error}" for name, error in errors.items()]
    if as_json:
        click.echo(json.dumps({"tables": [asdict(found) for found in done], "failed": failed}, indent=2))
    else:
        _print(done, dry=dry_run)
    for reason in failed:
        say(f"not looked after: {reason}")
    if failed:
        raise click.exceptions.Exit(1)


def _print(done: list[Maintained], *, dry: bool) -> None:
    columns = ("table", "files", "versions", "stored", "compacted" if not dry else "to compact", "expired", "removed")
    rows = [
        (
            found.table,
            _change(found.before.files, found.after.files),
            _change(found.before.versions, found.after.versions),
            _change(size_of(found.before.stored), size_of(found.after.stored)),
            f"{len(found.compact)} partitions" if found.compact else "-",
            len(found.expired) or "-",
            f"{found.removed} ({size_of(found.removed_bytes)})" if found.removed else "-",
        )
        for found in done
    ]
    print_table(columns, rows, right=columns[1:])
    for found in done:
        for name, version in found.named.items():
            say(f"version {version} of {found.table} {'would be' if dry else 'is'} named {name}")
        for reason in found.skipped:
            say(f"orphans not looked for: {reason}")
    idle = all(found.idle for found in done)
    say("nothing to do" if idle else "nothing was changed; run it without --dry-run" if dry else "done")


def _change(before: object, after: object) -> str:
    return str(after) if before == after else f"{before} → {after}"
