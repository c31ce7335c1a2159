"""What becomes of a read when connections are lost, tables are rewritten, or the server has had enough of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import psycopg
import pyarrow as pa
import pytest
from pydantic import SecretStr

from lakehouse import Column, Load, Source, Table
from lakehouse.errors import ConfigurationError, DeclarationError, SourceUnavailable, Unsupported
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.services.processes import poll
from lakehouse.settings import Settings, SourceSettings, StoreSettings
from lakehouse.sources import open_source
from lakehouse.sources.postgres import scan
from lakehouse.sources.reader import SourceReader
from lakehouse.spec.declaration import Mode

THINGS = Table("things", "snapshot", ("id",))
CHANGING = Table("things", "upsert", ("id",), cursor="at")
ROWS = 24_000
T = TypeVar("T")


@pytest.fixture
def database(postgres_database: str) -> str:
    """A database with a table of several ranges of pages."""
    run(
        postgres_database,
        "create table things (id int primary key, at timestamptz not null default now() - interval '1 hour', v text not null)",
        f"insert into things (id, v) select i, repeat(md5(i::text), 20) from generate_series(1, {ROWS}) i",
    )
    return postgres_database


@pytest.fixture(autouse=True)
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_PAGES_PER_RANGE", 100)
    monkeypatch.setattr(scan, "_BATCH_BYTES", 2**20)
    monkeypatch.setattr(scan, "_HELD_BYTES", 2**30)


def run(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements, each committed; the rows of the last."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def reader_of(url: str, load: Load | None = None, table: Table = THINGS) -> SourceReader:
    return open_source(Source("shop", "postgres", (table,), load=load or Load()), url)


def ids(batches: Iterator[pa.RecordBatch]) -> list[int]:
    return sorted(number for batch in batches for number in batch.column("id").to_pylist())


def deployment_on(database: str, folder: Path, *tables: Table) -> Deployment:
    """A deployment without lake and warehouse."""
    source = Source("shop", "postgres", tables or (THINGS,))
    store = StoreSettings(url=(folder / "store").as_uri())
    settings = Settings.model_construct(
        home=folder / "home", store=store, sources={"shop": SourceSettings(url=SecretStr(database))}
    )
    return Deployment(settings, (source,))


class Ranges:
    """Counts the readings of ranges by the scanner."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began = 0
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self._read = scan.SnapshotScanner._read
        ranges = self

        def read(scanner: scan.SnapshotScanner, what: scan.Scan, condition: str, dropped: Any) -> Iterator[pa.RecordBatch]:
            yield from ranges._hooked(scanner, what, condition, dropped)

        monkeypatch.setattr(scan.SnapshotScanner, "_read", read)

    def _hooked(self, scanner: scan.SnapshotScanner, what: scan.Scan, condition: str, dropped: Any) -> Iterator[pa.RecordBatch]:
        with self._lock:
            self.began += 1
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            with closing(self._read(scanner, what, condition, dropped)) as batches:
                yield from batches
        finally:
            with self._lock:
                self._now -= 1


def killed_in_the_middle(database: str, kills: int, work: Callable[[], T]) -> Future[T]:
    """`work`, ended, that read the view `braked`: the session that reads it was terminated at its 12,000th row so many times."""
    run(
        database,
        "create function brake(id int) returns int stable language plpgsql as "
        "$$ begin if id = 12000 then perform pg_advisory_xact_lock_shared(77); end if; return id; end $$",
        "create view braked as select brake(id) as id, at, v from things",
    )
    standing = "from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like 'COPY%'"
    with psycopg.connect(database, autocommit=True) as holder, ThreadPoolExecutor(1) as pool:
        holder.execute("select pg_advisory_lock(77)")
        reading = pool.submit(work)
        for _ in range(kills):
            assert poll(lambda: run(database, f"select pg_terminate_backend(pid, 5000) {standing}") == [(True,)], seconds=30)
        holder.execute("select pg_advisory_unlock(77)")
        return reading


