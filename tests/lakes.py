"""Lakes for the suites of lake tables: an engine and format over a store and a catalog, and processes that work on one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import SecretStr

from lakehouse import faults
from lakehouse.errors import CommitConflict
from lakehouse.settings import CatalogSettings, Settings, StoreSettings
from lakehouse.spec import LogEntry, Marker, Table
from lakehouse.spec.declaration import TableFormat
from lakehouse.stores import ObjectStore, open_store
from lakehouse.tables import Applied, LakeTables, TableState, open_tables
from lakehouse.tables.engine import Keep
from tests.crash.forks import FORKS
from tests.rawlogs import SOURCE, HandLog, Row, digest, rows_of

LAKES = ("embedded-iceberg-folder", "embedded-iceberg-s3", "embedded-delta-folder", "embedded-delta-s3")
"""Engine, format and store of every lake that the suites of formats run over: who folds makes no difference to them."""

FOLDING_LAKES = (*LAKES, "spark-iceberg-s3", "spark-delta-folder")
EVOLVING_LAKES = (*LAKES, "spark-delta-s3", "spark-iceberg-folder")
"""Those that the suites of folds and of columns run over: each format by each engine, on S3 and in a folder. A test takes seconds
on Spark, so a suite has two of the four. S3 comes first: a process has one session, and one for folders alone has no S3."""


@dataclass
class Lake:
    """One lake, empty at first."""

    settings: Settings
    store: ObjectStore
    format: TableFormat = "iceberg"

    def __post_init__(self) -> None:
        self.tables = self.opened(self.store)

    def declared(self, table: Table) -> Table:
        """A table as it is declared in this lake's format."""
        return replace(table, format=self.format)

    def opened(self, store: ObjectStore) -> LakeTables:
        """The lake's tables by another view of its store; every table is taken as one of the lake's format."""
        return Formatted(open_tables(self.settings, store), self)

    def log(self, table: Table, fields: dict[str, str], required: Sequence[str] = ()) -> HandLog:
        """A new raw log in the lake's store."""
        return HandLog(self.store, self.declared(table), fields, required)

    def apply(self, log: HandLog, upto: int | None = None) -> Applied:
        """Apply the log's entries, all or those up to a sequence."""
        return self.tables.apply(SOURCE, log.table, log.entries[:upto], log.folder)

    def rows(self, table: Table, **which: Any) -> list[Row]:
        """The rows of a scan."""
        return rows_of(self.tables.scan(SOURCE, table, **which))

    def state(self, table: Table) -> TableState:
        """The state of a table that is there."""
        state = self.tables.state(SOURCE, table)
        assert state is not None
        return state

    def marker(self, table: Table) -> Marker:
        """The marker of a table that is there."""
        return self.state(table).current.marker

    def files(self, table: Table) -> dict[str, list[str]]:
        """Addresses of the data files in the store, by partition folder; those of old versions too."""
        prefix = self.data(table)
        found: dict[str, list[str]] = {}
        for info in self.store.list(prefix):
            if "/_delta_log/" in info.path:
                continue
            folder, _, name = info.path.removeprefix(prefix + "/").rpartition("/")
            found.setdefault(folder, []).append(name)
        return found

    def data(self, table: Table) -> str:
        """The folder of the table's data files in the store."""
        return self.tables.root(SOURCE, table) + ("/data" if self.format == "iceberg" else "")

    def check(self, log: HandLog, expected: Sequence[Row], sequence: int | None = None) -> None:
        """The table holds exactly these rows, and its marker says so: sequence, rows and a checksum that is recomputed."""
        table = log.table
        state = self.state(table)
        batches = list(self.tables.scan(SOURCE, table))
        found = pa.Table.from_batches(batches, schema=state.schema)
        assert sorted_rows(found.to_pylist()) == sorted_rows(expected)
        marker = state.current.marker
        assert marker.sequence == (log.entries[-1].sequence if sequence is None else sequence)
        assert (marker.rows, marker.checksum) == digest(found)
        assert sum(self.tables.partitions(SOURCE, table).values()) == marker.rows


class Formatted:
    """Lake tables in front of others: tables come in the lake's format."""

    def __init__(self, tables: LakeTables, lake: Lake) -> None:
        self._tables, self._lake = tables, lake

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._tables, name)
        return lambda source, table, *more, **named: method(source, self._lake.declared(table), *more, **named)


