"""The embedded servers when things go wrong: killed, moved, doubled, broken."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import clickhouse_connect
import psycopg
import pymongo
import pytest

from lakehouse import services
from lakehouse.errors import ServiceFailed
from lakehouse.services.processes import Process, is_alive, started_at
from lakehouse.services.record import Record
from lakehouse.settings import Settings
from tests.servers import SOURCES, Deployment

ROWS = 200


def _write_postgres(settings: Settings) -> None:
    with psycopg.connect(settings.source_url("chronochat"), autocommit=True) as connection:
        connection.execute("create table kept (a int)")
        for number in range(ROWS):
            connection.execute("insert into kept values (%s)", [number])


def _read_postgres(settings: Settings) -> int:
    with psycopg.connect(settings.source_url("chronochat")) as connection:
        row = connection.execute("select count(*) from kept").fetchone()
        assert row is not None
        return int(row[0])


def _collection(settings: Settings) -> Any:
    return pymongo.MongoClient[dict[str, int]](settings.source_url("chronochat_mongo")).get_default_database()["kept"]


def _write_mongodb(settings: Settings) -> None:
    collection = _collection(settings)
    for number in range(ROWS):
        collection.insert_one({"a": number})


def _read_mongodb(settings: Settings) -> int:
    return int(_collection(settings).count_documents({}))


def _client(settings: Settings) -> Any:
    assert settings.store.access_key is not None
    assert settings.store.secret_key is not None
    return boto3.client(
        "s3",
        endpoint_url=settings.store.endpoint,
        region_name=settings.store.region,
        aws_access_key_id=settings.store.access_key.get_secret_value(),
        aws_secret_access_key=settings.store.secret_key.get_secret_value(),
    )


def _write_s3(settings: Settings, folder: str = "kept") -> None:
    client = _client(settings)
    for number in range(ROWS):
        client.put_object(Bucket="lakehouse", Key=f"{folder}/{number}", Body=f"{folder}{number}".encode())


def _read_s3(settings: Settings, folder: str = "kept") -> int:
    client = _client(settings)
    bodies = [client.get_object(Bucket="lakehouse", Key=f"{folder}/{number}")["Body"].read() for number in range(ROWS)]
    return sum(body == f"{folder}{number}".encode() for number, body in enumerate(bodies))


def _warehouse(settings: Settings) -> Any:
    place = settings.warehouse
    return clickhouse_connect.get_client(
        host=place.host,
        port=place.port,
        username=place.user,
        password=place.password.get_secret_value(),
        database=place.database,
    )


def _write_clickhouse(settings: Settings) -> None:
    client = _warehouse(settings)
    client.command("create table kept (a Int64) engine = MergeTree order by a")
    for number in range(0, ROWS, 20):
        client.insert("kept", [[number + more] for more in range(20)], column_names=["a"])


def _read_clickhouse(settings: Settings) -> int:
    return int(_warehouse(settings).command("select count() from kept"))


KEPT: dict[str, tuple[Callable[[Settings], None], Callable[[Settings], int]]] = {
    "postgres": (_write_postgres, _read_postgres),
    "mongodb": (_write_mongodb, _read_mongodb),
    "s3": (_write_s3, _read_s3),
    "clickhouse": (_write_clickhouse, _read_clickhouse),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_killed_server_starts_again_with_everything_it_acknowledged(name: str, own_deployment: Deployment) -> None:
    write, read = KEPT[name]
    write(own_deployment.start([name]))
    old = own_deployment.kill(name)
    assert own_deployment.status(name).state == "stopped"
    settings = own_deployment.start([name])
    assert read(settings) == ROWS
    assert own_deployment.status(name).pid not in (None, old)


def test_objects_written_after_a_kill_leave_the_earlier_ones_alone(own_deployment: Deployment) -> None:
    for written in range(2):
        _write_s3(own_deployment.start(["s3"]), f"round{written}-")
        own_deployment.kill("s3")
    settings = own_deployment.start(["s3"])
    assert [_read_s3(settings, f"round{written}-") for written in range(2)] == [ROWS, ROWS]


@pytest.mark.parametrize("name", KEPT)
def test_a_server_whose_port_was_taken_moves_and_keeps_its_data(name: str, own_deployment: Deployment) -> None:
    write, read = KEPT[name]
    write(own_deployment.start([name]))
    services.stop(own_deployment.settings)
    address = own_deployment.status(name).address
    assert address is not None
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        settings = own_deployment.start([name])
        assert own_deployment.status(name).address != address
        assert read(settings) == ROWS


def test_a_hanging_server_is_unhealthy_and_is_started_again(own_deployment: Deployment) -> None:
    own_deployment.start(["postgres"])
    pid = own_deployment.status("postgres").pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert own_deployment.status("postgres").state == "unhealthy"
    assert services.start(own_deployment.settings, SOURCES, only=["postgres"]).started == ("postgres",)
    assert own_deployment.status("postgres").state == "running"
    assert started_at(pid) is None


def test_another_program_behind_a_recycled_pid_is_neither_taken_for_ours_nor_stopped(own_deployment: Deployment) -> None:
    home = own_deployment.settings.home.resolve()
    own_deployment.start(["postgres"])
    own_deployment.kill("postgres")
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as stranger:
        try:
            _say_that_it_runs_as(home, stranger.pid)
            assert own_deployment.status("postgres").state == "stopped"
            assert services.stop(own_deployment.settings) == ()
            assert stranger.poll() is None
            _say_that_it_runs_as(home, stranger.pid)
            own_deployment.start(["postgres"])
            assert own_deployment.status("postgres").state == "running"
            assert stranger.poll() is None
        finally:
            stranger.kill()


def _say_that_it_runs_as(home: Path, pid: int) -> None:
    """Make our record, and Postgres's own lock file, name this pid, as if the system had given it out again."""
    record = Record(home)
    record.put(replace(record.services["postgres"], process=Process(pid, "1")))
    lock = home / "data" / "postgres" / "db" / "postmaster.pid"
    lines = lock.read_text().splitlines(keepends=True) if lock.exists() else ["\n"]
    lock.write_text("".join([f"{pid}\n", *lines[1:]]))


