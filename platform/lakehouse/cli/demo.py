"""`demo`: the example application's databases."""

from __future__ import annotations

from datetime import datetime

import click

from lakehouse.cli.session import deployment
from lakehouse.cli.terminal import print_table, say


@click.group()
def demo() -> None:
    """The example application `chronochat`: fill its databases, let it live on."""


@demo.command()
@click.option("--days", type=click.IntRange(1), default=14, show_default=True, help="Days of life to load.")
@click.option("--users", type=click.IntRange(1), default=2000, show_default=True, help="Users of the application.")
@click.option(
    "--until",
    type=click.DateTime(["%Y-%m-%d"]),
    default=None,
    help="The UTC day before which the data ends.  [default: yesterday]",
)
@click.option("--seed", type=int, default=7, show_default=True, help="The same seed gives the same data.")
def load(days: int, users: int, until: datetime | None, seed: int) -> None:
    """Fill the databases, deterministically. Loading the same again does nothing."""
    from lakehouse.demo import load as load_demo

    report = load_demo(
        deployment().settings,
        days=days,
        users=users,
        until=until.date() if until else None,
        seed=seed,
        on_event=lambda event: say(str(event)),
    )
    say(f"{'was loaded already' if report.already_loaded else 'loaded'}: life until {report.until}")
    print_table(("table", "rows"), report.rows.items(), right=("rows",))


@demo.command()
def tick() -> None:
    """Let one more hour happen: inserts, updates, deletes, late commits."""
    from lakehouse.demo import tick as tick_demo

    report = tick_demo(deployment().settings)
    say(f"hour {report.number}: {report.start:%Y-%m-%d %H:%M} to {report.end:%H:%M} UTC")
    columns = ("table", "inserted", "updated", "soft deleted", "hard deleted", "late", "days touched")
    rows = [
        (name, c.inserted, c.updated, c.soft_deleted, c.hard_deleted, c.late, ", ".join(sorted(d.isoformat() for d in c.days)))
        for name, c in report.changes.items()
    ]
    print_table(columns, rows, right=columns[1:-1])
