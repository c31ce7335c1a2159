"""Engines on one table: in turn, at once, on a cluster whose workers die, over Spark Connect."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest

from lakehouse.services.ports import free_port
from lakehouse.services.processes import poll
from lakehouse.settings import Settings, StoreSettings
from lakehouse.spec import Table
from lakehouse.spec.partitioning import bucket, days
from tests.cluster import cluster, connect_server
from tests.lakes import Lake, catch_up, fresh_process, make_lake, processes_done
from tests.rawlogs import HandLog, Row, day, day_window

USERS = Table("users", "upsert", ("id",), cursor="at", event_time="at", partition=bucket("id", 3))
LOGS = Table("api_logs", "append", ("id",), event_time="at", partition=days("at"))
FIELDS = {"id": "int64", "at": "timestamp", "n": "int32", "tags": "list<string>"}
SPARK = {"shuffle_partitions": 2}


@pytest.fixture(name="lake", params=["iceberg", "delta"])
def lake_on_s3(request: pytest.FixtureRequest, s3_store: StoreSettings, postgres_database: str, tmp_path: object) -> Lake:
    """A lake of each format on S3, whose engine is the embedded one."""
    return make_lake(tmp_path / "home", s3_store, postgres_database, "embedded", request.param, spark=SPARK)  # type: ignore[operator]


def on(lake: Lake, **settings: object) -> Lake:
    """The same lake, seen by another engine."""
    return Lake(lake.settings.model_copy(update=settings), lake.store, lake.format)


def upserts(log: HandLog, first: int, last: int) -> None:
    """Entries of overlapping upserts."""
    for number in range(first, last + 1):
        log.write("upsert", [user(key, number) for key in range(number, number + 5)])


def user(key: int, number: int) -> Row:
    return {"id": key, "at": day(number), "n": number, "tags": [str(number), None]}


def expected(last: int) -> list[Row]:
    """The rows after entries 1 to `last`."""
    return [user(key, min(key, last)) for key in range(1, last + 5)]


def test_engines_take_turns_on_a_table_and_nothing_tells_who_folded(lake: Lake) -> None:
    log = lake.log(USERS, FIELDS, ("id",))
    spark = on(lake, engine="spark")
    for number, who in enumerate((lake, spark, lake, spark, lake), start=1):
        upserts(log, number, number)
        assert who.apply(log).entries == 1
        for reader in (lake, spark):
            reader.check(log, expected(number))
    assert [version.marker.sequence for version in lake.tables.history("shop", USERS)] == [1, 2, 3, 4, 5]
    first = lake.tables.history("shop", USERS)[0]
    spark.tables.rollback("shop", USERS, first.version)
    spark.apply(log)
    lake.check(log, expected(5))


def test_a_new_column_of_one_engine_is_known_to_the_other(lake: Lake) -> None:
    log = lake.log(USERS, FIELDS, ("id",))
    spark = on(lake, engine="spark")
    upserts(log, 1, 1)
    spark.apply(log)
    log.fields |= {"more": "struct<a:int64,b:list<string>>", "n": "int64"}
    rows = [{**user(2, 3), "n": 2**40, "more": {"a": 1, "b": ["x"]}}]
    log.write("upsert", rows)
    lake.apply(log)
    log.write("upsert", [{**user(3, 4), "more": {"a": None, "b": []}}])
    spark.apply(log)
    after = [*(row for row in expected(1) if row["id"] not in (2, 3)), *rows, {**user(3, 4), "more": {"a": None, "b": []}}]
    lake.check(log, after)
    spark.check(log, after)


def test_two_engines_that_apply_at_the_same_moment_apply_every_entry_once(lake: Lake) -> None:
    log = lake.log(USERS, FIELDS, ("id",))
    upserts(log, 1, 8)
    spark = on(lake, engine="spark").settings
    barrier = multiprocessing.get_context("spawn").Barrier(2)
    entries = [log.entries[:upto] for upto in range(1, 9)]
    busy = [fresh_process(catch_up, settings, log.table, entries, log.folder, barrier) for settings in (lake.settings, spark)]
    processes_done(busy, timeout=500)
    lake.check(log, expected(8))
    sequences = [version.marker.sequence for version in lake.tables.history("shop", USERS)]
    assert sequences == sorted(set(sequences)), "a watermark went back, or was committed twice"


@pytest.mark.parametrize("table", [USERS, LOGS])
def test_spark_reads_no_file_of_a_partition_that_the_batches_do_not_touch(
    lake: Lake, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lakehouse.tables.spark import engine, frames

    log = lake.log(table, FIELDS, ("id", "at"))
    if table is USERS:
        upserts(log, 1, 1)
    for number in (1, 2, 3) if table is LOGS else ():
        log.write("replace", [user(number, number)], window=day_window(number))
    lake.apply(log)
    if table is USERS:
        log.write("upsert", [user(1, 2)])
    else:
        log.write("replace", [user(9, 2)], window=day_window(2))
    read: list[str] = []
    plain = frames.read_files

    def noted(session: object, urls: list[str], fields: object) -> object:
        frame = plain(session, urls, fields)  # type: ignore[arg-type]
        read.extend(frame.inputFiles())
        return frame

    monkeypatch.setattr(engine, "read_files", noted)
    applied = on(lake, engine="spark").apply(log)
    assert len(applied.partitions) == 1
    assert len(read) == 1
    assert applied.partitions[0] in read[0]


@pytest.mark.parametrize("lake", ["iceberg"], indirect=True)  # a format knows nothing of workers
def test_a_cluster_whose_worker_dies_in_the_middle_of_a_fold_folds_exactly(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    log = lake.log(USERS, FIELDS, ("id",))
    upserts(log, 1, 3)
    with cluster(2) as workers:
        settings = on(lake, engine="spark", spark=lake.settings.spark.model_copy(update=cluster_settings(workers.url))).settings
        applying = fresh_process(catch_up, settings, log.table, [log.entries], log.folder)
        doomed = workers.processes[1]
        assert poll(lambda: workers.works(doomed), seconds=120), "no executor had anything to do"
        os.killpg(doomed.pid, signal.SIGKILL)
        workers.add_worker()
        processes_done([applying], timeout=500)
    lake.check(log, expected(3))


def cluster_settings(url: str) -> dict[str, object]:
    """Settings of Spark on a cluster of small workers on loopback."""
    loopback = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    return {"master": url, "executor_memory_mb": 512, "conf": loopback}


def test_a_driver_that_dies_leaves_nothing_that_the_next_run_does_not_mend(lake: Lake) -> None:
    log = lake.log(USERS, FIELDS, ("id",))
    upserts(log, 1, 3)
    lake.apply(log, 1)
    settings = on(lake, engine="spark").settings
    applying = fresh_process(killed_before_commit, settings, log)
    applying.join(300)
    assert applying.exitcode == -signal.SIGKILL
    lake.check(log, expected(1), sequence=1)
    on(lake, engine="spark").apply(log)
    lake.check(log, expected(3))


def killed_before_commit(settings: Settings, log: HandLog) -> None:
    """What a process does: fold with Spark, and die when its files are written."""
    from lakehouse import faults
    from lakehouse.stores import open_store
    from lakehouse.tables import open_tables

    os.setpgrp()
    faults.arm("lake.commit:before:kill")
    open_tables(settings, open_store(settings.store)).apply("shop", log.table, log.entries, log.folder)


@pytest.mark.parametrize("lake", ["delta"], indirect=True)  # nor of how the session came about
def test_spark_connect_folds_as_a_session_of_its_own_does(lake: Lake) -> None:
    log = lake.log(USERS, FIELDS, ("id",))
    upserts(log, 1, 2)
    with connect_server(lake.settings, free_port()) as address:
        remote = lake.settings.spark.model_copy(update={"remote": address})
        settings = on(lake, engine="spark", spark=remote).settings
        processes_done([fresh_process(catch_up, settings, log.table, [log.entries[:1], log.entries], log.folder)], timeout=300)
    lake.check(log, expected(2))