def test_a_server_whose_starter_was_killed_before_it_was_recorded_is_found(own_deployment: Deployment) -> None:
    own_deployment.start(["mongodb"])
    pid = own_deployment.status("mongodb").pid
    Record(own_deployment.settings.home.resolve()).running("mongodb", None)
    assert services.start(own_deployment.settings, SOURCES, only=["mongodb"]).started == ()
    assert own_deployment.status("mongodb").pid == pid


START = """
import sys
from pathlib import Path
from lakehouse import services
from lakehouse.settings import load_settings
started = services.start(load_settings(home=Path(sys.argv[1])), {"chronochat": "postgres"}, only=["postgres"])
print(",".join(started.started), started.addresses["postgres"])
"""


def test_two_starts_at_once_start_one_server(own_deployment: Deployment) -> None:
    command = [sys.executable, "-c", START, str(own_deployment.settings.home)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(words[0] for words in said if len(words) == 2) == ["postgres"]
    assert said[0][-1] == said[1][-1]


def test_servers_outlive_the_command_that_started_them(own_deployment: Deployment) -> None:
    subprocess.run([sys.executable, "-c", START, str(own_deployment.settings.home)], check=True, capture_output=True)
    assert own_deployment.status("postgres").state == "running"


def test_two_deployments_side_by_side_do_not_meet(postgres: Settings, own_deployment: Deployment) -> None:
    other = own_deployment.start(["postgres"])
    assert other.source_url("chronochat") != postgres.source_url("chronochat")
    _write_postgres(other)
    with psycopg.connect(postgres.source_url("chronochat")) as connection:
        assert connection.execute("select to_regclass('kept')").fetchone() == (None,)


def test_a_server_that_fails_to_start_shows_the_end_of_its_log(own_deployment: Deployment) -> None:
    own_deployment.start(["postgres"])
    services.stop(own_deployment.settings)
    control = own_deployment.settings.home / "data" / "postgres" / "db" / "global" / "pg_control"
    content = control.read_bytes()
    control.unlink()
    with pytest.raises(ServiceFailed, match=r"could not find the database system|pg_control") as failure:
        own_deployment.start(["postgres"])
    assert str(own_deployment.settings.home / "logs" / "postgres.log") in str(failure.value)
    assert own_deployment.status("postgres").pid is None
    control.write_bytes(content)
    own_deployment.start(["postgres"])


def test_a_failing_server_does_not_take_the_others_down(own_deployment: Deployment) -> None:
    own_deployment.start(["postgres"])
    services.stop(own_deployment.settings)
    (own_deployment.settings.home / "data" / "postgres" / "db" / "PG_VERSION").write_text("1\n")
    with pytest.raises(ServiceFailed, match="starting postgres"):
        own_deployment.start(["postgres", "mongodb"])
    assert own_deployment.status("mongodb").state == "running"


def test_data_without_their_password_are_left_alone(own_deployment: Deployment) -> None:
    own_deployment.start(["mongodb"])
    services.stop(own_deployment.settings)
    (own_deployment.settings.home / "services.json").unlink()
    with pytest.raises(ServiceFailed, match="does not hold their password"):
        own_deployment.start(["mongodb"])


def test_stopping_waits_until_all_are_gone_and_keeps_the_data(own_deployment: Deployment) -> None:
    _write_postgres(own_deployment.start(["postgres", "mongodb"]))
    record = Record(own_deployment.settings.home.resolve())
    assert services.stop(own_deployment.settings) == ("mongodb", "postgres")
    assert not [service for service in record.services.values() if is_alive(service.process)]
    assert services.stop(own_deployment.settings) == ()
    assert _read_postgres(own_deployment.start(["postgres"])) == ROWS


def test_a_wipe_removes_what_is_ours_and_nothing_else(own_deployment: Deployment) -> None:
    home = own_deployment.settings.home
    own_deployment.start(["postgres"])
    mine = home / "notes.txt"
    mine.write_text("mine")
    services.stop(own_deployment.settings, wipe=True)
    assert [path.name for path in home.iterdir()] == ["notes.txt"]
    mine.unlink()
    own_deployment.start(["postgres"])
    services.stop(own_deployment.settings, wipe=True)
    assert not home.exists()


def test_the_privacy_key_is_made_once_and_kept(own_deployment: Deployment) -> None:
    first = own_deployment.start(["postgres"]).privacy_key.get_secret_value()
    assert len(first) == 64
    assert own_deployment.start(["postgres"]).privacy_key.get_secret_value() == first
