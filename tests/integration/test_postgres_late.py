"""Rows that commit late, by many writers, on a primary and behind a replica: windows hold each of them once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lakehouse.errors import ConfigurationError, SourceUnavailable
from lakehouse.services.ports import HOST
from lakehouse.services.postgres import binaries, identity
from lakehouse.services.processes import poll
from lakehouse.sources import SourceReader, SourceSnapshot, open_source
from lakehouse.sources.postgres import snapshot as snapshots
from lakehouse.spec import Source, Table, Window, days
from tests.clickhouse_server import free_port
from tests.lakes import process, processes_done
from tests.servers import Deployment

EVENTS = Table("events", "append", ("id",), event_time="at", partition=days("at"))
SOURCE = Source("shop", "postgres", (EVENTS,))
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
CREATE = "create table events (id bigint generated always as identity primary key, at timestamptz not null default now(), v int)"
PROCESSES, WRITERS, WINDOWS, ROWS = 3, 20, 12, 200


def run(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements, each committed; the rows of the last."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def ids(snapshot: SourceSnapshot, low: datetime, high: datetime) -> list[int]:
    """The ids of a window's rows, doubled ones twice."""
    window = Window(low, high)
    return [number for batch in snapshot.read(EVENTS, window) for number in batch.column("id").to_pylist()] if high > low else []


def write_until_told(url: str, seed: int, enough: Path) -> None:
    """Some writers of one process; each commits, or not, some moments after its transaction began, or at once."""

    def write(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        with psycopg.connect(url) as connection:
            while not enough.exists():
                for _ in range(chance.randrange(1, 3)):
                    connection.execute("insert into events (v) values (%s)", (number,))
                    connection.execute("select pg_sleep(%s)", (chance.choice((0, 0, 0.01, 0.05, 0.2)) * chance.random(),))
                if chance.random() < 0.1:
                    connection.rollback()
                else:
                    connection.commit()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()


def test_windows_hold_every_row_of_sixty_writers_once(postgres_database: str, tmp_path: Path) -> None:
    run(postgres_database, CREATE, "create index on events (at)")
    reader = open_source(SOURCE, postgres_database)
    enough = tmp_path / "enough"
    writers = [process(write_until_told, postgres_database, number, enough) for number in range(PROCESSES)]
    found: list[int] = []
    windows, low = 0, LONG_AGO
    try:
        while windows < WINDOWS or len(found) <= ROWS:
            low = read_on(reader, low, found)
            windows += len(found) > 0
            assert all(writer.is_alive() for writer in writers)
    finally:
        enough.touch()
    processes_done(writers)
    read_on(reader, low, found)
    everything = [number for (number,) in run(postgres_database, "select id from events order by id")]
    assert sorted(found) == everything


def read_on(reader: SourceReader, low: datetime, found: list[int]) -> datetime:
    """Read the window from the last bound to the one of now."""
    with reader.snapshot() as snapshot:
        assert snapshot.position.exact
        found += ids(snapshot, low, snapshot.position.bound)
        return max(low, snapshot.position.bound)


@contextmanager
def replica_of(url: str, folder: Path) -> Iterator[str]:
    """The URL of a streaming replica of a server."""
    data, port = folder / "replica", free_port()
    copy = [str(binaries() / "pg_basebackup"), "-d", url, "-D", str(data), "-R", "-X", "stream", "-c", "fast"]
    subprocess.run([*identity(), *copy], check=True, capture_output=True, cwd=folder)
    options = {
        "port": port,
        "listen_addresses": HOST,
        "unix_socket_directories": "",
        "max_connections": 200,
        "wal_level": "logical",
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (folder / "replica.log").open("w") as log:
        server = subprocess.Popen([*identity(), str(binaries() / "postgres"), "-D", str(data), *settings], stderr=log, cwd=folder)
    parts = psycopg.conninfo.conninfo_to_dict(url)
    replica = f"postgresql://{parts['user']}:{parts['password']}@{HOST}:{port}/{parts['dbname']}"
    try:
        assert poll(lambda: answers(replica), seconds=30), (folder / "replica.log").read_text()
        yield replica
    finally:
        os.kill(server.pid, signal.SIGINT)
        server.wait(timeout=30)


def answers(url: str) -> bool:
    """Whether a server lets clients in."""
    try:
        return run(url, "select 1") == [(1,)]
    except psycopg.OperationalError:
        return False


def test_a_replica_is_as_exact_as_its_primary_where_both_are_named(
    own_deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_deployment.start(["postgres"]).sources["chronochat"].url.get_secret_value()
    run(url, CREATE, "insert into events (v) values (1)")
    with replica_of(url, own_deployment.settings.home) as replica:
        the_replica_alone_is_not_exact(url, replica)
        late_commits_of_the_primary_are_not_missed(url, replica)
        a_replica_that_lags_is_waited_for(url, replica, monkeypatch)
    with pytest.raises(ConfigurationError, match="a server of its own"), open_source(SOURCE, url, url).snapshot():
        pass


def the_replica_alone_is_not_exact(url: str, replica: str) -> None:
    with psycopg.connect(url) as late:
        late.execute("insert into events (v) values (2)")
        with open_source(SOURCE, replica).snapshot() as snapshot:
            assert not snapshot.position.exact
            assert "replica_url" in snapshot.position.detail["inexact"]
        late.rollback()


def late_commits_of_the_primary_are_not_missed(url: str, replica: str) -> None:
    reader = open_source(SOURCE, url, replica)
    reader.check([EVENTS])
    with psycopg.connect(url) as late:
        late.execute("insert into events (v) values (3)")
        run(url, "insert into events (v) values (4)")
        with reader.snapshot() as snapshot:
            first = snapshot.position
            before = ids(snapshot, LONG_AGO, first.bound)
            on_primary = "select count(*) from pg_stat_activity where query like 'COPY%' or query like '%pg_export_snapshot%'"
            assert run(url, f"{on_primary} and pid <> pg_backend_pid()") == [(0,)]
        late.commit()
    with reader.snapshot() as snapshot:
        after = ids(snapshot, first.bound, snapshot.position.bound)
        assert snapshot.position.detail["read_from"] == "a replica"
        assert snapshot.position.exact
    assert first.exact
    assert sorted(before + after) == [number for (number,) in run(url, "select id from events order by id")]
    assert len(after) == 2


def a_replica_that_lags_is_waited_for(url: str, replica: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_source(SOURCE, url, replica)
    run(replica, "select pg_wal_replay_pause()")
    run(url, "insert into events (v) values (5)")
    with monkeypatch.context() as impatient:
        impatient.setattr(snapshots, "_REPLAY_SECONDS", 0.1)
        with pytest.raises(SourceUnavailable, match="bytes behind"), reader.snapshot():
            pass
    resume = threading.Timer(0.3, run, (replica, "select pg_wal_replay_resume()"))
    resume.start()
    with reader.snapshot() as snapshot:
        assert len(ids(snapshot, LONG_AGO, snapshot.position.bound)) == 4
    resume.join()