def sorted_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows in an order that does not depend on how they came; keys whose value is None are left out."""
    return sorted(({name: value for name, value in row.items() if value is not None} for row in rows), key=repr)


@pytest.fixture(name="lake", params=FOLDING_LAKES)
def folding_lake_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Each lake in turn, some by each engine."""
    return named_lake(request, tmp_path)


@pytest.fixture(name="lake", params=EVOLVING_LAKES)
def evolving_lake_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Each lake in turn, some by each engine."""
    return named_lake(request, tmp_path)


@pytest.fixture(name="lake", params=LAKES)
def lake_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Each lake in turn."""
    return named_lake(request, tmp_path)


@pytest.fixture(name="iceberg_lake", params=[name for name in LAKES if "-iceberg-" in name])
def iceberg_lake_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Each lake of Iceberg tables."""
    return named_lake(request, tmp_path)


@pytest.fixture(name="delta_lake", params=[name for name in LAKES if "-delta-" in name])
def delta_lake_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Each lake of Delta tables."""
    return named_lake(request, tmp_path)


def named_lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """The lake that a fixture's parameter names."""
    engine, format_, store = str(request.param).split("-")
    if store == "s3":
        place = request.getfixturevalue("s3_store")
        catalog = request.getfixturevalue("postgres_database")
    else:
        place, catalog = StoreSettings(url=(tmp_path / "store").as_uri()), f"sqlite:///{tmp_path}/catalog.db?timeout=30"
    more = {"spark": {"shuffle_partitions": 2}} if engine == "spark" else {}
    return make_lake(tmp_path / "home", place, catalog, engine, format_, **more)


@pytest.fixture(name="folder_lake")
def folder_lake_fixture(tmp_path: Path) -> Lake:
    """A lake that needs no server."""
    return make_lake(
        tmp_path / "home", StoreSettings(url=(tmp_path / "store").as_uri()), f"sqlite:///{tmp_path}/catalog.db?timeout=30"
    )


def make_lake(
    home: Path, store: StoreSettings, catalog: str, engine: str = "embedded", format_: Any = "iceberg", **more: Any
) -> Lake:
    """A lake from its parts."""
    settings = Settings.model_validate(
        {"home": home, "store": store, "catalog": CatalogSettings(url=SecretStr(catalog)), "engine": engine, "threads": 2, **more}
    )
    opened = open_store(settings.store)
    return Lake(settings, opened, format_)


def process(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A started process of its own that does some work, forked from one that has imported what it needs."""
    started = FORKS.Process(target=work, args=arguments)
    started.start()
    return started


def fresh_process(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """The same, spawned: of today's environment, and with no memory that is not its own. It costs the seconds of its imports."""
    started = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    started.start()
    return started


def catch_up(settings: Settings, table: Table, prefixes: Sequence[Sequence[LogEntry]], folder: str, barrier: Any = None) -> None:
    """What a process does: apply each prefix of a log in turn, again after every conflict, until nothing is left of it."""
    tables = open_tables(settings, open_store(settings.store))
    if barrier is not None:
        barrier.wait()
    for entries in prefixes:
        while True:
            try:
                tables.apply(SOURCE, table, entries, folder)
            except CommitConflict:
                continue
            break


def look_after(settings: Settings, table: Table, upto: int, done: Path, barrier: Any) -> None:
    """What another process does: write the rows into fresh files and forget versions, over and over, until all is applied.

    done: where each round leaves a letter once it has compacted.
    """
    tables = open_tables(settings, open_store(settings.store))
    barrier.wait()
    while True:
        state = tables.state(SOURCE, table)
        if state is None:
            continue
        with done.open("a") as file:
            try:
                tables.compact(SOURCE, table, list(tables.partitions(SOURCE, table)))
                file.write("c")
                tables.expire(SOURCE, table, Keep(3, datetime.now(UTC)))
            except CommitConflict:
                continue
        if state.current.marker.sequence == upto:
            return


def processes_done(processes: Sequence[BaseProcess], timeout: float = 240) -> None:
    """Wait until all are done; fails when one failed or is still busy."""
    for one in processes:
        one.join(timeout)
        assert one.exitcode == 0, one.exitcode


def overtaken(other: Callable[[], object], work: Callable[[], object]) -> None:
    """Do some work, and something else right before it commits."""

    begun = False

    def seen(point: str, moment: str) -> None:
        nonlocal begun
        if not begun and point in ("lake.commit", "lake.expire", "lake.rollback") and moment == "before":
            begun = True
            other()

    faults.watch(seen)
    try:
        work()
    finally:
        faults.watch(None)