@pytest.mark.parametrize("kills", [1, 2])
def test_a_connection_that_is_lost_in_the_middle_of_a_range_costs_reading_that_range_again(
    database: str, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    ranges = Ranges(monkeypatch)
    table = Table("braked", "snapshot", ("id",))
    with reader_of(database, table=table).snapshot() as snapshot:
        run(database, "delete from things where id % 2 = 0", "insert into things (id, v) values (0, 'late')")
        reading = killed_in_the_middle(database, kills, lambda: ids(snapshot.read(table)))
        assert reading.result() == list(range(1, ROWS + 1))
    assert ranges.began == kills + 1


def test_a_range_is_not_read_for_ever(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Ranges(monkeypatch)
    table = Table("braked", "snapshot", ("id",))
    with reader_of(database, table=table).snapshot() as snapshot:
        reading = killed_in_the_middle(database, 3, lambda: ids(snapshot.read(table)))
        with pytest.raises(SourceUnavailable, match="terminating connection"):
            reading.result()
    assert ranges.began == 3


@pytest.mark.parametrize("mode", ["snapshot", "upsert"])
def test_a_range_of_which_rows_were_given_out_is_landed_once_by_the_same_run(
    database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: Mode
) -> None:
    monkeypatch.setattr(scan, "_HELD_BYTES", 0)
    table = Table("braked", mode, ("id",), cursor="at" if mode == "upsert" else None)
    deployment = deployment_on(database, tmp_path, table)
    source = deployment.sources[0]
    [result] = killed_in_the_middle(database, 2, lambda: extract_source(deployment, source, [table])).result()
    assert result.error is None
    assert " ".join(result.notes).count("read again") == 2
    assert result.rows == ROWS
    assert ids(deployment.log(source, table).read(result.entries[0])) == list(range(1, ROWS + 1))


@pytest.mark.parametrize("change", ["truncate things", "vacuum full things", "cluster things using things_pkey",
                                    "alter table things alter id type bigint"])  # fmt: skip
def test_a_table_that_is_rewritten_while_it_is_read_is_no_shorter_table(
    database: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """An older snapshot does not protect from it: after TRUNCATE the table is empty for it too."""
    reader = reader_of(database, Load(connections=1))
    with reader.snapshot() as snapshot:
        batches = snapshot.read(THINGS)
        first = next(batches).num_rows
        run(database, "set lock_timeout = '20s'", change)
        with pytest.raises(SourceUnavailable, match="truncated or rewritten"):
            first += sum(batch.num_rows for batch in batches)
        with pytest.raises(SourceUnavailable, match="truncated or rewritten"):
            list(snapshot.read(THINGS))


def test_a_table_that_was_truncated_after_the_snapshot_is_not_read_as_empty(database: str) -> None:
    run(database, "create view seen as select * from things", "create table parent (like things) partition by range (id)",
        f"alter table parent attach partition things for values from (0) to ({ROWS + 1})")  # fmt: skip
    tables = [Table(name, "snapshot", ("id",)) for name in ("things", "seen", "parent")]
    with open_source(Source("shop", "postgres", tuple(tables)), database).snapshot() as snapshot:
        run(database, "truncate things")
        for table in tables:
            with pytest.raises(SourceUnavailable, match="truncated"):
                list(snapshot.read(table))
        with pytest.raises(SourceUnavailable, match="truncated"):
            snapshot.extent(THINGS, "at")


def test_a_declared_load_bounds_the_sessions_that_read(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for connections in (1, 3):
        ranges = Ranges(monkeypatch)
        with reader_of(database, Load(connections=connections)).snapshot() as snapshot:
            readings = [threading.Thread(target=lambda: ids(snapshot.read(THINGS))) for _ in range(3)]
            for reading in readings:
                reading.start()
            for reading in readings:
                reading.join()
        assert ranges.most_at_once <= connections


def test_a_reader_rests_between_ranges(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(scan, "time", SimpleNamespace(sleep=rests.append))
    ranges = Ranges(monkeypatch)
    with reader_of(database, Load(pause=timedelta(milliseconds=250))).snapshot() as snapshot:
        assert len(ids(snapshot.read(THINGS))) == ROWS
    assert rests == [0.25] * ranges.began


def test_a_statement_that_runs_too_long_is_ended_by_the_server(database: str) -> None:
    run(database, "create view slow as select id, pg_sleep(30)::text as v from things")
    slow = Table("slow", "snapshot", ("id",))
    reader = reader_of(database, Load(statement_timeout=timedelta(milliseconds=50)), slow)
    with reader.snapshot() as snapshot, pytest.raises(SourceUnavailable, match="statement timeout") as error:
        list(snapshot.read(slow))
    assert "statement_timeout" in error.value.remedy


def test_a_table_that_is_locked_is_not_waited_for_longer_than_declared(database: str) -> None:
    with (
        psycopg.connect(database) as holder,
        reader_of(database, Load(lock_timeout=timedelta(milliseconds=50))).snapshot() as snapshot,
    ):
        holder.execute("lock table things in access exclusive mode")
        with pytest.raises(SourceUnavailable, match="lock timeout") as error:
            list(snapshot.read(THINGS))
        holder.rollback()
        assert len(ids(snapshot.read(THINGS))) == ROWS
    assert "lock_timeout" in error.value.remedy


def test_between_ranges_no_lock_is_held(database: str) -> None:
    """An application may change its tables while a run is on; only the reading of one range holds it up."""
    with reader_of(database).snapshot() as snapshot:
        assert len(ids(snapshot.read(THINGS))) == ROWS
        snapshot.extent(THINGS, "at")
        held = run(database, "select count(*) from pg_locks where relation = 'things'::regclass")
        assert held == [(0,)]


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ("sslmode=require", "does not support SSL"),
        ("sslmode=verify-full&sslrootcert=system", "does not support SSL"),
        ("sslmode=require&sslcert=/nowhere/client.crt&sslkey=/nowhere/client.key", "does not support SSL"),
        ("sslmode=never", "sslmode"),
    ],
)
def test_tls_that_the_server_or_the_files_do_not_allow_is_a_matter_of_the_url(database: str, parameters: str, shown: str) -> None:
    """The embedded server was built without TLS, so this is how far it goes here."""
    with pytest.raises(ConfigurationError, match="LAKEHOUSE_SOURCES__SHOP__URL") as error:
        reader_of(f"{database}?{parameters}").check([THINGS])
    assert shown in str(error.value.value)


def test_a_load_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(DeclarationError, match="connections"):
        Load(connections=0)
    with pytest.raises(DeclarationError, match="pause"):
        Load(pause=timedelta(seconds=-1))


def test_only_postgres_is_given_a_replica() -> None:
    table = Table("things", "snapshot", ("_id",), columns=(Column("_id", "string"),))
    with pytest.raises(Unsupported, match="readPreference"):
        open_source(Source("clicks", "mongodb", (table,)), "mongodb://127.0.0.1/x", "mongodb://127.0.0.1/x")
    sources = {"shop": SourceSettings(url=SecretStr("postgresql://a/b"), replica_url=SecretStr("postgresql://c/b"))}
    settings = Settings.model_construct(sources=sources)
    assert settings.replica_url("shop") == "postgresql://c/b"
    assert "postgresql" not in repr(settings)
