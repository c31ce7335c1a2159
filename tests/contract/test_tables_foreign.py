"""Other tools that write to our tables while we apply: no commit of anybody is lost, and rows that are not ours are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.table.snapshots import Operation

from lakehouse import faults
from lakehouse.errors import CommitConflict, DamagedData
from lakehouse.settings import Settings, StoreSettings
from lakehouse.spec import LogEntry, Table
from lakehouse.spec.partitioning import bucket
from lakehouse.stores import open_store
from lakehouse.tables import open_tables
from lakehouse.tables.delta.opening import open_table
from lakehouse.tables.iceberg.catalog import LakeCatalog
from tests.lakes import Lake, make_lake, process, processes_done
from tests.rawlogs import SOURCE, HandLog, Row, day

USERS = Table("users", "upsert", ("id",), cursor="at", event_time="at", partition=bucket("id", 3))
FIELDS = {"id": "int64", "at": "timestamp", "n": "int32"}
ENTRIES = 12
WRITES = 6
"""Rows that somebody else appends, one by one, and after each a compaction."""


@pytest.fixture(name="lake", params=["iceberg", "delta"])
def lake_on_s3(request: pytest.FixtureRequest, s3_store: StoreSettings, postgres_database: str, tmp_path: Path) -> Lake:
    """A lake of each format on S3."""
    return make_lake(tmp_path / "home", s3_store, postgres_database, "embedded", request.param, spark={"shuffle_partitions": 2})


def user(key: int, number: int) -> Row:
    return {"id": key, "at": day(number), "n": number}


def filled(lake: Lake) -> HandLog:
    """The log of a table whose first entry is applied and whose others are not."""
    log = lake.log(USERS, FIELDS, ("id",))
    for number in range(1, ENTRIES + 1):
        log.write("upsert", [user(key, number) for key in range(number, number + 5)])
    lake.apply(log, 1)
    return log


EXPECTED = [user(key, min(key, ENTRIES)) for key in range(1, ENTRIES + 5)]


def apply_over_others(settings: Settings, table: Table, entries: Sequence[LogEntry], folder: str, said: Path, stop: Path) -> None:
    """Apply entry by entry, and again from the first, until told to stop; lead the table back when another tool's rows are in it.

    Each version of ours that was acknowledged is written down before the next thing happens.
    """
    tables = open_tables(settings, open_store(settings.store))
    while not stop.exists():
        for upto in range(1, len(entries) + 1):
            try:
                applied = tables.apply(SOURCE, table, entries[:upto], folder)
            except CommitConflict:
                continue
            except DamagedData:
                lead_back(settings, table)
                continue
            if applied.entries:
                with said.open("a") as file:
                    print(applied.state.current.version, file=file)
        lead_back(settings, table, sequence=1)


def lead_back(settings: Settings, table: Table, sequence: int | None = None) -> None:
    """Go back to the newest version of ours, or to the newest with a sequence."""
    tables = open_tables(settings, open_store(settings.store))
    ours = [v for v in tables.history(SOURCE, table) if sequence in (None, v.marker.sequence)]
    try:
        tables.rollback(SOURCE, table, ours[-1].version)
    except CommitConflict:
        return


def append_by_spark(settings: Settings, said: Path) -> None:
    """What somebody does with Spark's SQL on an Iceberg table: append a row, compact, and so on."""
    from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]  # it has no types
    from pyspark.errors import PySparkException

    from lakehouse.tables.spark.session import open_session

    session, name = open_session(settings), f"`{settings.catalog.name}`.{SOURCE}.users"
    written = 0
    while written < WRITES:
        try:
            session.sql(f"insert into {name} values ({1000 + written}, timestamp '2026-02-01', 0)")
        except (Py4JJavaError, PySparkException):
            continue  # it lost more races than Iceberg tries again
        written += 1
        with said.open("a") as file:
            print(1000 + written, file=file)
        try:
            options = "options => map('rewrite-all', 'true')"
            session.sql(
                f"call `{settings.catalog.name}`.system.rewrite_data_files(table => '{SOURCE}.users', {options})"
            ).collect()
        except (Py4JJavaError, PySparkException):
            continue  # what it compacts is gone by now


