"""What the next run would change, told before it does."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import psycopg

from lakehouse import days, identity
from lakehouse.cli.plan import SIGNS
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.plan import Change, Kind, plan_run
from lakehouse.settings import SourceSettings
from lakehouse.spec import Table
from tests.shop import SHOP, Shop


def changes(shop: Shop, table: str, *kinds: str) -> list[str]:
    """The planned changes of a table, of these kinds or all of them, in words."""
    return [f"{change.kind}: {change.text}" for change in planned(shop)[table] if not kinds or change.kind in kinds]


def planned(shop: Shop) -> dict[str, tuple[Change, ...]]:
    found = plan_run(shop.deployment, shop.deployment.select())
    return {table.table: table.changes for table in found.tables}


def redeclare(shop: Shop, table: Table) -> None:
    """Declare one of the shop's tables in another way."""
    tables = tuple(table if one.name == table.name else one for one in SHOP.tables)
    shop.deployment = Deployment(shop.deployment.settings, (replace(SHOP, tables=tables),))


COLUMNS = ("new", "added", "renamed", "widened", "optional", "gone", "stops")


def test_a_plan_before_the_first_run_is_of_new_tables_and_changes_nothing(shop: Shop) -> None:
    found = plan_run(shop.deployment, shop.deployment.select())
    assert not found.stops
    orders, customers, prices, clicks = (table.changes for table in found.tables)
    assert orders == (
        Change("new", "table with 4 columns, iceberg, partitioned by day of at"),
        Change("read", "3 days, 2026-01-01 to 2026-01-03 by at, each landed if it differs"),
    )
    assert [change.kind for change in customers] == ["new", "read", "read"]
    assert "all rows up to changed_at" in customers[1].text
    assert prices[-1] == Change("read", "all rows, landed if they differ from the last ones")
    assert clicks[0] == Change("new", "table with 7 columns, delta, partitioned by day of at")
    for source, table in shop.deployment.select():
        assert shop.deployment.log(source, table).head() == 0
        assert shop.deployment.lake.state(source.name, table) is None


def test_after_a_run_a_plan_has_no_change_of_columns_and_says_what_is_read_again(shop: Shop) -> None:
    shop.run()
    found = plan_run(shop.deployment, shop.deployment.select())
    assert not found.stops
    assert {change.kind for table in found.tables for change in table.changes} == {"read"}
    shop.extract(full=True)
    shop.sql("update prices set price = 9 where item = 'tea'")
    shop.extract()
    assert changes(shop, "shop.prices", "apply", "publish") == ["apply: 1 batch that landed before"]


def test_columns_that_come_widen_go_or_may_be_null_are_followed_and_told(shop: Shop) -> None:
    shop.run()
    shop.sql(
        "alter table orders add column channel text",
        "alter table orders alter column amount type numeric(14,2)",
        "alter table orders drop column note",
        "alter table customers alter column created_at drop not null",
    )
    assert changes(shop, "shop.orders", *COLUMNS) == [
        "widened: column amount: decimal(10,2) to decimal(14,2)",
        "added: column channel: string; all rows are read again for it",
        "gone: column note is not in the source any more: it stays, and is null in rows that are read from now on",
    ]
    assert changes(shop, "shop.customers", *COLUMNS) == ["optional: column created_at may be null from now on"]
    shop.run()
    assert changes(shop, "shop.orders", *COLUMNS) == []


def test_a_column_that_was_renamed_is_told_once_and_is_neither_new_nor_gone(shop: Shop) -> None:
    shop.run()
    orders = SHOP.tables[0]
    shop.sql("alter table orders rename column amount to total")
    redeclare(shop, replace(orders, renamed={"total": "amount"}))
    assert changes(shop, "shop.orders", *COLUMNS) == [
        "renamed: column amount is total from now on: the table is built anew from its raw log"
    ]
    shop.run()
    assert changes(shop, "shop.orders", *COLUMNS) == []


def test_every_kind_of_change_has_a_sign() -> None:
    assert set(SIGNS) == set(get_args(Kind))


def test_what_would_stop_a_table_is_told_and_hides_no_other(shop: Shop) -> None:
    shop.run()
    shop.sql(
        "alter table orders alter column amount type text",
        "alter table prices rename to price_list",
        "alter table customers add column city text",
    )
    (stop,) = changes(shop, "shop.orders", *COLUMNS)
    assert stop.startswith("stops: reading shop.orders: column 'amount' changed its type")
    assert "do next" in stop
    assert "price_list" in changes(shop, "shop.prices", "stops")[0]
    assert changes(shop, "shop.customers", *COLUMNS) == ["added: column city: string; all rows are read again for it"]
    assert plan_run(shop.deployment, shop.deployment.select()).stops
    assert not plan_run(shop.deployment, shop.deployment.select(["shop.customers"])).stops


def test_a_declaration_that_the_lake_or_the_format_cannot_follow_stops(shop: Shop) -> None:
    shop.run()
    _, customers, _ = SHOP.tables
    redeclare(shop, replace(customers, partition=identity("tier")))
    assert "partition" in changes(shop, "shop.customers", "stops")[0]
    redeclare(shop, replace(customers, partition=days("nothing")))
    assert "nothing" in changes(shop, "shop.customers", "stops")[0]
    shop.sql('create table spaced (id bigint primary key, "two words" text)')
    redeclare(shop, replace(SHOP.tables[2], name="prices", relation="spaced", key=("id",), format="delta"))
    assert "format='iceberg'" in changes(shop, "shop.prices", "stops")[0]


def test_a_source_that_does_not_answer_stops_its_tables_and_no_others(shop: Shop) -> None:
    shop.run()
    host = psycopg.conninfo.conninfo_to_dict(shop.url)["host"]
    gone = SourceSettings(url=f"postgresql://nobody:x@{host}:1/nowhere", connect_seconds=2)
    sources = {**shop.deployment.settings.sources, "shop": gone}
    shop.deployment = Deployment(shop.deployment.settings.model_copy(update={"sources": sources}), shop.deployment.sources)
    found = planned(shop)
    assert [change.kind for change in found["shop.orders"]] == ["stops"]
    assert [change.kind for change in found["clicks.clicks"]] == ["read"]
