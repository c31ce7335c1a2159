"""Columns that come, go and change their type in the source, while its tables are landed, built and published."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lakehouse.errors import SchemaChanged, SourceMismatch
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.look import is_up_to_date
from lakehouse.pipeline.plan import plan_run
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.windows import DayRange
from lakehouse.spec.declaration import OnChange
from tests.shop import CLICKS, SHOP, Shop, assert_equal, day


def test_a_new_column_arrives_with_its_values_in_old_rows_too(shop: Shop) -> None:
    shop.run()
    shop.sql(
        "alter table orders add column channel text not null default 'web'",
        "alter table customers add column plan text not null default 'basic'",
        "alter table prices add column currency text default 'EUR'",
    )
    results = shop.run()
    assert_equal(shop)
    assert {row["channel"] for row in shop.published("shop__orders")} == {"web"}
    assert {row["plan"] for row in shop.published("shop__customers")} == {"basic"}
    assert {row["currency"] for row in shop.published("shop__prices")} == {"EUR"}
    assert results["orders"].days == (day(1), day(2), day(3))
    assert results["customers"].notes[0].startswith("new in the source: plan")
    again = shop.run()
    assert {name: result.entries for name, result in again.items()} == dict.fromkeys(again, ())


def test_until_the_next_run_a_new_column_is_no_difference(shop: Shop) -> None:
    shop.run()
    shop.sql("alter table orders add column channel text default 'web'", "alter table customers add column plan text default 'b'")
    assert_equal(shop)


def test_a_run_for_one_day_reads_the_closed_days_before_it_again_that_lack_a_column(shop: Shop) -> None:
    shop.run()
    shop.sql("alter table orders add column channel text default 'web'")
    assert shop.run(DayRange(day(2), day(2)))["orders"].days == (day(1), day(2))


def test_fields_that_a_struct_gets_arrive_with_their_values_in_old_documents_too(shop: Shop) -> None:
    shop.run()
    declare_device(
        shop, "struct<os: string, sizes: list<int64>, undeclared: int32, seen: list<struct<at:timestamp, n:int64, x:json>>>"
    )
    assert_equal(shop)
    results = shop.run()
    assert results["clicks"].notes[0].startswith("new in the source: device.seen.x, device.undeclared;")
    assert results["clicks"].days == (day(1), day(2))
    assert_equal(shop)
    found = [json.loads(row["device"]) for row in shop.published("clicks__clicks") if row["device"] is not None]
    assert sorted(device["undeclared"] for device in found) == sorted([*range(1, 30)] * 2)
    declare_device(shop, "struct<undeclared: int32>")
    shop.run()
    assert all(report.equal for report in shop.verify(deep=True).values())
    found = [json.loads(row["device"]) for row in shop.published("clicks__clicks") if row["device"] is not None]
    assert {device["os"] for device in found} == {None}, "both days are open still: a field that is gone is null in them"
    assert sorted(device["undeclared"] for device in found) == sorted([*range(1, 30)] * 2)


def test_a_column_that_the_source_dropped_keeps_its_old_values(shop: Shop) -> None:
    shop.run()
    shop.sql("alter table orders drop column note", "alter table customers drop column tier")
    shop.sql("insert into customers values ('c99', null, '2026-01-01 14:40Z', '2026-01-01 14:40Z')")
    shop.run()
    assert all(report.equal for report in shop.verify().values())
    tiers = {row["id"]: row["tier"] for row in shop.published("shop__customers")}
    assert tiers["c1"] == "free"
    assert tiers["c99"] is None


RENAMED: dict[str, dict[str, Any]] = {
    "orders": {"renamed": {"total": "amount"}},
    "customers": {"renamed": {"touched_at": "changed_at", "level": "tier"}, "cursor": "touched_at"},
    "prices": {"renamed": {"euros": "price"}},
}


def rename_columns(shop: Shop) -> None:
    """In the source, as an application's migration does."""
    shop.sql(
        *(
            f"alter table {table} rename column {old} to {new}"
            for table, changes in RENAMED.items()
            for new, old in changes["renamed"].items()
        )
    )


def declare_renamed(shop: Shop) -> None:
    """In the declaration."""
    first, *rest = shop.deployment.sources
    tables = tuple(replace(table, **RENAMED[table.name]) for table in first.tables)
    shop.deployment = Deployment(shop.deployment.settings, (replace(first, tables=tables), *rest))


def test_columns_that_were_renamed_keep_their_past(shop: Shop) -> None:
    shop.run()
    amounts = {row["id"]: row["amount"] for row in shop.published("shop__orders")}
    rename_columns(shop)
    declare_renamed(shop)
    results = shop.run()
    assert day(1) not in (results["orders"].days or ()), "what is closed was read again"
    assert_equal(shop)
    published = shop.published("shop__orders")
    assert {row["id"]: row["total"] for row in published} == amounts
    assert "amount" not in published[0]
    assert {row["level"] for row in shop.published("shop__customers")} == {"free"}
    assert {row["item"]: row["euros"] for row in shop.published("shop__prices")} == {"tea": 2.5, "coffee": 3.25}
    again = shop.run()
    assert {name: result.entries for name, result in again.items()} == dict.fromkeys(again, ())
    shop.sql(
        "update customers set level = 'pro', touched_at = '2026-01-01 14:30Z' where id = 'c1'", "delete from orders where id = 3"
    )
    shop.run(full=True)
    assert all(report.equal for report in shop.verify(deep=True).values())
    assert {row["id"]: row["level"] for row in shop.published("shop__customers")}["c1"] == "pro"
    assert len(shop.published("shop__orders")) == len(amounts) - 1


