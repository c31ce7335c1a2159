"""`run`: extract to statistics, as one Dagster run."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from lakehouse import services
from lakehouse.cli.pandas import show_pandas
from lakehouse.cli.session import deployment
from lakehouse.cli.terminal import print_table, say
from lakehouse.errors import WrongUse
from lakehouse.imports import for_good
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.windows import DayRange
from lakehouse.spec import Source, Table

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option(
    "--select", "names", multiple=True, metavar="TABLE", help="A source or source.table; may be given again. [default: all]"
)
@click.option("--from", "first", type=_DAY, default=None, help="First UTC day to read again, closed or not.")
@click.option("--to", "last", type=_DAY, default=None, help="Last UTC day to read again, included.")
@click.option("--full", is_flag=True, help="Read closed days and whole tables again; only what differs is landed.")
@click.option("--accept-deletes", is_flag=True, help="Delete what is gone from the source, however much it is (gone_at_most).")
@click.option("--show/--no-show", default=True, help="Print the daily statistics afterwards.", show_default=True)
def run(
    names: tuple[str, ...], first: datetime | None, last: datetime | None, full: bool, accept_deletes: bool, show: bool
) -> None:
    """Extract what is new, apply, publish, and rebuild the statistics of the days that changed."""
    started = time.monotonic()
    here = deployment()
    chosen = here.with_histories(here.select(names))
    here.store.check()
    if not (Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml").is_file():
        services.write_instance(here.settings)
    from lakehouse.pipeline.look import is_up_to_date
    from lakehouse.pipeline.status import check_sources

    _check_days(here, first, last)
    check_sources(here, chosen)
    if first is None and not full and not accept_deletes and is_up_to_date(here, chosen):
        if show:
            print_statistics(here)
            print_hops(here, chosen)
        say(f"nothing is new in {len(chosen)} tables, and every copy is up to date: no run was needed")
        return
    show_pandas()
    with for_good():
        from lakehouse.orchestration.execute import execute

        definitions = _definitions()
    days = _days(here, chosen, first, last, full)
    outcome = execute(
        definitions, here, chosen, days, asked=first is not None, full=full, accept_deletes=accept_deletes, on_event=say
    )
    for failure in outcome.failures:
        say(f"FAILED: {failure}")
    if show:
        print_statistics(here)
        print_hops(here, chosen)
    say(f"run {outcome.run_id} {'done' if outcome.success else 'FAILED'} in {time.monotonic() - started:.1f} s")
    if not outcome.success:
        raise click.exceptions.Exit(1)


def _check_days(here: Deployment, first: datetime | None, last: datetime | None) -> None:
    """WrongUse when the days that were asked for are no range, or not partitions of the deployment."""
    if (first is None) != (last is None):
        raise WrongUse("choosing days", value="only one of --from and --to", allowed="both or none", remedy="Give both.")
    if first is None or last is None:
        return
    start, today = here.settings.start_date, datetime.now(UTC).date()
    days = DayRange(first.date(), last.date())
    for day in (days.first, days.last):
        if not start <= day <= today:
            raise WrongUse(
                f"running the days {days.first} to {days.last}",
                value=day.isoformat(),
                allowed=f"{start} (the deployment's first day) to {today} (today, UTC)",
                remedy="Choose other days, or set LAKEHOUSE_START_DATE to an earlier day.",
            )


def _days(
    here: Deployment, chosen: list[tuple[Source, Table]], first: datetime | None, last: datetime | None, full: bool
) -> DayRange:
    """The days that the run covers: those that were asked for, or those that are not closed, of the deployment's partitions."""
    from lakehouse.orchestration.execute import pending_days

    if first is not None and last is not None:
        return DayRange(first.date(), last.date())
    start, today = here.settings.start_date, datetime.now(UTC).date()
    days = pending_days(here, chosen, full=full) or DayRange(today, today)
    return DayRange(max(days.first, start), min(max(days.last, start), today))


def _definitions() -> Any:
    """The deployment's Dagster definitions, loaded as Dagster loads them."""
    import importlib.util

    path = Path("platform/definitions.py").resolve()
    if not path.is_file():
        raise WrongUse(
            "loading the deployment's definitions",
            value=str(path),
            allowed="the folder that holds workspace.yaml and platform/definitions.py",
            remedy="Run the command there.",
        )
    spec = importlib.util.spec_from_file_location("definitions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["definitions"] = module
    spec.loader.exec_module(module)
    return module.defs


def print_statistics(here: Deployment) -> None:
    """The daily statistics of the last 14 days, if they were built."""
    exists = here.warehouse.query(
        "select count() as n from system.tables where database = 'statistics' and name = 'daily_statistics'"
    )
    if not exists["n"][0].as_py():
        say("there are no statistics yet")
        return
    newest = "select * except built_at from statistics.daily_statistics order by day desc limit 14"
    result = here.warehouse.query(f"select * from ({newest}) order by day")
    numbers = [name for name in result.column_names if name != "day"]
    rows = [tuple(row.values()) for row in result.to_pylist()]
    print_table(result.column_names, rows, right=numbers, title="Daily statistics")


def print_hops(here: Deployment, chosen: list[tuple[Source, Table]]) -> None:
    """Rows that each hop's marker holds; `lakehouse verify` recomputes them."""
    from lakehouse.pipeline.status import table_status

    found = [table_status(here, source, table) for source, table in chosen]
    rows = [(s.table, s.raw_sequence, s.lake_sequence, s.warehouse_sequence, s.rows, s.warehouse_rows, s.state) for s in found]
    header = ("table", "raw seq", "lake seq", "warehouse seq", "lake rows", "warehouse rows", "state")
    print_table(header, rows, right=header[1:-1], title="Hops")
