"""`make crash`: all fault points on a table's way, those of maintenance, a soak, then restarts of the example deployment.

Prints one table, and writes `benchmarks/results/crash.json`. Exit 1 when a row was lost or doubled, or anything else was not as
promised.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from lakehouse.pipeline.deployment import Deployment
from lakehouse.settings import SourceSettings
from tests.crash.matrix import SPARK_ROWS, STATES, WORN, Matrix, Row, both_formats, chosen, distinct, run_cases
from tests.crash.restarts import restarts
from tests.crash.soak import UNTIL, Soak
from tests.crash.tally import Tally, table
from tests.deployments import CHECKOUT, SMALL, demo_project
from tests.servers import Deployment as Servers
from tests.servers import without_lakehouse_variables
from tests.shop import CLICKS, SHOP, Shop

PARTS = ("matrix", "maintenance", "soak", "restarts")
RESULT = CHECKOUT / "benchmarks" / "results" / "crash.json"


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="kills of the soak (default 100)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of all choices (default: some number, which is said)"
    )
    parser.add_argument("--short", action="store_true", help="each fault point once, killed after it and its answer lost")
    parser.add_argument("--part", choices=PARTS, help="only this; what is kept of the others stays (default: all)")
    given = parser.parse_args()
    without_lakehouse_variables()
    say(f"seed {given.seed}")
    tallies = {}
    asked = PARTS if given.part is None else (given.part,)
    if "matrix" in asked:
        tallies["matrix"] = fault_points("fault points", given.seed, STATES.keys() - {WORN}, SPARK_ROWS, short=given.short)
    if "maintenance" in asked:
        tallies["maintenance"] = fault_points("maintenance", given.seed, {WORN}, (), short=given.short)
    if "soak" in asked:
        tallies["soak"] = soak(given.kills, given.seed)
    if "restarts" in asked:
        with demo_project((*SMALL, "--until", UNTIL) if given.short else ("--until", UNTIL)) as project:
            tallies["restarts"] = restarts(project, given.seed, say)
    print(table(list(tallies.values())))
    write(tallies, given.seed)
    return 0 if all(tally.clean for tally in tallies.values()) else 1


def fault_points(name: str, seed: int, states: Collection[str], more: Sequence[Row], *, short: bool) -> Tally:
    """Every case at every fault point of tables in these states, or a choice of them, and those of more rows."""
    with shop() as opened, tempfile.TemporaryDirectory(prefix="lh-crash-") as scratch:
        opened.run()
        matrix = Matrix(opened, Path(scratch), Tally(name))
        rows = matrix.rows(states)
        if short:
            run_cases(matrix, chosen([case for row in rows for case in matrix.cases(row)], seed), say)
            rows = []
        for row in [*rows, *more]:
            matrix.renew()
            run_cases(matrix, distinct(matrix.cases(row)), say)
        return matrix.tally


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


def write(tallies: dict[str, Tally], seed: int) -> None:
    """Keep the counts, of each part and of both; a part that was not run keeps those that it had."""
    kept = json.loads(RESULT.read_text())["parts"] if RESULT.exists() else {}
    parts = {
        part: counts(tallies[part], seed) if part in tallies else kept[part] for part in PARTS if part in {**kept, **tallies}
    }
    sums = ("kills", "failures", "rows_checked", "lost", "doubled", "manual_steps")
    document = {
        "points": max(counted["points"] for counted in parts.values()),
        **{name: sum(counted[name] for counted in parts.values()) for name in sums},
        "recovery_seconds": max(counted["recovery_seconds"] for counted in parts.values()),
        "seed": seed,
        "parts": parts,
    }
    RESULT.write_text(json.dumps(document, indent=2) + "\n")


def counts(tally: Tally, seed: int) -> dict[str, float]:
    """The counts of one part."""
    return {
        "points": len(tally.points),
        "kills": tally.kills,
        "failures": tally.failures,
        "rows_checked": tally.rows_checked,
        "lost": tally.lost,
        "doubled": tally.doubled,
        "manual_steps": tally.manual_steps,
        "recovery_seconds": round(max(tally.recovery), 1),
        "seed": seed,
    }


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
