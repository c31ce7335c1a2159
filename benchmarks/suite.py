"""The benchmarks, each a function from its size and repetitions to measurements."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.beside import fake_server
from benchmarks.environment import python_with
from benchmarks.extraction.comparison import extract as compare_extraction
from benchmarks.folds.comparison import tables as compare_tables
from benchmarks.home import Home, Step, own_home, told
from benchmarks.measuring import run
from benchmarks.results import Measurement

WAYS = {
    "drain": "drained to nothing",
    "typed": "lakehouse, 8 columns and the document",
    "nested": "lakehouse, a list and a struct too",
}
"""Ways of `benchmarks.documents`, as the table names them."""
API_LOGS = "chronochat.api_logs"
OTHERS = (
    "chronochat.users",
    "chronochat.user_usage_stats",
    "chronochat.user_sessions",
    "chronochat.user_preferences",
    "chronochat_mongo",
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much to measure, and how often. rows: API logs of `path` and `verify`. users: of the example
    application. documents: of `documents`."""

    rows: int = 1_000_000
    users: int = 2_000
    documents: int = 300_000
    repetitions: int = 3


Say = Callable[[str], None]
Benchmark = Callable[[Size, Say], list[Measurement]]


def path(size: Size, say: Say) -> list[Measurement]:
    """The whole path for the API logs, hop by hop; each time into an empty store, lake and warehouse."""
    hops: dict[str, list[Step]] = {"extract": [], "apply": [], "publish": [], "statistics": []}
    with own_home() as home:
        home.lakehouse("up")
        say(f"loading {size.rows:,} API logs")
        home.step("load", "--users", str(size.users), "--api-logs", str(size.rows))
        for number in range(size.repetitions):
            for hop in ("extract", "apply", "publish"):
                hops[hop].append(home.step(hop, API_LOGS, "--copy", str(number)))
                say(f"{hop}: {hops[hop][-1].ended.seconds:.2f} s")
        for hop in ("extract", "apply", "publish"):
            home.step(hop, *OTHERS)
        for _ in range(size.repetitions):
            hops["statistics"].append(home.step("statistics"))
            say(f"statistics: {hops['statistics'][-1].ended.seconds:.2f} s")
    names = {"statistics": "dbt"}
    return [
        Measurement.of(names.get(hop, hop), [step.ended for step in steps], rows=steps[-1].rows) for hop, steps in hops.items()
    ]


def verify(size: Size, say: Say) -> list[Measurement]:
    """Comparing the copies of the API logs: reading lake and warehouse, all of it, and what has changed."""
    repetitions = range(size.repetitions)
    with own_home() as home:
        home.lakehouse("up")
        say(f"loading {size.rows:,} API logs")
        home.step("load", "--users", str(size.users), "--api-logs", str(size.rows))
        for hop in ("extract", "apply", "publish"):
            home.step(hop, API_LOGS)

        def timed(name: str, hop: str, before: Callable[[], None] = lambda: None) -> tuple[str, list[Step]]:
            steps = []
            for _ in repetitions:
                before()
                steps.append(home.step(hop, API_LOGS))
            say(f"{name}: {steps[-1].ended.seconds:.2f} s")
            return name, steps

        def change() -> None:
            for hop in ("touch", "extract", "apply", "publish"):
                home.step(hop, API_LOGS)

        named = [
            timed("reading the lake", "read-lake"),
            timed("reading two days of it", "read-lake-part"),
            timed("reading the warehouse", "read-warehouse"),
            timed("verify --deep, every copy", "verify-deep"),
            timed("verify, nothing has changed", "verify"),
            timed("verify, one day has changed", "verify", change),
        ]
        _, both = timed("reading lake and warehouse", "read-both")
    measured = [Measurement.of(name, [step.ended for step in steps], rows=steps[-1].rows) for name, steps in named]
    cores = [replace(step.ended, seconds=step.ended.cpu_seconds) for step in both]
    name = "lake and warehouse, in seconds of one core"
    return [*measured, Measurement.of(name, cores, rows=both[-1].rows, goal=both[-1].rows / 2_000_000)]


def empty(size: Size, say: Say) -> list[Measurement]:
    """A run when nothing is new in any table, as a whole and hop by hop."""
    with own_home() as home:
        home.lakehouse("up")
        say(f"loading the example application with {size.users:,} users")
        home.step("load", "--users", str(size.users))
        say("the first run")
        home.lakehouse("run", "--no-show")
        say("runs without anything new")
        repetitions = range(size.repetitions)
        whole = [home.lakehouse("run", "--no-show") for _ in repetitions]
        measured = [Measurement.of("lakehouse run --no-show", whole, goal=5.0)]
        for hop, name in (("extract", "extract"), ("apply", "apply"), ("publish", "publish"), ("stale", "look for stale days")):
            steps = [home.step(hop) for _ in repetitions]
            measured.append(Measurement.of(name, [step.ended for step in steps], rows=steps[-1].rows))
    return measured


