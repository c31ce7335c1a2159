"""A table whose declaration changes is folded anew from its raw log, exchanged in, and goes on from there."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lakehouse import Column, Source, Table, bucket, days, unpartitioned
from lakehouse.errors import DamagedData, SchemaChanged, ValueRefused, WrongUse
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.rebuild import RebuildPlan, plan_rebuild, rebuild_table
from lakehouse.pipeline.repair_record import REBUILDS, RepairRecord, read_records
from tests.shop import CLICKS, FIRST, SHOP, Shop


def table_of(shop: Shop, name: str) -> tuple[Source, Table]:
    ((source, table),) = shop.deployment.select([name])
    return source, table


def declare(shop: Shop, name: str, **fields: Any) -> None:
    """Declare one table otherwise."""
    sources = [
        replace(
            source,
            tables=tuple(replace(table, **fields) if f"{source.name}.{table.name}" == name else table for table in source.tables),
        )
        for source in shop.deployment.sources
    ]
    shop.deployment = Deployment(shop.deployment.settings, sources)


def planned(shop: Shop, name: str) -> RebuildPlan:
    return plan_rebuild(shop.deployment, *table_of(shop, name))


def rebuilt(shop: Shop, name: str) -> RepairRecord:
    return rebuild_table(shop.deployment, *table_of(shop, name), planned(shop, name))


def assert_deep_equal(shop: Shop) -> None:
    """Every copy of every table is equal, whether all is read or what an earlier verification has not."""
    for deep in (True, False, False):
        for name, report in shop.verify(deep=deep).items():
            assert report.equal, (name, report)
            assert len({(copy.rows, copy.checksum) for copy in report.copies}) == 1, report


def goes_on(shop: Shop, name: str) -> None:
    """New rows, changed and deleted ones arrive; then nothing is new."""
    shop.order(900, 3, FIRST + timedelta(days=2, hours=5))
    shop.sql(
        "update customers set tier = 'gold', changed_at = timestamptz '2026-01-01 15:00Z' where id = 'c1'",
        "delete from customers where id = 'c2'",
        "update prices set price = 9 where item = 'tea'",
    )
    results = shop.run()
    assert all(result.error is None for result in results.values()), results
    assert results[name.partition(".")[2]].entries
    assert_deep_equal(shop)
    assert all(not result.entries for result in shop.run().values())


@pytest.mark.parametrize(
    ("name", "format_", "partition"),
    [
        ("shop.customers", "iceberg", days("created_at")),
        ("shop.customers", "delta", bucket("id", 5)),
        ("shop.prices", "iceberg", bucket("item", 3)),
        ("shop.customers", "delta", unpartitioned()),
    ],
    ids=str,
)
def test_another_partitioning_stops_the_table_until_it_is_rebuilt(shop: Shop, name: str, format_: str, partition: Any) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    declare(shop, name, format=format_)
    shop.run()
    declare(shop, name, partition=partition)
    shop.sql(
        "update customers set tier = 'x', changed_at = timestamptz '2026-01-01 14:30Z' where id = 'c1'",
        "update prices set price = 7 where item = 'tea'",
    )
    shop.extract()
    with pytest.raises(SchemaChanged, match="lakehouse rebuild"):
        apply_table(shop.deployment, *table_of(shop, name))
    plan = planned(shop, name)
    assert [text for text in plan.changes if text.startswith("partitions:")]
    record = rebuild_table(shop.deployment, *table_of(shop, name), plan)
    entries = shop.deployment.log(*table_of(shop, name)).entries()
    assert len(entries) == plan.reading.head, "a change of no row landed something"
    assert [kept.done for kept in read_records(shop.deployment, *table_of(shop, name), folder=REBUILDS)] == [record.done]
    for source, table in shop.deployment.select():
        apply_table(shop.deployment, source, table)
        publish_table(shop.deployment, source, table)
    assert_deep_equal(shop)
    goes_on(shop, name)


def test_the_format_of_a_table_changes_and_the_old_one_is_told_of(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    shop.run()
    declare(shop, "shop.customers", format="delta", partition=days("created_at"))
    plan = planned(shop, "shop.customers")
    assert plan.changes == ("format: iceberg to delta", "partitions: bucket(id, 2) to days(created_at)")
    assert any("the iceberg table stays as it is" in note for note in plan.notes)
    rebuilt(shop, "shop.customers")
    assert_deep_equal(shop)
    goes_on(shop, "shop.customers")


@pytest.mark.parametrize("format_", ["iceberg", "delta"])
def test_a_type_that_cannot_be_followed_stops_the_table_until_it_is_rebuilt(shop: Shop, format_: str) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    declare(shop, "shop.customers", format=format_)
    shop.sql("alter table customers add visits int default 7", "alter table customers add big bigint default 8")
    shop.run()
    version = shop.deployment.lake.history("shop", table_of(shop, "shop.customers")[1])[-1].version
    shop.sql("alter table customers alter visits type text", "alter table customers alter big type int")
    declare(shop, "shop.customers", columns=(Column("big", "int32"),))
    error = shop.extract()["customers"].error
    assert isinstance(error, SchemaChanged)
    assert "lakehouse rebuild shop.customers" in str(error)
    plan = planned(shop, "shop.customers")
    assert plan.changes == ("column visits: int32 to string", "column big: int64 to int32")
    rebuilt(shop, "shop.customers")
    assert {(row["visits"], row["big"]) for row in shop.published("shop__customers")} == {("7", 8)}
    old = shop.deployment.lake.scan("shop", table_of(shop, "shop.customers")[1], version=version)
    assert {row["visits"] for batch in old for row in batch.to_pylist()} == {7}
    assert_deep_equal(shop)
    shop.sql("update customers set visits = 'many' where id = 'c1'")
    goes_on(shop, "shop.customers")
    assert "many" in {row["visits"] for row in shop.published("shop__customers")}
    assert planned(shop, "shop.customers").changes == ()


def test_a_day_partitioned_append_table_gets_another_type_and_closed_days_stay_closed(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    shop.run()
    shop.sql("alter table orders alter amount type text")
    assert isinstance(shop.extract()["orders"].error, SchemaChanged)
    rebuilt(shop, "shop.orders")
    assert_deep_equal(shop)
    goes_on(shop, "shop.orders")


def test_a_value_that_the_new_type_cannot_hold_stops_the_rebuild_with_its_row_and_nothing_is_changed(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    shop.sql("alter table customers add big bigint default 8", "update customers set big = 5000000000 where id = 'c3'")
    shop.run()
    before = shop.deployment.lake.state("shop", table_of(shop, "shop.customers")[1])
    declare(shop, "shop.customers", columns=(Column("big", "int32"),))
    with pytest.raises(ValueRefused, match=r"5000000000 in the row with id='c3'"):
        planned(shop, "shop.customers")
    declare(shop, "shop.customers", columns=(Column("created_at", "string"),))
    with pytest.raises(SchemaChanged, match="timestamp in the raw log, string now"):
        planned(shop, "shop.customers")
    assert shop.deployment.lake.state("shop", table_of(shop, "shop.customers")[1]) == before


def test_columns_that_become_personal_are_so_in_every_current_copy_and_tokens_stay_what_they_were(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    declare(shop, "shop.customers", personal={})
    shop.sql("alter table customers add phone text default '+420'", "alter table customers add city text default 'Brno'")
    shop.run()
    declare(shop, "shop.customers", personal={"email": "tokenise", "phone": "drop", "city": "mask"})
    shop.sql("update customers set tier = 'x', changed_at = timestamptz '2026-01-01 14:30Z' where id = 'c1'")
    shop.run()
    assert sum("@" in row["email"] for row in shop.published("shop__customers")) > 0, "what landed before is plain"
    plan = planned(shop, "shop.customers")
    assert "column phone is dropped: it is personal" in plan.changes
    assert any(text.startswith("column email: ") and text.endswith("become tokens") for text in plan.changes), plan.changes
    assert any("personal values stay in the raw log" in note for note in plan.notes)
    tokens = {row["id"]: row["email"] for row in shop.published("shop__customers") if "@" not in row["email"]}
    rebuilt(shop, "shop.customers")
    rows = {row["id"]: row for row in shop.published("shop__customers")}
    assert {row["city"] for row in rows.values()} == {"B***"}
    assert all("@" not in row["email"] and "phone" not in row for row in rows.values())
    assert tokens.items() <= {key: row["email"] for key, row in rows.items()}.items()
    assert len({row["email"] for row in rows.values()}) == len(rows)
    assert_deep_equal(shop)
    assert planned(shop, "shop.customers").changes == ()
    goes_on(shop, "shop.customers")


def test_a_field_of_documents_that_becomes_personal_is_not_pretended_to_be(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (CLICKS,))
    shop.run()
    declare(shop, "clicks.clicks", personal={"page": "mask"})
    with pytest.raises(WrongUse, match=r"lakehouse run --select clicks\.clicks --full"):
        planned(shop, "clicks.clicks")


def test_another_key_is_taken_where_deleted_rows_tell_the_old_one(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    shop.run()
    shop.sql("delete from customers where id = 'c9'")
    shop.run()
    shop.sql("alter table customers drop constraint customers_pkey", "alter table customers add primary key (id, tier)")
    declare(shop, "shop.customers", key=("id", "tier"))
    plan = planned(shop, "shop.customers")
    assert "key: id to id, tier" in plan.changes
    rebuilt(shop, "shop.customers")
    assert len(shop.published("shop__customers")) == 9
    assert_deep_equal(shop)
    goes_on(shop, "shop.customers")


def test_a_table_that_is_not_the_fold_of_its_log_is_not_rebuilt(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    shop.run()
    shop.sql("update customers set tier = 'x', changed_at = timestamptz '2026-01-01 14:30Z' where id = 'c1'")
    shop.run()
    shop.sql("alter table customers drop constraint customers_pkey", "alter table customers add primary key (id, tier)")
    declare(shop, "shop.customers", key=("id", "tier"))
    with pytest.raises(DamagedData, match="by no key that is known"):
        planned(shop, "shop.customers")


def test_statistics_of_a_rebuilt_table_are_built_anew(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    shop.run()
    shop.deployment.warehouse.write_statistics_marker({"shop.orders": 3, "shop.prices": 1})
    declare(shop, "shop.prices", partition=bucket("item", 3))
    rebuilt(shop, "shop.prices")
    assert shop.deployment.warehouse.read_statistics_marker() == {"shop.orders": 3}


def test_a_table_as_it_is_declared_is_folded_anew_all_the_same(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (CLICKS,))
    shop.run()
    declare(shop, "clicks.clicks", partition=days("at"))
    plan = planned(shop, "clicks.clicks")
    assert plan.changes == ()
    rebuilt(shop, "clicks.clicks")
    assert_deep_equal(shop)
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    with pytest.raises(WrongUse, match="without a raw log"):
        planned(shop, "shop.orders")
