"""Rows that a table refuses: the others land, these are kept as they came, and find their place once the table takes them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import dagster as dg
import pymongo
import pytest

from lakehouse import Column, Expect
from lakehouse.errors import ValueRefused, WrongUse
from lakehouse.orchestration.factory import source_assets
from lakehouse.pipeline import landing
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.quarantine import Quarantine
from lakehouse.pipeline.rebuild import plan_rebuild, rebuild_table
from lakehouse.pipeline.replay import discard_rows, quarantined, replay_rows
from lakehouse.spec import Source, Table
from tests.shop import CLICKS, FIRST, SHOP, Shop, assert_equal

Declared = dict[str, dict[str, Any]]


def declare(shop: Shop, **changed: dict[str, Any]) -> None:
    """Every table with what is declared of it."""

    def again(source: Source) -> Source:
        tables = (replace(table, **changed.get(table.name, {})) for table in source.tables)
        return replace(source, tables=tuple(tables))

    shop.deployment = Deployment(shop.deployment.settings, (again(SHOP), again(CLICKS)))


def table_of(shop: Shop, name: str) -> tuple[Source, Table]:
    for source, table in shop.deployment.select():
        if table.name == name:
            return source, table
    raise AssertionError(name)


def kept(shop: Shop, name: str) -> list[tuple[Any, str, str]]:
    """Key, column and state of the rows in a table's quarantine."""
    rows = quarantined(shop.deployment, *table_of(shop, name))
    return sorted((json.loads(row.key or "[null]")[0], row.column, row.state) for row in rows)


def replayed(shop: Shop, name: str) -> Any:
    source, table = table_of(shop, name)
    return replay_rows(shop.deployment, source, table, quarantined(shop.deployment, source, table))


def click(shop: Shop, **values: Any) -> None:
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        client.get_default_database()["clicks"].insert_one({"at": FIRST + timedelta(hours=3), **values})


def spoil(shop: Shop) -> None:
    """One bad row in each table, and one more that is good."""
    shop.sql(
        "insert into orders values (900, '2026-01-01 01:30Z', 'NaN', 'bad'), (901, '2026-01-01 01:31Z', 5, 'good')",
        "alter table customers add score numeric(6,2)",
        "update customers set score = 1, changed_at = '2026-01-01 14:30Z' where id = 'c3'",
        "update customers set score = 'NaN', changed_at = '2026-01-01 14:31Z' where id = 'c4'",
        "alter table prices add since date",
        "insert into prices values ('salt', 1, 'infinity'), ('rice', 2, '2026-01-01')",
    )
    click(shop, _id="bad", page=5)
    click(shop, _id="good", page="/p")


@pytest.mark.parametrize("few_bytes", [landing.FEW_BYTES, 0])
def test_what_a_table_refuses_is_kept_as_it_came_and_all_else_lands(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, few_bytes: int
) -> None:
    monkeypatch.setattr(landing, "FEW_BYTES", few_bytes)
    declare(shop)
    spoil(shop)
    results = shop.run()
    assert [result.error for result in results.values()] == [None] * 4
    assert {name: result.quarantined for name, result in results.items()} == dict.fromkeys(results, 1)
    assert kept(shop, "orders") == [(900, "amount", "open")]
    assert kept(shop, "customers") == [("c4", "score", "open")]
    assert kept(shop, "prices") == [("salt", "since", "open")]
    assert kept(shop, "clicks") == [("bad", "page", "open")]
    assert_equal(shop)
    (row,) = shop.published("shop__orders__quarantine")
    assert json.loads(row["row"]) == {"id": "900", "at": "2026-01-01 01:30:00+00", "amount": "NaN", "note": "bad"}
    assert row["reason"] == "NaN, and it takes what decimal(10,2) holds exactly"
    assert row["moment"] == datetime(2026, 1, 1, 1, 30, tzinfo=UTC)
    (row,) = shop.published("clicks__clicks__quarantine")
    assert json.loads(row["row"])["page"] == 5
    (found,) = quarantined(shop.deployment, *table_of(shop, "clicks"))
    assert bson.decode(found.original)["page"] == 5
    assert {row["id"] for row in shop.published("shop__orders")} >= {901}
    assert {row["_id"] for row in shop.published("clicks__clicks")} >= {"good"}
    again = shop.run(full=True)
    assert [result.entries for result in again.values()] == [()] * 4, "nothing is new"
    assert_equal(shop)


def test_a_refused_value_stops_its_table_where_that_is_declared(shop: Shop) -> None:
    declare(shop, **{table.name: {"on_refused": "stop"} for source in (SHOP, CLICKS) for table in source.tables})
    spoil(shop)
    results = shop.run()
    assert all(isinstance(result.error, ValueRefused) for result in results.values())


