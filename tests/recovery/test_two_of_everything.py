"""Runs and backfills of one table at the same moment: the result is as if one had come after the other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lakehouse.errors import CommitConflict
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.windows import DayRange
from lakehouse.settings import Settings
from tests.crash.forks import FORKS
from tests.lakes import process, processes_done
from tests.shop import FIRST, SHOP, Shop, assert_equal, day

ROUNDS = 4


def take_often(settings: Settings, barrier: Any, days: DayRange | None) -> None:
    """What a run does (days: a backfill of these, closed or not), a few times over, all tables."""
    deployment = Deployment(settings, (SHOP,))
    barrier.wait()
    for _ in range(ROUNDS):
        for result in extract_source(deployment, SHOP, SHOP.tables, days=days, full=days is not None):
            if result.error is not None and not isinstance(result.error, CommitConflict):
                raise result.error
        for source, table in deployment.select():
            apply_table(deployment, source, table)
            publish_table(deployment, source, table)


def test_two_runs_and_two_backfills_that_overlap_leave_every_row_once(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    shop.run()
    before = {name: report.copies[0].rows for name, report in shop.verify().items()}
    barrier = FORKS.Barrier(5)
    asked = [None, None, DayRange(day(1), day(2)), DayRange(day(2), day(3))]
    busy = [process(take_often, shop.deployment.settings, barrier, days) for days in asked]
    barrier.wait(120)
    for number in range(ROUNDS):
        shop.order(1_000 + 10 * number, 10, FIRST + timedelta(days=number % 3, hours=9))
        shop.sql(
            f"update orders set amount = amount + 1 where id in ({number}, {100 + number}, {200 + number})",
            f"update customers set tier = 't{number}', changed_at = changed_at + interval '1 minute' where id = 'c{number}'",
            f"insert into prices values ('p{number}', {number})",
        )
    processes_done(busy, timeout=400)
    shop.run()
    assert_equal(shop)
    after = {name: report.copies[0].rows for name, report in shop.verify(deep=True).items()}
    grown = {"shop.orders": 10 * ROUNDS, "shop.customers": 0, "shop.prices": ROUNDS}
    assert after == {name: rows + grown[name] for name, rows in before.items()}
    for name, key in (("orders", "id"), ("customers", "id"), ("prices", "item")):
        keys = [row[key] for row in shop.published(f"shop__{name}", key)]
        assert len(keys) == len(set(keys)) == after[f"shop.{name}"]
