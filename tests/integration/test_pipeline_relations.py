"""What a table expects of its rows that only other rows can tell: that a value is unique, that another table has it."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pymongo
import pytest

from lakehouse import Expect
from lakehouse.errors import ExpectationFailed
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source, has_news
from lakehouse.pipeline.plan import plan_run
from lakehouse.pipeline.quarantine import Quarantine
from lakehouse.pipeline.replay import quarantined, replay_rows
from lakehouse.spec import Source, Table
from tests.shop import CLICKS, FIRST, SHOP, Shop, assert_equal


def expecting(shop: Shop, **expected: tuple[Expect, ...]) -> None:
    """Declare what rows of the tables should be; prices are exact."""

    def again(source: Source) -> Source:
        return replace(source, tables=tuple(replace(table, expect=expected.get(table.name, ())) for table in source.tables))

    shop.deployment = Deployment(shop.deployment.settings, (again(SHOP), again(CLICKS)))
    shop.sql("alter table prices alter price type numeric(6,2)")


def table_of(shop: Shop, name: str) -> tuple[Source, Table]:
    return next((source, table) for source, table in shop.deployment.select() if table.name == name)


def stop_of(shop: Shop, name: str) -> str:
    """Why a run stopped a table, and that it landed nothing of it."""
    result = shop.extract()[name]
    assert isinstance(result.error, ExpectationFailed), result
    assert result.entries == ()
    return str(result.error.value)


def customer(number: int, email: str | None, at: str) -> str:
    told = "null" if email is None else f"'{email}'"
    return (
        f"insert into customers values ('c{number}', {told}, 'free', '2026-01-01 05:00Z', '{at}') on conflict (id) do update"
        " set email = excluded.email, changed_at = excluded.changed_at"
    )


def test_two_rows_with_one_value_stop_their_table_whether_they_come_together_or_one_after_the_other(shop: Shop) -> None:
    expecting(
        shop, customers=(Expect.unique("email"),), prices=(Expect.unique("price"),), orders=(Expect.unique("note", "amount"),)
    )
    shop.run()
    assert_equal(shop)
    shop.sql(
        customer(20, "new@example.org", "2026-01-01 15:00Z"),
        customer(21, "new@example.org", "2026-01-01 15:00Z"),
        customer(22, None, "2026-01-01 15:00Z"),
        customer(23, None, "2026-01-01 15:00Z"),
        "insert into prices values ('salt', 2.5)",
        "insert into orders values (900, '2026-01-03 04:00Z', 1.25, 'žluť 5'), (901, '2026-01-03 04:00Z', 1, 'žluť 5')",
    )
    results = shop.run()
    for name, told in (
        ("customers", "email is unique: not so in 2 rows (id=c20; id=c21)"),
        ("prices", "price is unique: not so in 2 rows (item=salt; item=tea)"),
        ("orders", "note and amount are unique: not so in 1 row (id=900)"),
    ):
        assert results[name].entries == ()
        assert isinstance(results[name].error, ExpectationFailed)
        assert f"found:   {told}" in str(results[name].error)
    shop.sql(
        customer(21, "c3@example.org", "2026-01-01 15:00Z"),
        "update prices set price = 7 where item = 'salt'",
        "update orders set amount = 2 where id = 900",
    )
    assert stop_of(shop, "customers") == "email is unique: not so in 1 row (id=c21)"
    shop.sql(customer(21, "other@example.org", "2026-01-01 15:01Z"))
    assert [result.error for result in shop.run().values()] == [None] * 4
    assert_equal(shop)


def test_a_value_may_move_from_a_row_to_another_in_one_reading(shop: Shop) -> None:
    expecting(shop, customers=(Expect.unique("email"),), prices=(Expect.unique("price"),), orders=(Expect.unique("note"),))
    shop.run()
    shop.sql(
        customer(3, "moved@example.org", "2026-01-01 15:00Z"),
        customer(4, "c3@example.org", "2026-01-01 15:00Z"),
        "update prices set price = price + 1",
        "update prices set price = 2.5 where item = 'coffee'",
        "update orders set note = 'x' where id = 205",
        "update orders set note = 'žluť 205' where id = 206",
    )
    assert [result.error for result in shop.run().values()] == [None] * 4
    assert_equal(shop)


def test_the_value_of_a_row_that_was_deleted_is_free_where_deletes_are_noticed(shop: Shop) -> None:
    expecting(shop, customers=(Expect.unique("email"),))
    shop.run()
    shop.sql("delete from customers where id = 'c3'", customer(20, "c3@example.org", "2026-01-01 15:00Z"))
    assert shop.run()["customers"].error is None
    assert "c3" not in {row["id"] for row in shop.published("shop__customers")}
    assert_equal(shop)


def test_batches_that_wait_to_be_applied_count_as_the_lake_does(shop: Shop) -> None:
    expecting(shop, customers=(Expect.unique("email"),), orders=(Expect.unique("note"),))
    shop.run()
    shop.sql(customer(20, "new@example.org", "2026-01-01 15:00Z"), customer(3, "free@example.org", "2026-01-01 15:00Z"))
    shop.order(300, 5, FIRST + timedelta(days=3, hours=1))
    shop.extract()
    shop.sql(
        customer(21, "new@example.org", "2026-01-01 15:10Z"),
        customer(22, "c3@example.org", "2026-01-01 15:10Z"),
        "insert into orders values (400, '2026-01-05 01:00Z', 1, 'žluť 303'), (401, '2026-01-05 01:00Z', 1, 'žluť 5')",
    )
    results = shop.extract()
    assert "(id=c21)" in str(results["customers"].error)
    assert "in 2 rows (id=400; id=401)" in str(results["orders"].error)


def test_with_warn_the_rows_land_and_are_told_of(shop: Shop) -> None:
    expecting(shop, prices=(Expect.unique("price", otherwise="warn"),))
    shop.sql("insert into prices values ('salt', 2.5)")
    result = shop.run()["prices"]
    assert [str(unmet) for unmet in result.unmet] == ["price is unique: not so in 2 rows (item=salt; item=tea)"]
    assert len(shop.published("shop__prices")) == 3
    assert_equal(shop)


@pytest.mark.parametrize("seed", range(2))
def test_a_table_stops_just_when_its_source_has_a_value_twice_whatever_happened_before(shop: Shop, seed: int) -> None:
    expecting(shop, customers=(Expect.unique("email"),), prices=(Expect.unique("price"),))
    chance = random.Random(seed)
    shop.run()
    for step in range(12):
        at = f"2026-01-01 15:{step:02}:00Z"
        for _ in range(chance.randint(1, 3)):
            number = chance.randrange(8)
            if chance.random() < 0.2:
                shop.sql(f"delete from customers where id = 'c{number}'")
            else:
                shop.sql(customer(number, chance.choice([None, *(f"m{n}@example.org" for n in range(9))]), at))
        item = chance.choice(["tea", "coffee", "salt"])
        shop.sql(
            f"insert into prices values ('{item}', {chance.randrange(6)}) on conflict (item) do update set price = excluded.price"
        )
        results = shop.run() if chance.random() < 0.3 else shop.extract()
        for name, column in (("customers", "email"), ("prices", "price")):
            with psycopg.connect(shop.url) as connection:
                twice = connection.execute(
                    f"select 1 from {name} where {column} is not null group by {column} having count(*) > 1"
                )
                assert isinstance(results[name].error, ExpectationFailed) is bool(twice.fetchall()), (step, name, results[name])


def referring(shop: Shop) -> None:
    """Orders, customers and clicks that name an item of the price list."""
    expecting(
        shop,
        orders=(Expect.references("note", "prices", otherwise="quarantine"),),
        customers=(Expect.references("tier", "shop.prices", "item", otherwise="quarantine"),),
        clicks=(Expect.references("page", "shop.prices", otherwise="quarantine"),),
    )
    shop.sql("update orders set note = case when id % 7 > 0 then 'tea' end", "update customers set tier = 'coffee'")
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        client.get_default_database()["clicks"].update_many({}, {"$set": {"page": "tea"}})


def kept(shop: Shop, name: str) -> list[str]:
    return sorted(row.key or "" for row in quarantined(shop.deployment, *table_of(shop, name)))


def test_a_row_that_refers_to_nothing_is_kept_and_finds_its_place_when_that_is_there(shop: Shop) -> None:
    referring(shop)
    assert [result.quarantined for result in shop.run().values()] == [0] * 4
    shop.sql(
        "insert into orders values (900, '2026-01-03 04:00Z', 1, 'salt'), (901, '2026-01-03 04:00Z', 1, 'tea')",
        "update customers set tier = 'salt', changed_at = '2026-01-01 14:30Z' where id = 'c3'",
    )
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        client.get_default_database()["clicks"].insert_one({"_id": "k", "at": FIRST + timedelta(days=1, hours=3), "page": "salt"})
    assert [result.error for result in shop.run().values()] == [None] * 4
    assert (kept(shop, "orders"), kept(shop, "customers"), kept(shop, "clicks")) == (["[900]"], ['["c3"]'], ['["k"]'])
    assert 901 in {row["id"] for row in shop.published("shop__orders")}
    assert "c3" not in {row["id"] for row in shop.published("shop__customers")}, "the version that it had is not the source's"
    assert_equal(shop)
    (row, *_) = quarantined(shop.deployment, *table_of(shop, "orders"))
    assert row.reason == "not so: note is in prices"
    # Days on, where nothing reads those rows again.
    shop.order(1000, 3, FIRST + timedelta(days=20))
    shop.sql("update orders set note = 'tea' where id >= 1000", customer(30, "c30", "2026-01-20 00:00Z"))
    shop.sql("update customers set tier = 'tea' where id = 'c30'")
    shop.run()
    assert_equal(shop)
    assert (kept(shop, "orders"), kept(shop, "customers"), kept(shop, "clicks")) == (["[900]"], ['["c3"]'], ['["k"]'])
    shop.sql("insert into prices values ('salt', 1)")
    results = shop.run()
    assert any("1 rows left the quarantine" in note for note in results["orders"].notes)
    shop.run()  # the sources know nothing of each other's order
    assert (kept(shop, "orders"), kept(shop, "customers"), kept(shop, "clicks")) == ([], [], [])
    assert {900, 901} <= {row["id"] for row in shop.published("shop__orders")}
    assert "c3" in {row["id"] for row in shop.published("shop__customers")}
    assert "k" in {row["_id"] for row in shop.published("clicks__clicks")}
    assert_equal(shop)
    assert [result.entries for result in shop.extract(full=True).values()] == [()] * 4


def test_what_is_referred_to_is_read_first_and_both_land_in_one_run(shop: Shop) -> None:
    referring(shop)
    shop.run()
    shop.sql(
        "insert into prices values ('salt', 1)",
        "insert into orders values (900, '2026-01-03 04:00Z', 1, 'salt')",
        "update customers set tier = 'salt', changed_at = '2026-01-01 14:30Z' where id = 'c3'",
    )
    assert [result.quarantined for result in shop.run().values()] == [0] * 4
    assert_equal(shop)


def test_a_source_that_comes_later_lets_the_next_run_find_the_place_though_nothing_else_is_new(shop: Shop) -> None:
    referring(shop)
    shop.run()
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        client.get_default_database()["clicks"].insert_one({"_id": "k", "at": FIRST + timedelta(days=1, hours=3), "page": "salt"})
    shop.extract()
    shop.sql("insert into prices values ('salt', 1)")
    first, second = shop.deployment.sources
    extract_source(shop.deployment, first, first.tables)
    assert kept(shop, "clicks") == ['["k"]']
    assert has_news(shop.deployment, second, second.tables, lambda: False)
    extract_source(shop.deployment, second, second.tables)
    assert kept(shop, "clicks") == []
    assert not has_news(shop.deployment, second, second.tables, lambda: False)


def test_a_replay_by_hand_asks_for_the_reference_too(shop: Shop) -> None:
    referring(shop)
    shop.sql("insert into orders values (900, '2026-01-03 04:00Z', 1, 'salt')")
    shop.extract()
    source, table = table_of(shop, "orders")
    done = replay_rows(shop.deployment, source, table, quarantined(shop.deployment, source, table))
    assert (done.taken, [row.reason for row in done.refused]) == ((), ["not so: note is in prices"])
    assert len(Quarantine(shop.deployment, source, table).rows()) == 1


@pytest.mark.parametrize("otherwise", ["stop", "warn"])
def test_rows_that_refer_to_nothing_stop_their_table_or_are_told_of(shop: Shop, otherwise: Any) -> None:
    expecting(shop, orders=(Expect.references("note", "prices", otherwise=otherwise),))
    result = shop.extract()["orders"]
    told = str(result.error.value) if result.error is not None else "; ".join(map(str, result.unmet))
    assert (result.error is None) is (otherwise == "warn")
    assert told.startswith("note is in prices: not so in ")
    assert "id=1;" in told


def test_an_expectation_of_other_rows_that_makes_no_sense_is_refused_by_name_when_the_table_is_read(shop: Shop) -> None:
    shop.extract()
    for orders, told in (
        (Expect.references("id", "prices"), "int64, and string in shop.prices"),
        (Expect.references("note", "prices", "nothing"), "string, and no such column in shop.prices"),
        (Expect.references("lost", "prices"), "no column 'lost'"),
        (Expect.unique("id", "lost"), "no column 'lost'"),
        (Expect.unique("amount", "note"), ""),
    ):
        expecting(shop, orders=(orders,))
        error = shop.extract()["orders"].error
        assert told in str(error)
        assert (error is None) is (told == "")
        assert told in str(plan_run(shop.deployment, shop.deployment.select(["shop.orders"])))
