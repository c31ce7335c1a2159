"""A quarantine is a table like any other: it is looked after, mended, taken back and searched for orphans under its own name."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.damage import diagnose
from lakehouse.pipeline.maintain import maintain_tables
from lakehouse.pipeline.orphans import find_orphans, remove_orphans
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.repair import plan_repair, repair_table
from lakehouse.pipeline.replay import quarantined
from lakehouse.pipeline.rollback import rollback_table
from lakehouse.spec import Source, Table
from tests.crash.passage import take
from tests.shop import FIRST, Shop

TABLES = ("shop.orders", "shop_delta.orders")


def chosen(shop: Shop, name: str) -> tuple[Source, Table]:
    ((source, table),) = shop.deployment.select([name])
    return source, table


def spoil(shop: Shop, name: str, number: int) -> None:
    """One more row that no table takes, landed and applied everywhere."""
    at = FIRST + timedelta(days=2, hours=5, minutes=number)
    shop.sql(f"insert into orders values ({10_000 + number}, '{at.isoformat()}', 'NaN', 'bad')")
    take(shop.deployment, name)


def assert_whole(shop: Shop, name: str, rows: int) -> None:
    """The quarantine has its rows, and every copy of it is equal."""
    source, table = chosen(shop, name)
    assert len(quarantined(shop.deployment, source, table)) == rows
    kept = shop.verify(deep=True)[f"{name}__quarantine"]
    assert kept.equal, kept
    assert len({(copy.rows, copy.checksum) for copy in kept.copies}) == 1, kept
    assert not diagnose(shop.deployment, *chosen(shop, f"{name}__quarantine")).damage


@pytest.mark.parametrize("name", TABLES)
def test_a_quarantine_is_looked_after_with_its_table_and_keeps_its_rows(old_shop: Shop, name: str, tmp_path: Path) -> None:
    shop = old_shop
    for number in range(4):
        spoil(shop, name, number)
    done, failed = maintain_tables(shop.deployment, [chosen(shop, name)])
    assert failed == {}
    (care,) = (one for one in done if one.table == f"{name}__quarantine")
    assert care.expired
    assert care.after.versions < care.before.versions
    assert care.removed > 0
    assert_whole(shop, name, 4)
    dead = f"raw/{name.replace('.', '/')}__quarantine/dead-0.parquet"
    shop.deployment.store.put(dead, b"12345")
    os.utime(tmp_path / "store" / dead, (0, 0))
    found = find_orphans(shop.deployment, [chosen(shop, name)])
    assert dead in {one.name for one in found.found}
    remove_orphans(shop.deployment, found)
    assert not shop.deployment.store.exists(dead)
    assert_whole(shop, name, 4)
    spoil(shop, name, 4)
    assert_whole(shop, name, 5)


@pytest.mark.parametrize("name", TABLES)
def test_a_lost_copy_of_a_quarantine_is_made_anew_from_another_one(old_shop: Shop, name: str) -> None:
    shop, store = old_shop, old_shop.deployment.store
    for number in range(2):
        spoil(shop, name, number)
    source, table = chosen(shop, f"{name}__quarantine")
    for where in (shop.deployment.lake.root(source.name, table), shop.deployment.log(source, table).folder):
        for info in store.list(where):
            if info.path.endswith(".parquet") and "_delta_log" not in info.path:
                store.delete(info.path)
        plan = plan_repair(shop.deployment, source, table)
        assert plan.steps, where
        repair_table(shop.deployment, source, table, plan)
        assert_whole(shop, name, 2)
    shop.deployment.warehouse.query(f"drop table `{shop.deployment.settings.warehouse.database}`.`{source.name}__{table.name}`")
    repair_table(shop.deployment, source, table, plan_repair(shop.deployment, source, table))
    assert_whole(shop, name, 2)


@pytest.mark.parametrize("name", TABLES)
def test_a_quarantine_that_was_taken_back_catches_up(old_shop: Shop, name: str) -> None:
    shop = old_shop
    spoil(shop, name, 0)
    source, table = chosen(shop, f"{name}__quarantine")
    before = shop.deployment.lake.state(source.name, table)
    assert before is not None
    spoil(shop, name, 1)
    state = rollback_table(shop.deployment, source, table, before.current.version)
    assert state.current.marker == before.current.marker
    apply_table(shop.deployment, source, table)
    publish_table(shop.deployment, source, table)
    assert_whole(shop, name, 2)
