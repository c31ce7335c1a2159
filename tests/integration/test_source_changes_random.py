"""Changes of a source, of its rows, and runs, as chance has them: in the end each row is in its table or in its quarantine."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psycopg
import pymongo
import pytest

from lakehouse import Column
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.replay import quarantined
from tests.shop import CLICKS, FIRST, SHOP, Shop, assert_equal

STEPS = 14


@dataclass
class World:
    """The shop, and what chance does to it. Bad values are NaN in numbers with a scale, and numbers where text is declared."""

    shop: Shop
    chance: random.Random
    added: int = 0
    next_id: int = 1000
    hours: int = 10

    def step(self) -> None:
        kinds = [self.orders, self.customers, self.prices, self.clicks, self.columns, self.delete]
        for kind in self.chance.sample(kinds, self.chance.randint(1, 3)):
            kind()
        self.hours += 1

    def amount(self) -> str:
        return "'NaN'" if self.chance.random() < 0.3 else str(self.chance.randint(-99, 99))

    def orders(self) -> None:
        """New ones in the open day, one that is changed in a closed one."""
        for _ in range(self.chance.randint(1, 4)):
            self.next_id += 1
            at = FIRST + timedelta(days=2, hours=self.hours % 13 + 1, seconds=self.next_id)
            self.shop.sql(f"insert into orders (id, at, amount) values ({self.next_id}, '{at.isoformat()}', {self.amount()})")
        self.shop.sql(f"update orders set amount = {self.amount()} where id = {self.chance.randint(0, 49)}")

    def customers(self) -> None:
        at = (FIRST + timedelta(days=1, hours=self.hours)).isoformat()
        self.shop.sql(
            f"update customers set score = {self.amount()}, changed_at = '{at}' where id = 'c{self.chance.randint(0, 9)}'",
            f"insert into customers (id, score, created_at, changed_at) values ('n{self.hours}', {self.amount()}, '{at}', '{at}')"
            " on conflict do nothing",
        )

    def prices(self) -> None:
        item = self.chance.choice(["tea", "coffee", "salt", "rice"])
        self.shop.sql(
            f"insert into prices (item, price, tax) values ('{item}', 1, {self.amount()})"
            " on conflict (item) do update set tax = excluded.tax"
        )

    def clicks(self) -> None:
        with pymongo.MongoClient[dict[str, Any]](self.shop.mongo_url) as client:
            clicks = client.get_default_database()["clicks"]
            for _ in range(3):
                self.next_id += 1
                page: Any = self.next_id if self.chance.random() < 0.3 else "/p"
                at = FIRST + timedelta(days=1, hours=3, seconds=self.next_id)
                clicks.insert_one({"_id": f"k{self.next_id}", "at": at, "page": page})

    def columns(self) -> None:
        """A column more, wider numbers, one column less."""
        table = self.chance.choice(["orders", "customers", "prices"])
        self.added += 1
        name = f"more{self.added}"
        change = self.chance.choice(["new", "default", "dropped"])
        self.shop.sql(f"alter table {table} add {name} int" + (" default 7" if change == "default" else ""))
        if change == "dropped":
            self.shop.sql(f"alter table {table} drop {name}", "alter table prices alter tax type numeric(14,2)")

    def delete(self) -> None:
        self.shop.sql(
            f"delete from customers where id = 'c{self.chance.randint(0, 9)}'",
            f"delete from orders where id > 1000 and id % 5 = {self.chance.randint(0, 4)}",
            f"delete from prices where item = '{self.chance.choice(['salt', 'rice'])}'",
        )


def source_rows(shop: Shop, query: str) -> tuple[set[Any], set[Any]]:
    """Keys of the good and of the bad rows of a table."""
    with psycopg.connect(shop.url) as connection:
        rows = connection.execute(query.encode()).fetchall()
    return {key for key, bad in rows if not bad}, {key for key, bad in rows if bad}


@pytest.mark.parametrize("seed", [1, 2])
def test_each_row_of_the_source_is_in_its_table_or_in_its_quarantine_and_in_one_of_them(shop: Shop, seed: int) -> None:
    world = World(shop, random.Random(seed))
    columns = (*CLICKS.tables[0].columns, Column("score", "int64"))
    clicks = replace(CLICKS, tables=(replace(CLICKS.tables[0], columns=columns),))
    shop.deployment = Deployment(shop.deployment.settings, (SHOP, clicks))
    shop.sql("alter table customers add score numeric(6,2)", "alter table prices add tax numeric(6,2)")
    for _ in range(STEPS):
        world.step()
        if world.chance.random() < 0.4:
            results = shop.run(full=world.chance.random() < 0.3)
            assert [result.error for result in results.values()] == [None] * 4
    shop.run(full=True)
    assert_equal(shop)
    found = {
        "orders": source_rows(shop, "select id, amount = 'NaN' from orders"),
        "customers": source_rows(shop, "select id, coalesce(score = 'NaN', false) from customers"),
        "prices": source_rows(shop, "select item, coalesce(tax = 'NaN', false) from prices"),
    }
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        documents = list(client.get_default_database()["clicks"].find({}, {"page": 1}))
    pages = {str(document["_id"]): isinstance(document.get("page"), int) for document in documents}
    found["clicks"] = ({one for one, bad in pages.items() if not bad}, {one for one, bad in pages.items() if bad})
    for source, table in shop.deployment.select():
        (key,) = table.key
        good, bad = found[table.name]
        assert {row[key] for row in shop.published(f"{source.name}__{table.name}", key)} == good
        assert {json.loads(row.key or "")[0] for row in quarantined(shop.deployment, source, table)} == bad
    assert any(bad for _, bad in found.values()), "chance made nothing bad: the test shows nothing"
    assert [result.entries for result in shop.run(full=True).values()] == [()] * 4
