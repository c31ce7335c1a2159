"""What a Postgres snapshot shows, up to when nothing is missing from it, and what happens when the server breaks it off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
import pytest

from lakehouse import services
from lakehouse.errors import ConfigurationError, SourceMismatch, SourceUnavailable, ValueRefused
from lakehouse.sources import SourceReader, SourceSnapshot, open_source
from lakehouse.sources.postgres import scan
from lakehouse.spec import Source, Table, Window, days
from tests.conftest import fresh_name
from tests.servers import Deployment

Connection = psycopg.Connection[tuple[Any, ...]]

EVENTS = Table("events", "append", ("id",), event_time="at", partition=days("at"))
WHOLE = Table("events", "snapshot", ("id",))
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
CREATE = "create table events (id bigint generated always as identity primary key, at timestamptz not null default now(), v text)"
INSERT = "insert into events default values"


@pytest.fixture
def database(postgres_database: str) -> str:
    """A database with an empty table of events, stamped `now()`."""
    run(postgres_database, CREATE)
    return postgres_database


def run(url: str, *statements: LiteralString) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def reader_of(url: str, *tables: Table) -> SourceReader:
    return open_source(Source("shop", "postgres", tables or (EVENTS,)), url)


def ids(snapshot: SourceSnapshot, window: Window | None = None, table: Table = EVENTS) -> list[int]:
    return sorted(row["id"] for batch in snapshot.read(table, window) for row in batch.to_pylist())


def one(connection: Connection, query: LiteralString) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


@contextmanager
def transaction(url: str) -> Iterator[Connection]:
    """A transaction that has begun and inserted a row."""
    with psycopg.connect(url) as connection:
        connection.execute(INSERT)
        yield connection


def test_a_late_commit_is_not_missed(database: str) -> None:
    reader = reader_of(database)
    run(database, INSERT)
    with transaction(database) as late:
        run(database, INSERT)
        with reader.snapshot() as snapshot:
            first = snapshot.position
            before = ids(snapshot, Window(LONG_AGO, first.bound))
        late.commit()
    with reader.snapshot() as snapshot:
        second = snapshot.position
        after = ids(snapshot, Window(first.bound, second.bound))
    assert first.exact
    assert second.exact
    assert before == [1]
    assert after == [2, 3]


def test_without_open_transactions_the_bound_is_the_clock(database: str) -> None:
    run(database, INSERT)
    with reader_of(database).snapshot() as snapshot:
        assert snapshot.position.bound == snapshot.position.taken_at
        assert ids(snapshot, Window(LONG_AGO, snapshot.position.bound)) == [1]
        assert set(snapshot.position.detail) == {"snapshot", "lsn", "server"}


def test_a_transaction_that_is_open_for_long_holds_the_bound_back_and_is_named(database: str) -> None:
    """It may still write, stamped with its start; so the bound waits for it, and the metadata say for whom."""
    reader = reader_of(database)
    with psycopg.connect(database, application_name="a long report") as reading:
        (began,) = one(reading, "select now()")
        run(database, INSERT)
        with reader.snapshot() as snapshot:
            assert snapshot.position.exact
            assert snapshot.position.bound == began
            assert "(a long report) has had a transaction open since" in snapshot.position.detail["held_back"]
            assert ids(snapshot, Window(LONG_AGO, snapshot.position.bound)) == []
    with reader.snapshot() as snapshot:
        assert "held_back" not in snapshot.position.detail
        assert ids(snapshot, Window(LONG_AGO, snapshot.position.bound)) == [1]


def test_a_snapshot_does_not_see_what_commits_later(database: str) -> None:
    run(database, INSERT)
    with reader_of(database).snapshot() as snapshot:
        run(database, INSERT, "delete from events where id = 1")
        assert ids(snapshot) == [1]
        assert [row for batch in snapshot.keys(EVENTS) for row in batch.to_pylist()] == [{"id": 1}]
        extent = snapshot.extent(EVENTS, "at")
        assert extent is not None
        assert extent[0] == extent[1]


def test_all_tables_are_read_at_one_moment(database: str) -> None:
    """Each transaction moves one row between two tables; a reader sees as many rows as ever."""
    run(database, "create table others (id bigint primary key)", "insert into others select generate_series(1, 200)")
    others = Table("others", "snapshot", ("id",))
    stop = threading.Event()

    def move() -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            while not stop.is_set():
                connection.execute(
                    "with gone as (delete from others where id = (select min(id) from others) returning id) "
                    "insert into events (v) select id::text from gone"
                )

    mover = threading.Thread(target=move)
    mover.start()
    try:
        with reader_of(database, WHOLE, others).snapshot() as snapshot:
            assert len(ids(snapshot, table=WHOLE)) + len(ids(snapshot, table=others)) == 200
    finally:
        stop.set()
        mover.join()


def test_a_transaction_in_another_database_does_not_hold_the_bound_back(database: str) -> None:
    other = database.rpartition("/")[0] + "/postgres"
    with psycopg.connect(other) as connection:
        connection.execute("select 1")
        with reader_of(database).snapshot() as snapshot:
            assert snapshot.position.bound == snapshot.position.taken_at


@pytest.fixture
def role(database: str) -> Iterator[tuple[str, str]]:
    """A role that may read events and nothing more: its URL and its name."""
    name = fresh_name()
    at = database.partition("://")[2].rpartition("@")[2]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"create role {name} login password 'plain'; grant select on events to {name}".encode())
        yield f"postgresql://{name}:plain@{at}", name
        connection.execute(f"drop owned by {name}; drop role {name}".encode())


def test_sessions_that_the_role_cannot_see_make_the_bound_inexact(database: str, role: tuple[str, str]) -> None:
    url, name = role
    with transaction(database) as hidden:
        with reader_of(url).snapshot() as snapshot:
            assert not snapshot.position.exact
            assert "pg_read_all_stats" in snapshot.position.detail["inexact"]
        run(database, f"grant pg_read_all_stats to {name}")
        with reader_of(url).snapshot() as snapshot:
            assert snapshot.position.exact
            assert snapshot.position.bound < snapshot.position.taken_at
        hidden.rollback()


def test_a_prepared_transaction_makes_the_bound_inexact(own_deployment: Deployment) -> None:
    settings = own_deployment.start(["postgres"])
    run(settings.catalog.url.get_secret_value(), "alter system set max_prepared_transactions = 2")
    services.stop(own_deployment.settings)
    url = own_deployment.start(["postgres"]).catalog.url.get_secret_value()
    run(url, CREATE)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("begin")
        connection.execute(INSERT)
        connection.execute("prepare transaction 'waiting'")
        with reader_of(url).snapshot() as snapshot:
            assert not snapshot.position.exact
            assert "prepared" in snapshot.position.detail["inexact"]
            assert snapshot.position.bound < snapshot.position.taken_at
        connection.execute("commit prepared 'waiting'")
        with reader_of(url).snapshot() as snapshot:
            assert snapshot.position.exact
            assert ids(snapshot) == [1]


def test_a_terminated_reader_is_an_error_and_the_process_lives(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB ends the process when it finds a lost connection while it cleans up; that must not happen here."""
    monkeypatch.setattr(scan, "_BATCH_BYTES", 1)
    run(database, "insert into events (v) select repeat(md5(i::text), 64) from generate_series(1, 60000) i")
    with reader_of(database, WHOLE).snapshot() as snapshot:
        batches = snapshot.read(WHOLE)
        next(batches)
        with psycopg.connect(database) as connection:
            killed = connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where query like 'COPY%' and state = 'active'"
            ).fetchall()
        assert killed == [(True,)]
        with pytest.raises(SourceUnavailable):
            list(batches)
        assert len(ids(snapshot, table=WHOLE)) == 60_000


