"""Rows that an application marks as deleted: kept with their mark in every copy, and gone for who reads the warehouse."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pymongo
import pytest

from lakehouse import Column, Source, Table, bucket
from lakehouse.errors import DeclarationError
from lakehouse.orchestration.automation import tables_behind
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.look import is_up_to_date
from lakehouse.pipeline.plan import plan_run
from lakehouse.pipeline.repair import plan_repair, repair_table
from lakehouse.pipeline.statistics import mark_built, stale_statistics
from lakehouse.pipeline.status import table_status
from lakehouse.spec.declaration import TableFormat
from lakehouse.spec.soft_delete import SoftDeleted
from tests.shop import CLICKS, FIRST, SHOP, Shop, assert_equal

NOTES = Source(
    "clicks",
    "mongodb",
    (
        Table(
            "notes",
            "upsert",
            ("_id",),
            cursor="changed_at",
            event_time="changed_at",
            lookback=timedelta(hours=1),
            partition=bucket("_id", 2),
            soft_delete="is_deleted",
            columns=(
                Column("_id", "int64", nullable=False),
                Column("changed_at", "timestamp"),
                Column("is_deleted", "bool"),
                Column("tags", "list<string>"),
            ),
        ),
    ),
)


def declare(shop: Shop, *, format: TableFormat = "iceberg", soft_deleted: SoftDeleted = "hide", **marks: str) -> None:
    """Declare which column marks the rows of a table."""
    tables = tuple(
        replace(table, format=format, soft_delete=marks[table.name], soft_deleted=soft_deleted)
        if table.name in marks
        else replace(table, format=format)
        for table in SHOP.tables
    )
    shop.deployment = Deployment(shop.deployment.settings, (replace(SHOP, tables=tables), CLICKS))


@pytest.fixture
def marking(shop: Shop) -> Shop:
    """The shop, whose customers and prices can be marked."""
    shop.sql("alter table customers add deleted_at timestamptz", "alter table prices add is_deleted boolean")
    return shop


def mark(shop: Shop, *names: str, at: str = "2026-01-01 15:00Z") -> None:
    """Mark customers as the application does."""
    for name in names:
        shop.sql(f"update customers set deleted_at = '{at}', changed_at = '{at}' where id = '{name}'")


def seen(shop: Shop, table: str, key: str = "id") -> set[Any]:
    """The keys that readers of a published table see."""
    return {row[key] for row in shop.published(table, key)}


@pytest.mark.parametrize("format", ["iceberg", "delta"])
def test_a_marked_row_is_gone_for_readers_and_is_kept_with_its_mark_in_every_copy(marking: Shop, format: TableFormat) -> None:
    declare(marking, format=format, customers="deleted_at", prices="is_deleted")
    mark(marking, "c1")
    marking.run()
    assert "c1" not in seen(marking, "shop__customers")
    mark(marking, "c2", "c3", at="2026-01-01 16:00Z")
    marking.sql(
        "update prices set is_deleted = true where item = 'tea'", "update prices set is_deleted = false where item <> 'tea'"
    )
    marking.run()
    assert seen(marking, "shop__customers") == {"c0", "c4", "c5", "c6", "c7", "c8", "c9"}
    assert seen(marking, "shop__customers__with_deleted") == {f"c{i}" for i in range(10)}
    assert seen(marking, "shop__prices", "item") == {"coffee"}
    assert_equal(marking)
    source, table = marking.deployment.select(["shop.customers"])[0]
    assert sum(b.num_rows for b in marking.deployment.lake.scan(source.name, table)) == 10
    status = table_status(marking.deployment, source, table)
    assert (status.marked, status.warehouse_rows, status.state) == (3, 10, "up to date")
    marking.sql("update customers set deleted_at = null, changed_at = '2026-01-01 17:00Z' where id = 'c1'")
    marking.run()
    assert "c1" in seen(marking, "shop__customers"), "it was brought back"
    marking.sql("delete from customers where id = 'c2'")
    marking.run()
    assert "c2" not in seen(marking, "shop__customers__with_deleted"), "the sweep finds marked rows that are gone at last"
    assert_equal(marking)


def test_the_days_of_a_row_that_becomes_marked_are_stale_and_so_are_all_when_the_declaration_changes(marking: Shop) -> None:
    def stale() -> set[str]:
        found = stale_statistics(marking.deployment)
        mark_built(marking.deployment, found)
        return {str(day) for day in found.days}

    def copied() -> list[str]:
        there = "select name from system.tables where database = currentDatabase() and startsWith(name, 'shop__customers')"
        return sorted(marking.deployment.warehouse.query(there)["name"].to_pylist())

    marking.sql("update customers set created_at = created_at + interval '1 day' where id = 'c9'")
    mark(marking, "c2")
    marking.run()
    assert len(seen(marking, "shop__customers")) == 10
    stale()
    declare(marking, customers="deleted_at")
    chosen = marking.deployment.select(["shop.customers"])
    assert not is_up_to_date(marking.deployment, chosen)
    assert tables_behind(marking.deployment)[0] == ["shop.customers:1"], "the sensor starts a run"
    assert table_status(marking.deployment, *chosen[0]).state == "readers do not see it as declared"
    (plan,) = plan_run(marking.deployment, chosen).tables
    assert plan.changes[-1].text.startswith("readers of the warehouse see rows without deleted_at from then on")
    assert_equal(marking)
    results = marking.run()
    assert results["customers"].entries == (), "nothing is landed, applied or copied for it"
    assert "c2" not in seen(marking, "shop__customers")
    assert stale() == {"2026-01-01", "2026-01-02"}
    assert is_up_to_date(marking.deployment, chosen)
    mark(marking, "c9", at="2026-01-02 16:00Z")
    marking.run()
    assert stale() == {"2026-01-02"}, "the day of the row, though no reader sees it any more"
    assert_equal(marking)
    declare(marking, customers="deleted_at", soft_deleted="keep")
    marking.run()
    assert len(seen(marking, "shop__customers")) == 10
    assert copied() == ["shop__customers"]
    assert table_status(marking.deployment, *marking.deployment.select(["shop.customers"])[0]).marked == 2
    assert stale() == {"2026-01-01", "2026-01-02"}
    assert_equal(marking)


def test_a_column_that_does_not_say_whether_a_row_is_deleted_stops_its_table_alone(marking: Shop) -> None:
    for column, told in (
        ("tier", "a column of type string"),
        ("created_at", "a column of type timestamp that is never null"),
        ("gone_at", "no column 'gone_at'"),
    ):
        declare(marking, customers=column)
        results = marking.run()
        assert isinstance(results["customers"].error, DeclarationError)
        assert told in str(results["customers"].error)
        assert results["prices"].error is None
        (plan,) = plan_run(marking.deployment, marking.deployment.select(["shop.customers"])).tables
        assert plan.stops


def test_a_mark_that_is_dropped_at_the_source_stops_the_table_and_readers_see_what_they_saw(marking: Shop) -> None:
    declare(marking, customers="deleted_at")
    mark(marking, "c1")
    marking.run()
    marking.sql("alter table customers drop deleted_at")
    assert not is_up_to_date(marking.deployment, marking.deployment.select(["shop.customers"]))
    assert "no column 'deleted_at'" in str(marking.run()["customers"].error)
    assert len(seen(marking, "shop__customers")) == 9


def test_a_column_that_is_added_later_is_seen_by_readers(marking: Shop) -> None:
    declare(marking, customers="deleted_at")
    marking.run()
    marking.sql("alter table customers add country text default 'cz'")
    marking.run()
    assert {row["country"] for row in marking.published("shop__customers")} == {"cz"}
    assert_equal(marking)


@pytest.mark.parametrize("broken", ["view", "rows", "foreign"])
def test_what_somebody_did_to_the_published_names_is_mended(marking: Shop, broken: str) -> None:
    declare(marking, customers="deleted_at")
    mark(marking, "c1")
    marking.run()
    warehouse = marking.deployment.warehouse
    source, table = marking.deployment.select(["shop.customers"])[0]
    if broken == "rows":
        warehouse.query("drop table shop__customers__with_deleted sync")
    else:
        warehouse.query("drop view shop__customers")
    if broken == "foreign":
        warehouse.query("create view shop__customers as select 7 as mine")
    assert table_status(marking.deployment, source, table).state != "up to date"
    if broken == "view":
        marking.run()
    else:
        plan = plan_repair(marking.deployment, source, table)
        repair_table(marking.deployment, source, table, plan)
    assert len(seen(marking, "shop__customers")) == 9
    assert_equal(marking)
    kept = warehouse.query("select name from system.tables where database = currentDatabase() and startsWith(name, '__kept__')")
    names = [row["name"] for row in kept.to_pylist()]
    assert [warehouse.query(f"select * from {name}").to_pylist() for name in names] == [[{"mine": 7}]] * (broken == "foreign")


def test_a_history_keeps_what_a_row_was_when_it_was_marked(marking: Shop) -> None:
    tables = tuple(
        replace(table, history=True, soft_delete="deleted_at") if table.name == "customers" else table for table in SHOP.tables
    )
    marking.deployment = Deployment(marking.deployment.settings, (replace(SHOP, tables=tables), CLICKS))
    marking.run()
    mark(marking, "c1")
    marking.run()
    assert "c1" not in seen(marking, "shop__customers")
    states = [row for row in marking.published("shop__customers__history") if row["id"] == "c1"]
    assert sorted((row["is_current"], row["deleted_at"] is None, row["deleted"]) for row in states) == [
        (False, True, False),
        (True, False, False),
    ]


@pytest.mark.parametrize("format", ["iceberg", "delta"])
def test_a_document_that_is_marked_is_hidden_too(shop: Shop, format: TableFormat) -> None:
    notes = replace(NOTES, tables=(replace(NOTES.tables[0], format=format),))
    shop.deployment = Deployment(shop.deployment.settings, (SHOP, notes))
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        found = client.get_default_database()["notes"]
        found.create_index("changed_at")
        found.insert_many({"_id": number, "changed_at": FIRST, "tags": None if number else ["a"]} for number in range(4))
        shop.run()
        assert seen(shop, "clicks__notes", "_id") == {0, 1, 2, 3}, "a document without the field is not marked"
        found.update_one({"_id": 1}, {"$set": {"is_deleted": True, "changed_at": FIRST + timedelta(minutes=1)}})
        found.update_one({"_id": 2}, {"$set": {"is_deleted": False, "changed_at": FIRST + timedelta(minutes=1)}})
    shop.run()
    assert seen(shop, "clicks__notes", "_id") == {0, 2, 3}
    assert_equal(shop)
