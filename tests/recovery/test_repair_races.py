"""A repair that is killed, or that meets a run: what is left is mended by the next one, and nobody's work is undone."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from lakehouse.pipeline import repair, repair_raw
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.repair import plan_repair, repair_table
from lakehouse.pipeline.repair_record import read_records
from lakehouse.settings import Settings
from lakehouse.spec import Source, Table
from tests.lakes import process
from tests.recovery.test_rollback import keep_catching_up
from tests.shop import FIRST, SHOP, Shop

CUSTOMERS = replace(SHOP, tables=SHOP.tables[1:2])
MOMENTS = ("_claim", "apply_table", "_mend_lake", "_mend_warehouse", "save_record")
"""Functions of a repair at whose end it is killed."""


def repair_and_die(settings: Settings, moment: str, count: Path) -> None:
    """Repair, and be killed at the end of the first call of a function; without such a call, write that down."""
    deployment = Deployment(settings, (CUSTOMERS,))
    module = repair_raw if moment == "_claim" else repair
    function = getattr(module, moment)

    def deadly(*arguments: object, **named: object) -> None:
        function(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, moment, deadly)
    source, table = CUSTOMERS, CUSTOMERS.tables[0]
    repair_table(deployment, source, table, plan_repair(deployment, source, table))
    count.write_text("not called")


def damage_every_copy(shop: Shop) -> None:
    store = shop.deployment.store
    store.put(max(info.path for info in store.list("raw/shop/customers/_log")), b"{")
    for info in store.list("lake/shop/customers/data"):
        store.put(info.path, store.get(info.path)[:-3])
    published = f"`{shop.deployment.settings.warehouse.database}`.`shop__customers`"
    shop.deployment.warehouse.query(f"alter table {published} modify comment 'mine'")


def test_a_repair_killed_at_any_step_is_begun_again_and_mends_all(shop: Shop, tmp_path: Path) -> None:
    source, table = CUSTOMERS, CUSTOMERS.tables[0]
    shop.deployment = Deployment(shop.deployment.settings, (CUSTOMERS,))
    shop.run()
    for moment in MOMENTS:
        damage_every_copy(shop)
        killed = process(repair_and_die, shop.deployment.settings, moment, tmp_path / moment)
        killed.join(120)
        assert killed.exitcode == -signal.SIGKILL, moment
    repair_table(shop.deployment, source, table, plan_repair(shop.deployment, source, table))
    shop.run()
    (report,) = shop.verify().values()
    assert report.equal, report
    assert {copy.rows for copy in report.copies} == {10}
    records = read_records(shop.deployment, source, table, last=20)
    assert [bool(record.ended) for record in records] == [False] * len(MOMENTS) + [True]


def test_a_repair_and_a_run_at_once_end_as_if_one_had_come_after_the_other(shop: Shop, tmp_path: Path) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (replace(SHOP, tables=SHOP.tables[:1]),))
    shop.run()
    source, table = table_of(shop)
    stop, store = tmp_path / "stop", shop.deployment.store
    other = process(keep_catching_up, shop.deployment.settings, stop)
    for number, folder in enumerate(("raw/shop/orders/day=2026-01-01", "lake/shop/orders/data/at_day=2026-01-01")):
        newest = max(store.list(folder), key=lambda info: (info.modified, info.path)).path
        store.put(newest, store.get(newest)[:-1])
        plan = plan_repair(shop.deployment, source, table)
        shop.order(900 + 10 * number, 3, FIRST + timedelta(days=2, hours=3 + number))
        shop.extract()
        repair_table(shop.deployment, source, table, plan)
    stop.touch()
    other.join(120)
    assert other.exitcode == 0
    shop.run()
    (report,) = shop.verify().values()
    assert report.equal, report
    assert {found.rows for found in report.copies} == {156}


def table_of(shop: Shop) -> tuple[Source, Table]:
    ((source, table),) = shop.deployment.select(["shop.orders"])
    return source, table