def append_by_delta_rs(settings: Settings, said: Path) -> None:
    """The same by delta-rs on a Delta table."""
    from deltalake.exceptions import CommitFailedError

    written = 0
    while written < WRITES:
        now = delta(settings).to_pyarrow_table()
        rows = pa.Table.from_pylist([{**now.slice(0, 1).to_pylist()[0], "id": 1000 + written}], schema=now.schema)
        try:
            write_deltalake(delta(settings), rows, mode="append")
        except CommitFailedError:
            continue  # what it read is gone by now
        written += 1
        with said.open("a") as file:
            print(1000 + written, file=file)
        try:
            delta(settings).optimize.compact()
        except CommitFailedError:
            continue


def delta(settings: Settings) -> DeltaTable:
    found = open_table(f"delta/{SOURCE}/users", settings.store)
    assert found is not None
    return found


@pytest.mark.timeout(600)
def test_of_all_commits_that_were_acknowledged_none_is_lost_whoever_made_them(lake: Lake, tmp_path: Path) -> None:
    log = filled(lake)
    stop, ours, theirs = tmp_path / "stop", tmp_path / "ours", tmp_path / "theirs"
    other = process(append_by_spark if lake.format == "iceberg" else append_by_delta_rs, lake.settings, theirs)
    appliers = [process(apply_over_others, lake.settings, log.table, log.entries, log.folder, ours, stop) for _ in range(2)]
    try:
        processes_done([other], timeout=400)
    finally:
        stop.touch()
        processes_done(appliers)
    acknowledged = [int(line) for line in ours.read_text().split()]
    assert len(set(acknowledged)) == len(acknowledged), "one version was acknowledged to two"
    assert set(acknowledged) <= {version.version for version in lake.tables.history(SOURCE, log.table)}
    assert appended(lake) == len(theirs.read_text().split()) == WRITES
    lead_back(lake.settings, log.table)
    lake.apply(log)
    lake.check(log, EXPECTED)


def append_one(lake: Lake) -> None:
    """A row that another tool appends."""
    if lake.format == "delta":
        now = delta(lake.settings)
        write_deltalake(now, now.to_pyarrow_table().slice(0, 1), mode="append")
        return
    table = LakeCatalog(lake.settings, lake.store.url).load(SOURCE, "users")
    assert table is not None
    table.append(table.scan().to_arrow().slice(0, 1))


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "answer lost"])
def test_a_commit_is_told_as_it_was_made_also_when_another_tool_commits_right_after_it(
    lake: Lake, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(lake)
    first = lake.tables.history(SOURCE, log.table)[-1]

    def interfere(point: str, moment: faults.Moment) -> None:
        if (point, moment) == (watched, "after"):
            faults.watch(None)
            append_one(lake)
            if lost:
                raise faults.FaultInjected(point)

    monkeypatch.setattr(faults, "_watch", None)  # taken back at the end, whatever happens
    watched = "lake.commit"
    faults.watch(interfere)
    applied = lake.tables.apply(SOURCE, log.table, log.entries[:2], log.folder)
    assert applied.state.current.marker.sequence == 2
    assert applied.state.current in lake.tables.history(SOURCE, log.table)
    lead_back(lake.settings, log.table)
    watched = "lake.rollback"
    faults.watch(interfere)
    if lost:
        with pytest.raises(CommitConflict):
            lake.tables.rollback(SOURCE, log.table, first.version)
    else:
        assert lake.tables.rollback(SOURCE, log.table, first.version).current.marker == first.marker
    with pytest.raises(DamagedData, match="Another tool wrote"):
        lake.tables.state(SOURCE, log.table)


def appended(lake: Lake) -> int:
    """Commits of other tools that added rows and are in the table's history."""
    if lake.format == "iceberg":
        table = LakeCatalog(lake.settings, lake.store.url).load(SOURCE, "users")
        assert table is not None
        appends = [s for s in table.metadata.snapshots if s.summary and s.summary.operation == Operation.APPEND]
        return sum("lakehouse.sequence" not in snapshot.summary.additional_properties for snapshot in appends if snapshot.summary)
    folder = f"{lake.tables.root(SOURCE, USERS)}/_delta_log"
    infos = [info.path for info in lake.store.list(folder) if info.path.endswith(".json")]
    commits = [[json.loads(line) for line in lake.store.get(path).splitlines()] for path in infos]
    told = [action["commitInfo"] for actions in commits for action in actions if "commitInfo" in action]
    return sum(info["operation"] == "WRITE" and "lakehouse" not in info for info in told)
