"""The embedded ClickHouse, killed outright: what it acknowledged is there afterwards."""

from __future__ import annotations

import http.client
import random
import signal
import threading
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from tests.clickhouse_server import PASSWORD, USER, ClickHouseServer, clickhouse_server


class Writer(threading.Thread):
    """Sends statements, each with the next number, until the server is gone; keeps the last number that was acknowledged."""

    def __init__(self, server: ClickHouseServer, statement: Callable[[int], str], start: int) -> None:
        super().__init__()
        self._server = server
        self._statement = statement
        self.acknowledged = start

    def run(self) -> None:
        headers = {"Authorization": "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        try:
            while True:
                number = self.acknowledged + 1
                connection.request("POST", "/?" + urlencode({"database": "kept"}), self._statement(number), headers)
                response = connection.getresponse()
                content = response.read()
                assert response.status == 200, content
                self.acknowledged = number
        except (OSError, http.client.HTTPException):
            return


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    dice = random.Random(7)
    with clickhouse_server(tmp_path / "db") as server:
        with server.client() as client:
            client.command("create database kept engine = Atomic")
            client.command("create table kept.rows (n UInt64, t String) engine = MergeTree order by n partition by n % 3")
            client.command("create table kept.changing (n UInt64) engine = MergeTree order by n")
        rows, columns = 0, 0
        for _ in range(3):
            writers = [
                Writer(server, lambda n: f"INSERT INTO rows SELECT number, 'text' FROM numbers({n * 10}, 10)", rows),
                Writer(server, lambda n: f"ALTER TABLE changing ADD COLUMN c{n} String", columns),
            ]
            for writer in writers:
                writer.start()
            goal = rows + dice.randrange(3, 10)
            while writers[0].is_alive() and writers[0].acknowledged < goal:
                writers[0].join(0.01)
            server.end(signal.SIGKILL)
            for writer in writers:
                writer.join()
            server.restart()
            assert writers[0].acknowledged >= goal
            with server.client(database="kept") as client:
                found = client.query("select n from rows order by n").result_columns[0]
                rows = len(found) // 10
                # One insert may have been taken in and not acknowledged; its partitions are parts of their own.
                assert list(found)[: writers[0].acknowledged * 10] == list(range(10, writers[0].acknowledged * 10 + 10))
                assert len(found) <= (writers[0].acknowledged + 1) * 10
                client.command(
                    f"alter table rows delete where n >= {(writers[0].acknowledged + 1) * 10} settings mutations_sync = 2"
                )
                rows = writers[0].acknowledged
                columns = client.command("select count() from system.columns where table = 'changing' and name like 'c%'")
                assert columns >= writers[1].acknowledged


def test_an_exchange_is_whole_when_the_server_is_killed(tmp_path: Path) -> None:
    with clickhouse_server(tmp_path / "db") as server:
        with server.client() as client:
            client.command("create database kept engine = Atomic")
            for name in ("live", "next"):
                client.command(f"create table kept.{name} (n UInt64) engine = MergeTree order by n")
                client.command(f"insert into kept.{name} select number from numbers({100 if name == 'live' else 200})")
        for _ in range(3):
            writer = Writer(server, lambda _: "EXCHANGE TABLES live AND next", 0)
            writer.start()
            while writer.is_alive() and writer.acknowledged < 5:
                writer.join(0.01)
            server.end(signal.SIGKILL)
            writer.join()
            server.restart()
            with server.client(database="kept") as client:
                sizes = {client.command(f"select count() from {name}") for name in ("live", "next")}
            assert sizes == {100, 200}


def test_a_lock_of_a_dead_process_does_not_block_the_next(tmp_path: Path) -> None:
    with clickhouse_server(tmp_path / "db") as server:
        for _ in range(2):
            server.end(signal.SIGKILL)
            assert (server.path / "server.lock").exists()
            server.restart()
