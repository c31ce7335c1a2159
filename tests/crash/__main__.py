"""`make crash`: all fault points, then a soak. Prints one table, and writes `benchmarks/results/crash.json`.

Exit 1 when a row was lost or doubled, or anything else was not as promised.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from lakehouse.pipeline.deployment import Deployment
from lakehouse.settings import SourceSettings
from tests.crash.matrix import Matrix, both_formats, chosen, distinct, run_cases
from tests.crash.soak import UNTIL, Soak
from tests.crash.tally import Tally, table
from tests.deployments import CHECKOUT, SMALL, demo_project
from tests.servers import Deployment as Servers
from tests.servers import without_lakehouse_variables
from tests.shop import CLICKS, SHOP, Shop

RESULT = CHECKOUT / "benchmarks" / "results" / "crash.json"


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="kills of the soak (default 100)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of all choices (default: some number, which is said)"
    )
    parser.add_argument("--short", action="store_true", help="one table for each fault point, not all")
    given = parser.parse_args()
    without_lakehouse_variables()
    say(f"seed {given.seed}")
    tallies = [fault_points(given.seed, short=given.short), soak(given.kills, given.seed)]
    print(table(tallies))
    write(tallies, given.seed)
    return 0 if all(tally.clean for tally in tallies) else 1


def fault_points(seed: int, *, short: bool) -> Tally:
    """Every case at every fault point, or a choice of them."""
    with shop() as opened, tempfile.TemporaryDirectory(prefix="lh-crash-") as scratch:
        opened.run()
        matrix = Matrix(opened, Path(scratch))
        cases = matrix.all_cases()
        return run_cases(matrix, (chosen(cases, seed) if short else distinct(cases)) + distinct(matrix.spark_cases()), say)


def soak(kills: int, seed: int) -> Tally:
    """Random kills over the whole example deployment."""
    with demo_project((*SMALL, "--until", UNTIL)) as project, tempfile.TemporaryDirectory(prefix="lh-crash-") as notes:
        return Soak(project, seed, Path(notes), say).run(kills)


@contextmanager
def shop() -> Iterator[Shop]:
    """The small application of the tests, on servers of its own."""
    servers = Servers.make()
    try:
        settings = servers.start()
        catalog = settings.catalog.url.get_secret_value()
        with psycopg.connect(catalog, autocommit=True) as connection:
            connection.execute("create database shop")
        url = catalog.rpartition("/")[0] + "/shop"
        mongo = settings.source_url("chronochat_mongo").replace("/chronochat_mongo?", "/clicks?")
        sources = {"shop": SourceSettings(url=url), "clicks": SourceSettings(url=mongo)}
        opened = Shop(url, mongo, both_formats(Deployment(settings.model_copy(update={"sources": sources}), (SHOP, CLICKS))))
        opened.open()
        yield opened
    finally:
        servers.end()


def write(tallies: list[Tally], seed: int) -> None:
    """Keep the counts."""
    points = {point for tally in tallies for point in tally.points}
    document = {
        "points": len(points),
        "kills": sum(tally.kills for tally in tallies),
        "failures": sum(tally.failures for tally in tallies),
        "rows_checked": sum(tally.rows_checked for tally in tallies),
        "lost": sum(tally.lost for tally in tallies),
        "doubled": sum(tally.doubled for tally in tallies),
        "manual_steps": sum(tally.manual_steps for tally in tallies),
        "recovery_seconds": round(max(second for tally in tallies for second in tally.recovery), 1),
        "seed": seed,
    }
    RESULT.write_text(json.dumps(document, indent=2) + "\n")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
