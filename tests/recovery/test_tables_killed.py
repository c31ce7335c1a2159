"""A process that is killed in the middle of an apply: the table is as it was or as it should be, and the next apply is exact."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from lakehouse.settings import Settings
from lakehouse.spec import LogEntry, Table
from lakehouse.spec.partitioning import bucket, days
from lakehouse.stores import open_store
from lakehouse.tables import open_tables
from tests.lakes import Lake, folder_lake_fixture, lake_fixture, process  # noqa: F401
from tests.rawlogs import SOURCE, Row, day

USERS = Table("users", "upsert", ("id",), cursor="at", event_time="at", partition=bucket("id", 3))
MOVERS = Table("movers", "upsert", ("id",), cursor="at", event_time="at", partition=days("at"))
FIELDS = {"id": "int64", "at": "timestamp", "n": "int32"}
KILLS = 4


def apply_and_die(
    settings: Settings, table: Table, entries: Sequence[LogEntry], folder: str, calls: int | None, count: Path
) -> None:
    """Apply, and be killed at a Python call of that number; without one, write down how many calls it took."""
    tables = open_tables(settings, open_store(settings.store))
    made = 0

    def on_event(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal made
        made += 1
        if made == calls:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(on_event)
    tables.apply(SOURCE, table, entries, folder)
    sys.setprofile(None)
    count.write_text(str(made))


@pytest.mark.parametrize("table", [USERS, MOVERS], ids=["in place", "moving rows"])
def test_a_process_killed_at_any_call_leaves_a_table_that_the_next_apply_makes_exact(
    lake: Lake, table: Table, tmp_path: Path
) -> None:
    log = lake.log(table, FIELDS, ("id",))
    expected: dict[int, Row] = {}

    def write(number: int) -> None:
        for key in range(number, number + 6):
            expected[key] = {"id": key, "at": day(number), "n": number}
        log.write("upsert", [expected[key] for key in range(number, number + 6)])

    write(1)
    lake.apply(log)
    write(2)
    count = tmp_path / "calls"
    counted = process(apply_and_die, lake.settings, log.table, log.entries, log.folder, None, count)
    counted.join(240)
    assert counted.exitcode == 0
    total, before = int(count.read_text()), 2
    dice = random.Random(3)
    shares = [dice.uniform(index / KILLS, (index + 1) / KILLS) for index in range(KILLS)]
    for number, share in enumerate(shares, start=3):
        write(number)
        killed = process(apply_and_die, lake.settings, log.table, log.entries, log.folder, max(1, int(total * share)), count)
        killed.join(240)
        assert killed.exitcode in (-signal.SIGKILL, 0)
        found = lake.marker(table).sequence
        assert found in (before, number)
        assert len(lake.rows(table)) == lake.marker(table).rows
        lake.apply(log)
        lake.check(log, list(expected.values()))
        before = number


def test_a_process_killed_while_it_writes_leaves_the_table_and_its_folder_is_swept(folder_lake: Lake) -> None:
    lake = folder_lake
    log = lake.log(USERS, FIELDS, ("id",))
    log.write("upsert", [{"id": key, "at": day(1), "n": 0} for key in range(10)])
    lake.apply(log)
    rows = [{"id": key, "at": day(2), "n": 1} for key in range(40_000)]
    log.write("upsert", rows)
    scratch = lake.settings.home / "tmp"
    writing = process(apply_and_die, lake.settings, log.table, log.entries, log.folder, None, lake.settings.home / "calls")
    deadline = time.monotonic() + 120
    while not list(scratch.glob("*/fold/group-0")):
        assert time.monotonic() < deadline
        assert writing.is_alive()
    assert writing.pid is not None
    os.kill(writing.pid, signal.SIGKILL)
    writing.join()
    assert lake.marker(USERS).sequence == 1
    (left,) = scratch.iterdir()
    lake.apply(log)
    lake.check(log, rows)
    assert left.exists(), "a folder that may be of a live process was removed"
    os.utime(left, (0, 0))
    log.write("upsert", [])
    lake.apply(log)
    assert not left.exists()
