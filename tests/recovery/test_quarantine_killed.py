"""A landing with refused rows that is killed anywhere: the next one leaves each row in its table or in its quarantine."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.replay import quarantined
from lakehouse.spec import Source
from tests.crash.passage import points_in, start, take
from tests.shop import CLICKS, SHOP, SHOP_IN_DELTA, Shop, assert_equal


class Turns:
    """Two orders, customers and prices of which one is bad, and the other becomes so with each turn."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.number = 0
        shop.sql("alter table customers add score numeric(6,2)", "alter table prices add tax numeric(6,2)")
        shop.sql("insert into orders select i, '2026-01-03 05:00Z', 1 from generate_series(900, 901) i")
        self.turn()

    def turn(self) -> None:
        self.number += 1
        good, bad = (self.number % 2, 1 - self.number % 2)
        minute = f"timestamptz '2026-01-01 14:30Z' + interval '{self.number} minute'"
        for value, at in ((str(self.number), good), ("'NaN'", bad)):
            self.shop.sql(
                f"update orders set amount = {value} where id = {900 + at}",
                f"update customers set score = {value}, changed_at = {minute} where id = 'c{at}'",
                f"update prices set tax = {value} where item = '{('tea', 'coffee')[at]}'",
            )

    def check(self, source: Source, name: str) -> None:
        """The bad row of a table is in its quarantine, the good one in the table, and neither in both."""
        bad = 1 - self.number % 2
        names = {"orders": (900, 901), "customers": ("c0", "c1"), "prices": ("tea", "coffee")}[name]
        table = source.table(name)
        rows = quarantined(self.shop.deployment, source, table)
        assert [json.loads(row.key or "")[0] for row in rows] == [names[bad]]
        published = {row[table.key[0]] for row in self.shop.published(f"{source.name}__{name}")}
        assert set(names) - published == {names[bad]}
        assert len(self.shop.published(f"{source.name}__{name}__quarantine")) == 1


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("source", "name"), [(SHOP, "orders"), (SHOP_IN_DELTA, "customers"), (SHOP, "prices")], ids=["append", "upsert", "snapshot"]
)
def test_a_kill_at_any_point_of_the_log_leaves_each_row_in_one_place(
    shop: Shop, tmp_path: Path, source: Source, name: str
) -> None:
    settings = shop.deployment.settings
    sources = {**settings.sources, source.name: settings.sources["shop"]}
    shop.deployment = Deployment(settings.model_copy(update={"sources": sources}), (source, CLICKS))
    turns, table, seen = Turns(shop), f"{source.name}.{name}", tmp_path / "seen"
    shop.run()
    turns.turn()
    undisturbed = start(shop.deployment.settings, table, seen=seen)
    undisturbed.join()
    assert undisturbed.exitcode == 0
    turns.check(source, name)
    points = [point for point in points_in(seen) if point.point == "store.create"]
    assert len(points) >= 6, "before and after the claims of three batches, in two logs"
    for point in points:
        turns.turn()
        killed = start(shop.deployment.settings, table, fault=point.fault("kill"))
        killed.join()
        assert killed.exitcode == -signal.SIGKILL, point
        take(shop.deployment, table)
        turns.check(source, name)
    shop.run()
    assert_equal(shop)
