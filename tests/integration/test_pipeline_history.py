"""Histories from end to end: a source changes, and lake and warehouse tell what its rows were, and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pymongo
import pytest

from lakehouse import Column, Source, Table
from lakehouse.errors import DamagedData, SourceMismatch, Unsupported
from lakehouse.orchestration.automation import tables_behind
from lakehouse.orchestration.definitions import build_definitions
from lakehouse.orchestration.keys import lake_key, raw_key, verified_key, warehouse_key
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.diff import diff_table
from lakehouse.pipeline.look import is_up_to_date
from lakehouse.pipeline.maintain import maintain_table
from lakehouse.pipeline.orphans import find_orphans
from lakehouse.pipeline.plan import plan_run
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.query import query
from lakehouse.pipeline.repair import plan_repair, repair_table
from lakehouse.pipeline.rollback import rollback_table
from lakehouse.pipeline.statistics import mark_built, stale_statistics
from lakehouse.pipeline.status import check_sources, table_status
from lakehouse.pipeline.verify import verify_source_tables
from lakehouse.spec import History, declared_tables
from tests.shop import CLICKS, SHOP, Shop, assert_equal

PROFILES = Source(
    "clicks",
    "mongodb",
    (
        Table(
            "profiles",
            "upsert",
            ("_id",),
            cursor="changed_at",
            deletes="sweep",
            format="delta",
            columns=(
                Column("_id", "string", nullable=False),
                Column("changed_at", "timestamp"),
                Column("name", "string"),
                Column("address", "struct<city: string>"),
            ),
            history=True,
        ),
    ),
)


@pytest.fixture
def kept(shop: Shop) -> Shop:
    """The shop, which keeps the history of customers and prices; it has run once."""
    tables = tuple(replace(table, history=table.mode != "append") for table in SHOP.tables)
    shop.deployment = Deployment(shop.deployment.settings, (replace(SHOP, tables=tables), CLICKS))
    shop.run()
    return shop


def of(shop: Shop, name: str) -> tuple[Source, Table]:
    ((source, table),) = shop.deployment.select([name])
    return source, table


def taken_at(shop: Shop, name: str) -> list[datetime]:
    """When the source was read for each entry."""
    return [entry.manifest.position.taken_at for entry in shop.deployment.log(*of(shop, name)).entries()]


def as_of(shop: Shop, table: str, moment: datetime, columns: str) -> set[tuple[Any, ...]]:
    """Rows of a table as its published history says that they were."""
    name = f"`{shop.deployment.settings.warehouse.database}`.`{table}__history`"
    at = f"toDateTime64('{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}', 6, 'UTC')"
    query = f"select {columns} from {name} where valid_from <= {at} and ({at} < valid_to or valid_to is null)"
    return {tuple(row.values()) for row in shop.deployment.warehouse.query(query).to_pylist()}


def test_what_was_changed_and_deleted_in_postgres_is_told_as_it_was_at_any_time(kept: Shop) -> None:
    kept.sql("update customers set tier = 'pro', changed_at = '2026-01-01 15:00Z' where id = 'c1'")
    kept.run()
    kept.sql("delete from customers where id = 'c2'", "update prices set price = 2.75 where item = 'tea'")
    kept.run()
    first, changed, *_ = taken_at(kept, "shop.customers")
    tiers = {(f"c{number}", "free") for number in range(10)}
    assert as_of(kept, "shop__customers", first, "id, tier") == tiers
    tiers = tiers - {("c1", "free")} | {("c1", "pro")}
    assert as_of(kept, "shop__customers", changed, "id, tier") == tiers
    now = datetime.now(UTC)
    assert as_of(kept, "shop__customers", now, "id, tier") == tiers - {("c2", "free")}
    history = kept.published("shop__customers__history", "id, tier, is_current, deleted")
    assert {tuple(row.values()) for row in history if row["id"] in ("c1", "c2")} == {
        ("c1", "free", False, False),
        ("c1", "pro", True, False),
        ("c2", "free", False, True),
    }
    assert [as_of(kept, "shop__prices", at, "item, price") for at in taken_at(kept, "shop.prices")] == [
        {("tea", 2.5), ("coffee", 3.25)},
        {("tea", 2.75), ("coffee", 3.25)},
    ]
    assert_equal(kept)


def test_what_was_changed_and_deleted_in_mongodb_is_told_as_it_was_at_any_time(shop: Shop) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (PROFILES,))
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        profiles = client.get_default_database()["profiles"]
        profiles.create_index("changed_at")
        at = datetime(2026, 1, 1, tzinfo=UTC)
        profiles.insert_many(
            {"_id": name, "changed_at": at, "name": name, "address": {"city": "Brno"}} for name in ("ada", "bob", "eve")
        )
        shop.run()
        profiles.update_one({"_id": "ada"}, {"$set": {"address.city": "Praha", "changed_at": datetime(2026, 1, 2, tzinfo=UTC)}})
        shop.run()
        profiles.delete_one({"_id": "bob"})
        shop.run()
    first, moved, gone = taken_at(shop, "clicks.profiles")
    columns = "_id, JSONExtractString(assumeNotNull(address), 'city')"
    assert as_of(shop, "clicks__profiles", first, columns) == {("ada", "Brno"), ("bob", "Brno"), ("eve", "Brno")}
    assert as_of(shop, "clicks__profiles", moved, columns) == {("ada", "Praha"), ("bob", "Brno"), ("eve", "Brno")}
    assert as_of(shop, "clicks__profiles", gone, columns) == {("ada", "Praha"), ("eve", "Brno")}
    assert_equal(shop)


def test_a_history_that_is_declared_later_has_all_that_the_raw_log_has(shop: Shop, kept: Shop) -> None:
    sources = kept.deployment.sources
    kept.deployment = Deployment(kept.deployment.settings, (replace(SHOP, name="shop"), CLICKS))
    kept.sql("update customers set tier = 'pro', changed_at = '2026-01-01 15:00Z' where id = 'c1'")
    kept.run()
    kept.sql("update customers set tier = 'gold', changed_at = '2026-01-01 16:00Z' where id = 'c1'")
    kept.run()
    kept.deployment = Deployment(kept.deployment.settings, sources)
    kept.run()
    tiers = [row["tier"] for row in sorted(history_of_c1(kept), key=lambda row: row["valid_from"])]
    assert tiers == ["free", "pro", "gold"]
    assert_equal(kept)


def history_of_c1(shop: Shop) -> Sequence[dict[str, Any]]:
    return [row for row in shop.published("shop__customers__history") if row["id"] == "c1"]


def test_a_window_that_is_read_again_with_the_same_rows_begins_nothing(kept: Shop) -> None:
    before = kept.published("shop__customers__history")
    kept.sql("insert into customers values ('c99', 'x', 'free', '2026-01-01 15:00Z', '2026-01-01 15:00Z')")
    kept.run(full=True)
    after = kept.published("shop__customers__history")
    assert [row["id"] for row in after if row not in before] == ["c99"]
    assert len(after) == len(before) + 1


def test_a_verification_reads_a_history_again_only_when_something_landed(kept: Shop) -> None:
    name = "shop.customers__history"
    assert {copy.read for copy in kept.verify()[name].copies} == {10}
    again = kept.verify()[name]
    assert again.equal
    assert [(copy.copy, copy.read, copy.taken) for copy in again.copies] == [
        ("raw", 0, 10),
        ("lake", 0, 10),
        ("warehouse", 0, 10),
    ]
    assert {copy.read for copy in kept.verify(deep=True)[name].copies} == {10}
    kept.sql("update customers set tier = 'pro', changed_at = '2026-01-01 15:00Z' where id = 'c1'")
    kept.run()
    assert {copy.rows for copy in kept.verify()[name].copies} == {11}


def test_a_history_is_verified_without_its_source(kept: Shop) -> None:
    source, table = of(kept, "shop.customers__history")
    (report,) = verify_source_tables(kept.deployment, replace(source, name="shop"), [table])
    assert report.equal
    assert [copy.copy for copy in report.copies] == ["raw", "lake", "warehouse"]


def test_rows_of_a_published_history_that_somebody_altered_are_found_and_copied_anew(kept: Shop) -> None:
    database = kept.deployment.settings.warehouse.database
    kept.deployment.warehouse.query(
        f"alter table `{database}`.`shop__customers__history` delete where id = 'c3' settings mutations_sync = 2"
    )
    report = kept.verify(deep=True)["shop.customers__history"]
    assert [copy.copy for copy in report.copies if not copy.equal] == ["warehouse"]
    source, table = of(kept, "shop.customers__history")
    repair_table(kept.deployment, source, table, plan_repair(kept.deployment, source, table))
    assert_equal(kept)


def test_a_damaged_lake_file_of_a_history_is_found_and_the_history_folded_anew_from_the_log(kept: Shop) -> None:
    kept.sql("update customers set tier = 'pro', changed_at = '2026-01-01 15:00Z' where id = 'c1'")
    kept.run()
    before = kept.published("shop__customers__history")
    source, table = of(kept, "shop.customers__history")
    store = kept.deployment.store
    files = [info for info in store.list(kept.deployment.lake.root(source.name, table)) if info.path.endswith(".parquet")]
    for info in files:
        store.put(info.path, store.get(info.path)[:-7] + b"1234567")
    assert not kept.verify(deep=True)["shop.customers__history"].equal
    plan = plan_repair(kept.deployment, source, table)
    assert [step.split(":")[0] for step in plan.steps] == ["lake"]
    repair_table(kept.deployment, source, table, plan)
    assert sorted(kept.published("shop__customers__history"), key=repr) == sorted(before, key=repr)
    assert_equal(kept)


def test_damage_of_the_raw_log_is_left_to_the_repair_of_the_table(kept: Shop) -> None:
    source, table = of(kept, "shop.customers__history")
    log = kept.deployment.log(source, table)
    entry = log.entries()[0]
    kept.deployment.store.delete(f"{log.folder}/{entry.manifest.files[0].path}")
    plan = plan_repair(kept.deployment, source, table)
    assert plan.steps == ()
    assert "run `lakehouse repair shop.customers` first" in plan.problems[0]
    with pytest.raises(DamagedData, match="lakehouse repair shop"):
        repair_table(kept.deployment, source, table, plan)
    first = of(kept, "shop.customers")
    repair_table(kept.deployment, *first, plan_repair(kept.deployment, *first))
    repair_table(kept.deployment, source, table, plan_repair(kept.deployment, source, table))
    assert_equal(kept)
    assert len(kept.published("shop__customers__history")) == 10


def test_a_history_goes_back_to_an_earlier_version_and_catches_up_again(kept: Shop) -> None:
    source, table = of(kept, "shop.customers__history")
    kept.sql("update customers set tier = 'pro', changed_at = '2026-01-01 15:00Z' where id = 'c1'")
    kept.run()
    after = sorted(kept.published("shop__customers__history"), key=repr)
    versions = kept.deployment.lake.history(source.name, table)
    found = diff_table(kept.deployment, source, table, versions[0].version, None, limit=9)
    assert (found.added, found.changed, found.removed) == (1, 1, 0)
    rollback_table(kept.deployment, source, table, versions[0].version)
    assert len(kept.published("shop__customers__history")) == 10
    kept.run()
    assert sorted(kept.published("shop__customers__history"), key=repr) == after
    assert_equal(kept)


def test_a_history_is_looked_at_planned_queried_and_looked_after_like_a_table(kept: Shop) -> None:
    here = kept.deployment
    source, table = of(kept, "shop.customers__history")
    status = table_status(here, source, table)
    assert (status.mode, status.rows, status.raw_bytes, status.state) == ("history", 10, 0, "up to date")
    mark_built(here, stale_statistics(here))
    assert is_up_to_date(here, here.select())
    check_sources(here, here.select())
    assert [change for plan in plan_run(here, [(source, table)]).tables for change in plan.changes] == []
    kept.sql("update customers set tier = 'pro', changed_at = '2026-01-01 15:00Z' where id = 'c1'")
    kept.extract()
    assert [change.kind for plan in plan_run(here, [(source, table)]).tables for change in plan.changes] == ["apply"]
    assert {name.split(":")[0] for name in tables_behind(here)[0]} == {"shop.customers", "shop.customers__history"}
    assert not is_up_to_date(here, [(source, table)])
    assert here.with_histories(here.select(["shop.customers"])) == here.select(["shop.customers", "shop.customers__history"])
    kept.run()
    counted = query(here, "select count(*) as n from shop.customers__history where is_current")
    assert counted["n"].to_pylist() == [10]
    assert maintain_table(here, source, table) is not None
    assert {orphan.where for orphan in find_orphans(here, [(source, table)]).found} <= {"scratch"}


def test_a_history_has_assets_of_its_own_whose_input_is_the_raw_log_of_its_table(kept: Shop) -> None:
    source, table = of(kept, "shop.customers__history")
    definitions = build_definitions(kept.deployment.sources, settings=kept.deployment.settings)
    graph = definitions.resolve_asset_graph()
    assert isinstance(table, History)
    assert graph.get(lake_key(source, table)).parent_keys == {raw_key(source, table.of)}
    assert graph.get(warehouse_key(source, table)).parent_keys == {lake_key(source, table)}
    assert verified_key(source, table) in graph.asset_check_keys


def test_a_table_that_has_a_column_of_a_historys_names_is_refused_by_name_and_others_go_on(kept: Shop) -> None:
    kept.sql("alter table customers add column deleted bool")
    results = kept.extract()
    assert isinstance(results["customers"].error, SourceMismatch)
    assert "columns of the table: deleted" in str(results["customers"].error)
    assert results["prices"].error is None


def test_spark_refuses_a_history_by_name_and_says_which_engine_folds_it(kept: Shop) -> None:
    kept.sql("update customers set tier = 'pro', changed_at = '2026-01-01 15:00Z' where id = 'c1'")
    kept.extract()
    settings = kept.deployment.settings.model_copy(update={"engine": "spark"})
    spark = Deployment(settings, kept.deployment.sources)
    with pytest.raises(Unsupported, match="LAKEHOUSE_ENGINE=embedded"):
        apply_table(spark, *of(kept, "shop.customers__history"))
    source, table = of(kept, "shop.customers__history")
    apply_table(kept.deployment, source, table)
    publish_table(kept.deployment, source, table)
    assert declared_tables([table]) == [of(kept, "shop.customers")[1]]


def test_a_column_that_appears_and_one_that_widens_are_followed(kept: Shop) -> None:
    kept.sql(
        "alter table customers add column points int",
        "update customers set points = 7, changed_at = '2026-01-01 15:00Z' where id = 'c1'",
    )
    kept.run()
    kept.sql(
        "alter table customers alter column points type bigint",
        "update customers set points = 7, changed_at = '2026-01-01 15:00Z' where id = 'c1'",
        "update customers set points = 8, changed_at = '2026-01-01 16:00Z' where id = 'c2'",
    )
    kept.run()
    assert_equal(kept)
    assert sorted((row["points"] or 0, row["is_current"]) for row in history_of_c1(kept)) == [(0, False), (7, True)]
