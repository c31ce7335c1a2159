"""Looking for anything new: it sees whatever a run would do, and does none of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pymongo

from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.look import is_up_to_date
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.statistics import mark_built, stale_statistics
from tests.shop import FIRST, Shop


def looks_up_to_date(shop: Shop) -> bool:
    return is_up_to_date(shop.deployment, shop.deployment.select())


def everything_done(shop: Shop) -> None:
    shop.run()
    mark_built(shop.deployment, stale_statistics(shop.deployment))


def objects(shop: Shop) -> set[str]:
    return {found.path for found in shop.deployment.store.list("")}


def clicks(shop: Shop, action: str) -> None:
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        late = {"_id": "late", "at": FIRST + timedelta(days=1, hours=2, seconds=10), "page": "/late"}
        getattr(client.get_default_database()["clicks"], action)(late)


def told(*statements: str) -> Callable[[Shop], None]:
    return lambda shop: shop.sql(*statements)


CUSTOMER = "update customers set tier = '{}', changed_at = '{}' where id = '{}'"
NEWS: dict[str, tuple[Callable[[Shop], None], Callable[[Shop], None]]] = {
    "a later row": (lambda shop: shop.order(900, 1, FIRST + timedelta(days=5)), told("delete from orders where id = 900")),
    "a late row of an open day": (
        lambda shop: shop.order(900, 1, FIRST + timedelta(days=2, minutes=3)),
        told("delete from orders where id = 900"),
    ),
    "a late document": (lambda shop: clicks(shop, "insert_one"), lambda shop: clicks(shop, "delete_one")),
    "a changed row": (
        told(CUSTOMER.format("gold", "2026-01-02 00:00Z", "c3")),
        told(CUSTOMER.format("free", "2026-01-01 08:00Z", "c3")),
    ),
    "a changed row within the lookback": (
        told(CUSTOMER.format("gold", "2026-01-01 14:00Z", "c9")),
        told(CUSTOMER.format("free", "2026-01-01 14:00Z", "c9")),
    ),
    "a deleted row": (
        told("create table kept as select * from customers where id = 'c1'", "delete from customers where id = 'c1'"),
        told("insert into customers select * from kept"),
    ),
    "a changed row of a table that is read whole": (
        told("update prices set price = 9 where item = 'tea'"),
        told("update prices set price = 2.5 where item = 'tea'"),
    ),
    "a new column": (
        told("alter table customers add column vip boolean default true"),
        told("alter table customers drop column vip"),
    ),
    "a table that cannot be read": (
        told("alter table prices rename to price_list"),
        told("alter table price_list rename to prices"),
    ),
}
"""Something happens in a source, and is undone."""


def test_news_of_a_source_is_seen_and_nothing_is_written(shop: Shop) -> None:
    everything_done(shop)
    before = objects(shop)
    assert looks_up_to_date(shop)
    for news, (happen, undo) in NEWS.items():
        happen(shop)
        assert not looks_up_to_date(shop), news
        undo(shop)
        assert looks_up_to_date(shop), news
    assert objects(shop) == before


def test_a_hop_that_is_behind_the_one_before_it_is_seen(shop: Shop) -> None:
    assert not looks_up_to_date(shop)
    shop.extract()
    assert not looks_up_to_date(shop)
    for source, table in shop.deployment.select():
        apply_table(shop.deployment, source, table)
    assert not looks_up_to_date(shop)
    for source, table in shop.deployment.select():
        publish_table(shop.deployment, source, table)
    assert not looks_up_to_date(shop), "the statistics were never built"
    mark_built(shop.deployment, stale_statistics(shop.deployment))
    assert looks_up_to_date(shop)


def test_a_full_reading_of_what_is_there_lands_nothing(shop: Shop) -> None:
    shop.run()
    again = shop.run(full=True)
    assert [result.entries for result in again.values()] == [()] * 4
    shop.sql("update customers set tier = 'gold' where id = 'c1'")
    found = shop.run(full=True)
    assert [name for name, result in found.items() if result.entries] == ["customers"]