def test_a_renaming_that_is_declared_takes_effect_without_new_rows(shop: Shop) -> None:
    shop.run()
    rename_columns(shop)
    declare_renamed(shop)
    assert not is_up_to_date(shop.deployment, shop.deployment.select(["shop"]))
    for source, table in shop.deployment.select(["shop"]):
        apply_table(shop.deployment, source, table)
        publish_table(shop.deployment, source, table)
    assert "total" in shop.published("shop__orders")[0]
    assert all(report.equal for report in shop.verify().values())


def test_a_column_that_changes_its_type_is_refused_before_it_lands_and_the_others_go_on(shop: Shop) -> None:
    shop.run()
    shop.sql("alter table orders alter amount type text", "alter table prices alter price type text")
    shop.sql("update customers set tier = 'pro', changed_at = '2026-01-01 14:30Z' where id = 'c1'")
    results = shop.run()
    for table, column, found, known in (
        ("orders", "amount", "string", "decimal(10,2)"),
        ("prices", "price", "string", "float64"),
    ):
        error = results[table].error
        assert isinstance(error, SchemaChanged)
        assert f"shop.{table}: column '{column}'" in error.tried
        assert error.value == f"{found} in the source, {known} in what was landed before"
        assert results[table].entries == ()
    assert {row["id"]: row["tier"] for row in shop.published("shop__customers")}["c1"] == "pro"

    shop.sql("alter table orders alter amount type numeric(12,2) using amount::numeric")
    shop.sql("alter table prices alter price type double precision using price::float8")
    assert all(result.error is None for result in shop.run(full=True).values())
    assert_equal(shop)


FROZEN_CHANGES = {
    "alter table customers add column plan text": "plan (string) is new",
    "alter table customers drop column tier": "tier is gone",
    "alter table customers add column plan text; alter table customers drop column tier": "plan (string) is new; tier is gone",
    "alter table customers alter changed_at type timestamp": "",
    "alter table customers alter tier set not null": "tier may not be null any more",
}
"""Changes of the source, and how the error of a frozen table tells of them; empty where its columns here stay what they are."""


@pytest.mark.parametrize("change", FROZEN_CHANGES)
def test_a_frozen_table_stops_at_any_change_of_its_columns_until_it_may_follow(shop: Shop, change: str) -> None:
    shop.deployment = frozen(shop, "freeze")
    shop.run()
    assert shop.run()["customers"].error is None
    shop.sql(*change.split("; "), "update customers set changed_at = '2026-01-01 14:30Z' where id = 'c1'")
    told = FROZEN_CHANGES[change]
    stopped = shop.run()
    assert stopped["orders"].error is None
    plans = {plan.table: plan for plan in plan_run(shop.deployment, shop.deployment.select()).tables}
    if not told:
        assert_equal(shop)
        assert not plans["shop.customers"].stops
        return
    assert isinstance(stopped["customers"].error, SchemaChanged)
    assert f"found:   {told}\n" in str(stopped["customers"].error)
    assert stopped["customers"].entries == ()
    assert plans["shop.customers"].stops
    shop.deployment = frozen(shop, "evolve")
    assert shop.run()["customers"].error is None
    shop.deployment = frozen(shop, "freeze")
    assert shop.run()["customers"].error is None
    assert all(report.equal for report in shop.verify().values())


def frozen(shop: Shop, on_change: OnChange) -> Deployment:
    tables = tuple(replace(t, on_change=on_change) if t.name == "customers" else t for t in SHOP.tables)
    return Deployment(shop.deployment.settings, (replace(SHOP, tables=tables), CLICKS))


def test_a_declared_column_that_the_source_dropped_is_named(shop: Shop) -> None:
    shop.run()
    shop.sql("alter table customers rename column changed_at to modified_at")
    error = shop.extract()["customers"].error
    assert isinstance(error, SourceMismatch)
    assert "changed_at" in str(error)
    assert "modified_at" in str(error)


def test_a_raw_log_whose_files_are_gone_is_a_difference(shop: Shop) -> None:
    shop.run()
    store = shop.deployment.store
    for info in list(store.list("raw/shop/prices")):
        store.delete(info.path)
    report = shop.verify()["shop.prices"]
    assert not report.equal
    assert "the raw log is empty" in next(copy.problem for copy in report.copies if copy.copy == "raw")
    assert shop.verify()["shop.orders"].equal


def declare_device(shop: Shop, declared: str) -> None:
    """Go on with another declaration of the clicks' device."""
    *others, clicks = shop.deployment.sources
    (table,) = clicks.tables
    columns = tuple(replace(column, type=declared) if column.name == "device" else column for column in table.columns)
    changed = replace(clicks, tables=(replace(table, columns=columns),))
    shop.deployment = Deployment(shop.deployment.settings, (*others, changed))