def definitions(size: Size, say: Say) -> list[Measurement]:
    """The start of the code location: the file that workspace.yaml names, and Dagster's own check of it. Needs no server."""
    load = "import runpy; runpy.run_path('platform/definitions.py')"
    with own_home() as home:
        say("parsing the dbt project, where that is due")
        home.python("-c", load)
        say("loading the definitions")
        loaded = [home.python("-c", load) for _ in range(size.repetitions)]
        say("dagster definitions validate")
        validated = [
            home.python("-m", "dagster", "definitions", "validate", "-w", "workspace.yaml") for _ in range(size.repetitions)
        ]
    return [
        Measurement.of("load platform/definitions.py", loaded, goal=3.0),
        Measurement.of("dagster definitions validate", validated),
    ]


def up(size: Size, say: Say) -> list[Measurement]:
    """`lakehouse up` in a fresh home, on the data of a stopped one, and when all runs already."""
    cold, warm, already = [], [], []
    for number in range(size.repetitions):
        with own_home() as home:
            cold.append(home.lakehouse("up"))
            say(f"{number + 1}: cold {cold[-1].seconds:.1f} s")
            _stop(home)
            warm.append(home.lakehouse("up"))
            say(f"{number + 1}: warm {warm[-1].seconds:.1f} s")
            already.append(home.lakehouse("up"))
    return [
        Measurement.of("up, fresh home", cold, goal=15.0),
        Measurement.of("up, on its data", warm, goal=15.0),
        Measurement.of("up, runs already", already, goal=15.0),
    ]


def extract(size: Size, say: Say) -> list[Measurement]:
    """Postgres to Parquet: this project, the server's limit and other tools, on the same tables in one run."""
    return compare_extraction((size.rows * 5, size.rows), size.rows // 50, size.repetitions, say)


def tables(size: Size, say: Say) -> list[Measurement]:
    """Lake tables: a fold, an upsert and a replaced day, by each engine and format, and by the tools that they stand on."""
    return compare_tables(size.rows * 5, size.rows * 10, size.repetitions, say)


def documents(size: Size, say: Say) -> list[Measurement]:
    """Documents of mixed shape to raw Parquet, the whole document kept: from prebuilt replies, and from the embedded server.

    Each against the same replies drained to nothing; from prebuilt replies also against pymongoarrow with an explicit schema.
    """
    other = str(python_with("mongodb"))
    with fake_server(size.documents) as url:
        measured = _ways(size, say, "prebuilt replies", url, goal=size.documents / 350_000)
        command = [other, "benchmarks/other_pymongoarrow.py", url]
        ended = [told(run(command, os.environ)).ended for _ in range(size.repetitions)]
        measured.append(Measurement.of("prebuilt replies: pymongoarrow, 8 columns", ended, rows=size.documents))
    with own_home() as home:
        home.lakehouse("up")
        url = json.loads(home.lakehouse("env", "--format", "json").output)["CHRONOCHAT_MONGO_URL"]
        say(f"loading {size.documents:,} documents")
        home.python("-m", "benchmarks.documents", "load", url, str(size.documents))
        measured += _ways(size, say, "embedded server", url)
    return measured


def digest(size: Size, say: Say) -> list[Measurement]:
    """The digests of rows in memory on one core: as they are made now, and as the MD5 of a text. Needs no server."""
    measured = []
    for way, name in (("columns", "arithmetic on columns"), ("text", "MD5 of a text")):
        command = [sys.executable, "-m", "benchmarks.digest", way, str(size.rows)]
        steps = [told(run(command, os.environ)) for _ in range(size.repetitions)]
        say(f"{name}: {steps[-1].ended.seconds:.2f} s")
        measured.append(Measurement.of(name, [step.ended for step in steps], rows=size.rows))
    return measured


def _ways(size: Size, say: Say, origin: str, url: str, goal: float | None = None) -> list[Measurement]:
    """Drained, typed, nested; the goal is that of the typed columns with the whole document."""
    measured = []
    for way, tool in WAYS.items():
        command = [sys.executable, "-m", "benchmarks.documents", way, url]
        ended = [told(run(command, os.environ)).ended for _ in range(size.repetitions)]
        say(f"{origin}: {tool}: {ended[-1].seconds:.2f} s")
        limit = goal if way == "typed" else None
        measured.append(Measurement.of(f"{origin}: {tool}", ended, rows=size.documents, goal=limit))
    return measured


def _stop(home: Home) -> None:
    home.lakehouse("down")


BENCHMARKS: dict[str, Benchmark] = {
    "path": path,
    "verify": verify,
    "empty": empty,
    "definitions": definitions,
    "up": up,
    "extract": extract,
    "tables": tables,
    "documents": documents,
    "digest": digest,
}
