"""Columns that got another type in the source, of tables that keep theirs: what fits lands, the rest waits in the quarantine."""

from __future__ import annotations

import json
from dataclasses import replace

from lakehouse.errors import SchemaChanged
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import has_news
from lakehouse.pipeline.plan import plan_run
from lakehouse.pipeline.rebuild import plan_rebuild, rebuild_table
from lakehouse.pipeline.replay import quarantined, replay_rows
from lakehouse.spec import Source, Table
from tests.shop import SHOP, Shop, assert_equal


def keeping(shop: Shop) -> None:
    """Every table keeps the types that it has."""
    tables = tuple(replace(table, on_change="quarantine") for table in SHOP.tables)
    shop.deployment = Deployment(shop.deployment.settings, (replace(SHOP, tables=tables),))


def table_of(shop: Shop, name: str) -> tuple[Source, Table]:
    return next((source, table) for source, table in shop.deployment.select() if table.name == name)


def kept(shop: Shop, name: str) -> list[tuple[str | None, str, str]]:
    rows = quarantined(shop.deployment, *table_of(shop, name))
    return sorted((row.key or "", row.column, row.reason) for row in rows)


def visits(shop: Shop, table: str, column: str, key: str) -> dict[object, object]:
    return {row[key]: row[column] for row in shop.published(f"shop__{table}")}


def grow(shop: Shop) -> None:
    """A whole number in each table, which becomes a text."""
    keeping(shop)
    for table in ("orders", "customers", "prices"):
        shop.sql(f"alter table {table} add visits int default 7")
    shop.run()
    for table in ("orders", "customers", "prices"):
        shop.sql(f"alter table {table} alter visits type text")


def test_rows_whose_value_is_exactly_of_the_landed_type_land_and_the_others_wait_in_every_mode(shop: Shop) -> None:
    grow(shop)
    (plan,) = (found for found in plan_run(shop.deployment, shop.deployment.select(["shop.orders"])).tables)
    assert plan.changes[0].kind == "kept"
    assert plan.changes[0].text.startswith("column visits is string in the source and stays int32 here:")
    assert not plan.stops
    at = "2026-01-03 04:00Z"
    shop.sql(
        f"insert into orders values (900, '{at}', 1, 'x', '12'), (901, '{at}', 1, 'x', 'many'), (902, '{at}', 1, 'x', '007'),"
        f" (903, '{at}', 1, 'x', null)",
        "update customers set visits = 'some', changed_at = '2026-01-01 14:30Z' where id = 'c3'",
        "update customers set visits = '13', changed_at = '2026-01-01 14:30Z' where id = 'c4'",
        "update prices set visits = 'few' where item = 'tea'",
    )
    results = shop.run()
    assert [result.error for result in results.values()] == [None] * 3
    told = "string in the source, and not exactly int32"
    assert kept(shop, "orders") == [("[901]", "visits", told), ("[902]", "visits", told)]
    assert kept(shop, "customers") == [('["c3"]', "visits", told)]
    assert kept(shop, "prices") == [('["tea"]', "visits", told)]
    orders = visits(shop, "orders", "visits", "id")
    assert (orders[900], orders[903], orders[5]) == (12, None, 7)
    assert visits(shop, "customers", "visits", "id")["c4"] == 13
    assert visits(shop, "prices", "visits", "item") == {"coffee": 7}
    assert any("stays int32 here" in note for note in results["orders"].notes)
    assert_equal(shop)
    (source,) = shop.deployment.sources
    assert not has_news(shop.deployment, source, source.tables, lambda: False)
    assert [result.entries for result in shop.run(full=True).values()] == [()] * 3


def test_a_row_that_waits_is_shown_as_it_came_and_put_in_its_place_after_a_rebuild_in_the_new_type(shop: Shop) -> None:
    grow(shop)
    shop.sql(
        "insert into orders values (901, '2026-01-03 04:00Z', 1, 'x', 'many')",
        "update customers set visits = 'some', changed_at = '2026-01-01 14:30Z' where id = 'c3'",
    )
    shop.run()
    (row,) = quarantined(shop.deployment, *table_of(shop, "orders"))
    assert json.loads(row.row or "")["visits"] == "many"
    source, table = table_of(shop, "orders")
    assert replay_rows(shop.deployment, source, table, [row]).taken == ()
    for name in ("orders", "customers"):
        source, table = table_of(shop, name)
        rebuild_table(shop.deployment, source, table, plan_rebuild(shop.deployment, source, table))
        done = replay_rows(shop.deployment, source, table, quarantined(shop.deployment, source, table))
        assert (len(done.taken), len(done.waiting)) == ((0, 1) if name == "orders" else (1, 0)), "an open day is read again"
    shop.run()
    assert kept(shop, "orders") == kept(shop, "customers") == []
    assert visits(shop, "orders", "visits", "id")[901] == "many"
    assert visits(shop, "customers", "visits", "id")["c3"] == "some"
    assert_equal(shop)


def test_a_key_or_a_type_that_holds_no_such_value_stops_the_table_as_ever(shop: Shop) -> None:
    keeping(shop)
    shop.run()
    shop.sql("alter table orders alter id type text", "alter table prices alter price type text")
    results = shop.run()
    assert isinstance(results["orders"].error, SchemaChanged)
    assert isinstance(results["prices"].error, SchemaChanged)
    assert results["customers"].error is None