def test_a_snapshot_whose_session_was_terminated_gives_no_more_rows(database: str) -> None:
    run(database, INSERT)
    with reader_of(database, WHOLE).snapshot() as snapshot:
        run(
            database,
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where application_name = 'lakehouse' and datname = current_database()",
        )
        with pytest.raises(SourceUnavailable):
            ids(snapshot, table=WHOLE)
        with pytest.raises(SourceUnavailable):
            snapshot.extent(WHOLE, "at")


def test_every_row_is_in_one_page_range(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_PAGES_PER_RANGE", 7)
    run(
        database,
        "insert into events (v) select repeat('x', i % 300) from generate_series(1, 20000) i",
        "delete from events where id % 7 = 0",
        "create table younger () inherits (events)",
        "insert into younger (id, v) select i, 'y' from generate_series(20001, 21000) i",
    )
    reader = reader_of(database, WHOLE)
    reader.check([WHOLE])
    run(database, "insert into events (v) select repeat('z', 500) from generate_series(1, 1000)")
    with reader.snapshot() as snapshot:
        found = [row["v"][:1] for batch in snapshot.read(WHOLE) for row in batch.to_pylist()]
    assert len(found) == 20_000 - 20_000 // 7 + 1000 + 1000
    assert found.count("y") == found.count("z") == 1000


def test_partitioned_tables_views_and_materialized_views_are_read_whole(database: str) -> None:
    run(
        database,
        "create table parts (id int, month int, primary key (id, month)) partition by range (month)",
        "create table parts_1 partition of parts for values from (1) to (2)",
        "create table parts_2 partition of parts for values from (2) to (3)",
        "insert into parts select i, 1 + i % 2 from generate_series(1, 1000) i",
        "create view seen as select * from parts",
        "create materialized view kept as select * from parts",
    )
    tables = [Table(name, "snapshot", ("id", "month")) for name in ("parts", "seen")]
    tables.append(Table("kept", "snapshot", ("id",)))
    reader = reader_of(database, *tables)
    reader.check(tables)
    with reader.snapshot() as snapshot:
        for table in tables:
            assert ids(snapshot, table=table) == list(range(1, 1001))


def test_a_key_that_no_index_vouches_for_is_an_error(database: str) -> None:
    run(
        database,
        "create table things (a int not null, b int, c int not null, primary key (a, c))",
        "create unique index on things (b)",
    )
    for key in (("a",), ("b",)):
        table = Table("things", "snapshot", key)
        with pytest.raises(SourceMismatch, match=f"key \\({key[0]}\\)") as error:
            reader_of(database, table).check([table])
        assert error.value.allowed == "(a, c)"
    table = Table("things", "snapshot", ("c", "a"))
    reader_of(database, table).check([table])


def test_a_row_without_the_time_that_windows_are_cut_by_is_refused(database: str) -> None:
    table = Table("things", "upsert", ("id",), cursor="changed_at")
    run(database, "create table things (id int primary key, changed_at timestamptz)", "insert into things values (1, now())")
    reader_of(database, table).check([table])
    run(database, "insert into things values (2, null)")
    with pytest.raises(ValueRefused, match="changed_at"):
        reader_of(database, table).check([table])


def test_an_infinite_time_is_refused_by_the_extent_too(database: str) -> None:
    run(database, INSERT, "insert into events (at) values ('infinity')")
    with reader_of(database).snapshot() as snapshot, pytest.raises(ValueRefused, match="infinity in row id=2"):
        snapshot.extent(EVENTS, "at")


def test_a_table_that_the_role_may_not_read_is_an_error_that_says_so(database: str, role: tuple[str, str]) -> None:
    run(database, "create table secrets (id int primary key)")
    table = Table("secrets", "snapshot", ("id",))
    with pytest.raises(ConfigurationError, match="secrets"):
        reader_of(role[0], table).check([table])


def test_a_missing_database_is_an_error_that_says_so(database: str) -> None:
    with pytest.raises(ConfigurationError, match="no_such_database"):
        reader_of(database.rpartition("/")[0] + "/no_such_database").check([EVENTS])
