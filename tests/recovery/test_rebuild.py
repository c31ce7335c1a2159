"""A rebuild that is killed, or that meets runs: readers see the table as it was or as it is to be, and the next one ends it."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lakehouse import Column, Source, Table, bucket, days, faults
from lakehouse.errors import CommitConflict
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.rebuild import plan_rebuild, rebuild_table
from lakehouse.pipeline.repair_record import REBUILDS, read_records
from lakehouse.settings import Settings
from tests.crash.forks import FORKS
from tests.shop import FIRST, SHOP, Shop

ORDERS, CUSTOMERS = SHOP.tables[:2]
DECLARED = (
    replace(CUSTOMERS, partition=bucket("id", 2), columns=(Column("visits", "int32"),)),
    replace(CUSTOMERS, partition=days("created_at"), columns=(Column("visits", "string"),)),
)
"""Two declarations of one table that a rebuild leads from one to the other, by landing it anew and by other partitions."""


def only(table: Table) -> Source:
    return replace(SHOP, tables=(table,))


def process(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A started process of its own."""
    started = FORKS.Process(target=work, args=arguments)
    started.start()
    return started


def rebuild_under_fault(settings: Settings, table: Table, fault: str, seen: Path) -> None:
    """Rebuild a table in a process group of its own, and die at a fault point; without one, write down those that are passed."""
    os.setpgrp()
    deployment = Deployment(settings, (only(table),))
    deployment.warehouse.write_statistics_marker({"shop.customers": 1})
    plan = plan_rebuild(deployment, only(table), table)
    if fault:
        faults.arm(fault)
    else:
        faults.watch(lambda point, moment: _note(seen, point, moment))
    rebuild_table(deployment, only(table), table, plan)


def _note(seen: Path, point: str, moment: str) -> None:
    with seen.open("a") as file:
        file.write(f"{point}:{moment}\n")


def rebuilt(shop: Shop, table: Table) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (only(table),))
    rebuild_table(shop.deployment, only(table), table, plan_rebuild(shop.deployment, only(table), table))


def assert_whole(shop: Shop, rows: int) -> None:
    """Readers of the lake and of the warehouse find every row once."""
    source, table = shop.deployment.select()[0]
    found = [row["id"] for batch in shop.deployment.lake.scan(source.name, table) for row in batch.to_pylist()]
    for ids in (found, [row["id"] for row in shop.published(f"shop__{table.name}", "id")]):
        assert (len(ids), len(set(ids))) == (rows, rows)


def test_a_rebuild_killed_at_any_fault_point_leaves_readers_a_whole_table_and_is_begun_again(shop: Shop, tmp_path: Path) -> None:
    shop.sql("alter table customers add visits int default 7")
    shop.deployment = Deployment(shop.deployment.settings, (only(DECLARED[0]),))
    shop.run()
    seen = tmp_path / "seen"
    watched = process(rebuild_under_fault, shop.deployment.settings, DECLARED[1], "", seen)
    watched.join(120)
    assert watched.exitcode == 0
    passed = Counter(seen.read_text().split())
    points = {name.rpartition(":")[0] for name in passed}
    assert {"store.create", "store.upload", "lake.commit", "warehouse.exchange", "warehouse.statistics_marker"} <= points
    cases = [f"{name}:kill:{times}" for name, times in passed.items() if name.endswith(":after")]
    cases += ["store.create:before:kill", "lake.commit:before:kill", "warehouse.exchange:before:kill"]
    for number, fault in enumerate(cases):
        table = DECLARED[number % 2]
        killed = process(rebuild_under_fault, shop.deployment.settings, table, fault, seen)
        killed.join(120)
        assert killed.exitcode == -signal.SIGKILL, fault
        shop.deployment = Deployment(shop.deployment.settings, (only(table),))
        assert_whole(shop, 10)
        rebuilt(shop, table)
        (report,) = shop.verify().values()
        assert report.equal, (fault, report)
        assert_whole(shop, 10)
    records = read_records(shop.deployment, only(table), table, last=200, folder=REBUILDS)
    assert len(records) == 1 + 2 * len(cases)
    assert sum(record.ended is None for record in records) == len(cases) - 1, "one died after its last word"


def keep_running(settings: Settings, stop: Path) -> None:
    """What another process does: whole runs of a table, one after the other; one that loses begins again."""
    deployment = Deployment(settings, (only(ORDERS),))
    source, table = deployment.select()[0]
    while not stop.exists():
        try:
            (result,) = extract_source(deployment, source, [table])
            apply_table(deployment, source, table)
            publish_table(deployment, source, table)
        except CommitConflict:
            continue
        assert result.error is None, result.error


def test_rebuilds_and_runs_at_once_lose_and_double_nothing(shop: Shop, tmp_path: Path) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (only(ORDERS),))
    shop.run()
    stop = tmp_path / "stop"
    other = process(keep_running, shop.deployment.settings, stop)
    for number in range(4):
        shop.order(900 + 10 * number, 3, FIRST + timedelta(days=2, hours=3 + number))
        rebuilt(shop, ORDERS)
        assert other.is_alive()
    stop.touch()
    other.join(120)
    assert other.exitcode == 0
    shop.run()
    assert_whole(shop, 162)
    (report,) = shop.verify(deep=True).values()
    assert report.equal, report


def test_a_run_that_finds_a_rebuild_that_died_after_it_landed_ends_it(shop: Shop) -> None:
    shop.sql("alter table customers add visits int default 7")
    shop.deployment = Deployment(shop.deployment.settings, (only(DECLARED[0]),))
    shop.run()
    table = replace(DECLARED[1], partition=CUSTOMERS.partition)
    shop.deployment = Deployment(shop.deployment.settings, (only(table),))
    died = process(rebuild_under_fault, shop.deployment.settings, table, "lake.commit:before:kill", Path())
    died.join(120)
    assert died.exitcode == -signal.SIGKILL
    assert {row["visits"] for row in shop.published("shop__customers")} == {7}
    shop.run()
    assert {row["visits"] for row in shop.published("shop__customers")} == {"7"}
    (report,) = shop.verify(deep=True).values()
    assert report.equal, report