def test_a_row_that_became_bad_is_not_in_its_table_any_more_and_comes_back_when_it_is_good(shop: Shop) -> None:
    declare(shop)
    shop.run()
    spoil(shop)
    shop.sql("update orders set amount = 'NaN' where id in (5, 105)", "update prices set since = '-infinity' where item = 'tea'")
    shop.run(full=True)
    assert_equal(shop)
    assert kept(shop, "orders") == [(n, "amount", "open") for n in (5, 105, 900)]
    assert {5, 105}.isdisjoint(row["id"] for row in shop.published("shop__orders"))
    assert "c4" not in {row["id"] for row in shop.published("shop__customers")}
    assert {row["item"] for row in shop.published("shop__prices")} == {"coffee", "rice"}
    shop.sql(
        "update orders set amount = 1 where id in (5, 900)",
        "update customers set score = 2, changed_at = '2026-01-01 15:30Z' where id = 'c4'",
        "delete from prices where item = 'salt'",
    )
    shop.run(full=True)
    assert kept(shop, "orders") == [(105, "amount", "open")]
    assert kept(shop, "customers") == []
    assert kept(shop, "prices") == [("tea", "since", "open")]
    assert {row["id"]: str(row["score"]) for row in shop.published("shop__customers")}["c4"] == "2.00"
    assert_equal(shop)


def test_a_refused_row_that_is_deleted_in_the_source_leaves_the_quarantine_with_the_key_sweep(shop: Shop) -> None:
    declare(shop)
    spoil(shop)
    shop.run()
    shop.sql("delete from customers where id in ('c4', 'c5')")
    shop.run()
    assert kept(shop, "customers") == []
    assert_equal(shop)


def test_rows_are_replayed_once_the_table_takes_them_even_if_the_source_has_lost_them(shop: Shop) -> None:
    declare(shop)
    shop.sql("alter table orders alter amount type numeric", "alter table customers add score numeric")
    exact = (Column("amount", "decimal(6,2)"),)
    declare(shop, orders={"columns": exact}, customers={"columns": (Column("score", "decimal(4,2)"),)})
    shop.sql(
        "update orders set amount = 123456.5 where id in (5, 6, 105)",
        "update customers set score = 1234.5, changed_at = '2026-01-01 14:31Z' where id = 'c4'",
    )
    click(shop, _id="bad", page=5)
    shop.run()
    assert [len(kept(shop, name)) for name in ("orders", "customers", "clicks")] == [3, 1, 1]
    assert replayed(shop, "orders").taken == ()
    shop.sql("delete from orders where id = 6")
    widened = tuple(replace(c, mixed="widen") if c.name == "page" else c for c in CLICKS.tables[0].columns)
    declare(
        shop,
        orders={"columns": (Column("amount", "decimal(12,2)"),)},
        customers={"columns": (Column("score", "decimal(8,2)"),)},
        clicks={"columns": widened},
    )
    for name, count in (("orders", 3), ("customers", 1), ("clicks", 1)):
        source, table = table_of(shop, name)
        rows = quarantined(shop.deployment, source, table)
        assert len(replay_rows(shop.deployment, source, table, rows).taken) == count
        assert replay_rows(shop.deployment, source, table, rows).taken == (), "a row that is replayed twice is there once"
        assert kept(shop, name) == []
    amounts = {row["id"]: str(row["amount"]) for row in shop.published("shop__orders")}
    assert [amounts[number] for number in (5, 6, 105)] == ["123456.50"] * 3
    assert len(amounts) == 150
    assert {row["_id"]: row["page"] for row in shop.published("clicks__clicks")}["bad"] == "5"
    shop.sql("insert into orders values (6, '2026-01-01 01:06Z', 123456.5, 'žluť 6')")
    shop.run(full=True)
    assert_equal(shop)


def test_rows_are_replayed_into_a_table_that_was_rebuilt_to_take_them(shop: Shop) -> None:
    declare(shop)
    shop.sql("update orders set amount = 'NaN' where id in (5, 105)")
    shop.run()
    declare(shop, orders={"columns": (Column("amount", "string"),)})
    source, table = table_of(shop, "orders")
    rebuild_table(shop.deployment, source, table, plan_rebuild(shop.deployment, source, table))
    done = replayed(shop, "orders")
    assert (len(done.taken), len(done.waiting)) == (1, 1), "the next run reads the open day anyway"
    shop.run()
    assert kept(shop, "orders") == []
    amounts = {row["id"]: row["amount"] for row in shop.published("shop__orders")}
    assert (amounts[5], amounts[105], len(amounts)) == ("NaN", "NaN", 150)
    assert_equal(shop)


def test_rows_that_are_not_what_is_expected_go_to_the_quarantine_where_that_is_declared(shop: Shop) -> None:
    positive = Expect.between("amount", 0, None, otherwise="quarantine")
    declare(shop, orders={"expect": (positive,)})
    shop.sql("update orders set amount = -amount where id in (1, 101)")
    shop.run()
    assert kept(shop, "orders") == [(1, "amount", "open"), (101, "amount", "open")]
    assert len(shop.published("shop__orders")) == 148
    assert_equal(shop)
    assert [row.reason for row in replayed(shop, "orders").refused] == ["not so: amount is at least 0"] * 2
    declare(shop)
    assert len(replayed(shop, "orders").taken) == 2
    assert {row["id"]: str(row["amount"]) for row in shop.published("shop__orders")}[101] == "-25.25"
    assert_equal(shop)
    assert [result.entries for result in shop.run(full=True).values()] == [()] * 4


def test_a_row_that_was_discarded_is_not_counted_until_another_value_is_refused(shop: Shop) -> None:
    declare(shop)
    spoil(shop)
    shop.run()
    source, table = table_of(shop, "orders")
    (row,) = quarantined(shop.deployment, source, table)
    assert discard_rows(shop.deployment, source, table, [row]) == 1
    assert shop.run(full=True)["orders"].quarantined == 0
    assert kept(shop, "orders") == [(900, "amount", "discarded")]
    assert_equal(shop)
    shop.sql("update orders set note = 'still bad' where id = 900")
    assert shop.run(full=True)["orders"].quarantined == 1
    with pytest.raises(WrongUse, match="looking for row 'zz'"):
        quarantined(shop.deployment, source, table, ["zz"])


def test_what_is_personal_is_not_in_the_quarantine_either(shop: Shop) -> None:
    declare(shop, clicks={"personal": {"page": "mask"}})
    spoil(shop)
    click(shop, _id="person", page="Ann", tags=5)
    shop.run()
    (row,) = quarantined(shop.deployment, *table_of(shop, "customers"))
    assert "example.org" not in (row.row or "") + row.original.decode()
    assert json.loads(row.original)["email"], "a token"
    clicks = quarantined(shop.deployment, *table_of(shop, "clicks"))
    assert {row.column for row in clicks} == {"page", "tags"}
    assert all(b"Ann" not in row.original and "5 " not in row.reason for row in clicks if row.column == "page")
    assert all("page" not in bson.decode(row.original) for row in clicks)


def test_a_table_with_more_refused_rows_than_can_be_kept_stops(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakehouse.pipeline.gate.MOST", 10)
    declare(shop)
    shop.sql("update orders set amount = 'NaN' where id < 11")
    error = shop.run()["orders"].error
    assert isinstance(error, ValueRefused)
    assert "more than 10 rows" in str(error)


@pytest.mark.parametrize("point", ["Quarantine.remove", "Landing.land_written", "Quarantine.keep"])
def test_a_death_between_the_two_logs_is_finished_by_the_next_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    declare(shop)
    spoil(shop)
    shop.run()
    shop.sql(
        "update orders set amount = 1 where id = 900",
        "update orders set amount = 'NaN' where id = 901",
        "update customers set score = 2, changed_at = '2026-01-01 15:30Z' where id = 'c4'",
        "update customers set score = 'NaN', changed_at = '2026-01-01 15:31Z' where id = 'c3'",
        "delete from prices where item = 'salt'",
        "update prices set since = 'infinity' where item = 'rice'",
    )

    class Killed(BaseException):
        pass

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    owner = {"Quarantine": Quarantine, "Landing": landing.Landing}[point.partition(".")[0]]
    for source, table in shop.deployment.select(["shop"]):
        with monkeypatch.context() as patch:
            patch.setattr(owner, point.partition(".")[2], dies)
            with pytest.raises(Killed):
                extract_source(shop.deployment, source, [table], full=True)
    shop.run(full=True)
    assert kept(shop, "orders") == [(901, "amount", "open")]
    assert kept(shop, "customers") == [("c3", "score", "open")]
    assert kept(shop, "prices") == [("rice", "since", "open")]
    assert_equal(shop)


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
def test_the_asset_counts_the_rows_in_quarantine_and_tells_how_columns_changed(shop: Shop) -> None:
    declare(shop, customers={"refused_at_most": 0.2})
    shop.run()
    spoil(shop)
    shop.sql("insert into orders values (910, '2026-01-03 02:00Z', 'NaN', 'bad, in a day that is open')")
    (source, *_) = shop.deployment.sources
    extract, *_ = (asset for asset in source_assets(shop.deployment, source) if isinstance(asset, dg.AssetsDefinition))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([extract], instance=instance)
        checks = {(check.asset_key.path[-1], check.check_name): check for check in result.get_asset_check_evaluations()}
        told = {
            key.path[-1]: event.asset_observation.metadata["difference"].value
            for key in (dg.AssetKey(["raw", "shop", name]) for name in ("orders", "customers", "prices"))
            for record in instance.fetch_observations(key, limit=1).records
            if (event := record.event_log_entry).asset_observation is not None
        }
    assert {name: check.passed for (name, kind), check in checks.items() if kind == "quarantine"} == {
        "orders": False,
        "customers": True,
        "prices": False,
    }
    found = checks["orders", "quarantine"].metadata
    assert found["rows in quarantine"].value == 1
    assert found["row [910]"].value == "amount: NaN, and it takes what decimal(10,2) holds exactly"
    assert told == {"customers": "score (decimal(6,2)) is new", "prices": "since (date) is new"}
