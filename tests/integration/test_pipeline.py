"""The hops together, on all four servers: what arrives, what is not done twice, what verify finds."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import bson
import psycopg
import pymongo
import pytest

from lakehouse.errors import SourceMismatch
from lakehouse.pipeline import landing
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.status import source_status
from lakehouse.pipeline.windows import DayRange
from lakehouse.sources.postgres import PostgresSnapshot
from lakehouse.spec import Table, Window
from tests.shop import CLICKS, FIRST, Shop, assert_equal, day


def test_every_row_arrives_and_every_copy_is_equal(shop: Shop) -> None:
    shop.run()
    assert_equal(shop)
    assert len(shop.published("shop__orders")) == 150
    assert len(shop.published("clicks__clicks")) == 60


def test_a_second_run_lands_nothing(shop: Shop) -> None:
    first = shop.run()
    second = shop.run()
    assert all(result.entries for result in first.values())
    assert {name: result.entries for name, result in second.items()} == dict.fromkeys(second, ())
    assert {name: result.sequence for name, result in second.items()} == {name: r.sequence for name, r in first.items()}


def test_a_late_row_in_an_open_day_arrives_with_the_next_run(shop: Shop) -> None:
    shop.run()
    shop.order(900, 3, FIRST + timedelta(days=2, hours=3))
    results = shop.run()
    assert [str(d) for d in results["orders"].days] == ["2026-01-02", "2026-01-03"]
    assert_equal(shop)
    assert len(shop.published("shop__orders")) == 153


@pytest.mark.parametrize(("few_bytes", "readings"), [(landing.FEW_BYTES, 1), (0, 2)])
def test_a_day_that_changed_is_read_once_where_its_rows_are_few(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, few_bytes: int, readings: int
) -> None:
    shop.run()
    read, windows = PostgresSnapshot.read, list[Window]()

    def noted(snapshot: PostgresSnapshot, table: Table, window: Window | None = None, *more: Any) -> Any:
        if table.name == "orders" and window is not None:
            windows.append(window)
        return read(snapshot, table, window, *more)

    monkeypatch.setattr(PostgresSnapshot, "read", noted)
    monkeypatch.setattr(landing, "FEW_BYTES", few_bytes)
    shop.order(900, 3, FIRST + timedelta(days=2, hours=3))
    assert shop.run()["orders"].rows == 53
    assert [window.low for window in windows] == [FIRST + timedelta(days=1), *[FIRST + timedelta(days=2)] * readings]
    assert_equal(shop)


def test_a_row_that_was_landed_and_deleted_before_it_was_applied_is_gone_after_one_run(shop: Shop) -> None:
    shop.run()
    shop.sql("insert into customers values ('c77', null, 'free', '2026-01-01 14:40Z', '2026-01-01 14:40Z')")
    assert shop.extract()["customers"].entries
    shop.sql("delete from customers where id = 'c77'")
    shop.run()
    assert_equal(shop)
    assert "c77" not in {row["id"] for row in shop.published("shop__customers")}


def test_updates_soft_deletes_and_hard_deletes_arrive_everywhere(shop: Shop) -> None:
    shop.run()
    shop.sql(
        "update customers set tier = 'pro', changed_at = '2026-01-01 14:30Z' where id = 'c1'",
        "insert into customers values ('c99', null, 'free', '2026-01-01 14:40Z', '2026-01-01 14:40Z')",
        "delete from customers where id = 'c2'",
        "delete from prices where item = 'tea'",
        "update prices set price = 4 where item = 'coffee'",
    )
    shop.run()
    assert_equal(shop)
    tiers = {row["id"]: row["tier"] for row in shop.published("shop__customers")}
    assert tiers["c1"] == "pro"
    assert "c99" in tiers
    assert "c2" not in tiers
    assert shop.published("shop__prices") == [{"item": "coffee", "price": 4.0}]


def test_a_key_that_was_deleted_and_came_back_is_there_once(shop: Shop) -> None:
    shop.run()
    shop.sql("delete from customers where id = 'c3'")
    shop.run()
    shop.sql("insert into customers values ('c3', 'new@example.org', 'pro', '2026-01-01 08:00Z', '2026-01-01 14:50Z')")
    shop.run()
    assert_equal(shop)
    assert [row["tier"] for row in shop.published("shop__customers") if row["id"] == "c3"] == ["pro"]


def test_a_late_commit_inside_the_lookback_is_not_missed(shop: Shop) -> None:
    with psycopg.connect(shop.url) as slow:
        slow.execute("update customers set tier = 'slow', changed_at = '2026-01-01 13:50Z' where id = 'c5'")
        shop.run()
        slow.commit()
    shop.run()
    assert {row["id"]: row["tier"] for row in shop.published("shop__customers")}["c5"] == "slow"
    assert_equal(shop)


def test_personal_columns_land_as_tokens(shop: Shop) -> None:
    shop.run()
    emails = [row["email"] for row in shop.published("shop__customers")]
    assert all("@" not in email and len(email) == 32 for email in emails)


def test_a_missing_table_is_named_and_the_others_go_on(shop: Shop) -> None:
    shop.sql("alter table prices rename to price_list")
    results = shop.extract()
    assert isinstance(results["prices"].error, SourceMismatch)
    assert "price_list" in str(results["prices"].error)
    assert results["orders"].error is None
    assert results["orders"].rows == 150


def test_only_the_days_that_were_asked_for_are_read(shop: Shop) -> None:
    results = shop.extract(DayRange(day(2), day(2)))
    assert results["orders"].days == (day(2),)
    assert results["orders"].rows == 50


def _orders_differ(shop: Shop, copy: str) -> tuple[str, ...]:
    report = shop.verify()["shop.orders"]
    assert not report.equal
    assert [c.copy for c in report.copies if c.differs] == [copy]
    return next(c.differs for c in report.copies if c.copy == copy)


def test_a_row_changed_behind_the_back_of_the_warehouse_is_found_by_partition(shop: Shop) -> None:
    shop.run()
    name = f"`{shop.deployment.settings.warehouse.database}`.`shop__orders`"
    shop.deployment.warehouse.query(f"alter table {name} update amount = 0 where id = 105 settings mutations_sync = 2")
    assert _orders_differ(shop, "warehouse") == ("at_day=2026-01-02",)


def test_a_row_changed_behind_the_back_of_the_source_is_found_by_partition(shop: Shop) -> None:
    shop.run()
    shop.sql("update orders set amount = 77 where id = 5")
    assert _orders_differ(shop, "source") == ("at_day=2026-01-01",)
    shop.sql("update customers set tier = 'gold' where id = 'c4'")
    report = shop.verify(deep=True)["shop.customers"]
    assert [c.copy for c in report.copies if c.differs] == ["source"]


def test_a_changed_raw_file_is_found_and_named(shop: Shop) -> None:
    shop.run()
    store = shop.deployment.store
    path = next(
        info.path for info in store.list("raw/shop/orders") if info.path.endswith(".parquet") and "2026-01-02" in info.path
    )
    data = bytearray(store.get(path))
    data[len(data) // 2] ^= 1
    store.put(path, bytes(data))
    raw = next(c for c in shop.verify()["shop.orders"].copies if c.copy == "raw")
    assert not raw.equal
    assert "day=2026-01-02" in raw.problem


def test_a_lake_that_somebody_else_wrote_to_is_found_by_partition(shop: Shop) -> None:
    shop.run()
    from pyiceberg.catalog import load_catalog

    settings = shop.deployment.settings
    endpoint, keys = settings.store.endpoint, (settings.store.access_key, settings.store.secret_key)
    assert endpoint is not None
    catalog = load_catalog(
        settings.catalog.name,
        type="sql",
        uri=settings.catalog.url.get_secret_value().replace("postgresql://", "postgresql+psycopg2://"),
        **{
            "s3.endpoint": endpoint,
            "s3.access-key-id": keys[0].get_secret_value() if keys[0] else "",
            "s3.secret-access-key": keys[1].get_secret_value() if keys[1] else "",
        },
    )
    catalog.load_table("shop.orders").delete("id = 5")
    report = shop.verify()["shop.orders"]
    lake = next(c for c in report.copies if c.copy == "lake")
    assert not lake.equal
    assert lake.differs == ("at_day=2026-01-01",)


def test_rows_that_the_source_changed_since_are_pending_not_different(shop: Shop) -> None:
    shop.run()
    shop.sql("update customers set tier = 'new', changed_at = '2026-01-02 10:00Z' where id = 'c7'", "delete from prices")
    shop.order(950, 2, FIRST + timedelta(days=2, hours=5))
    reports = shop.verify()
    assert all(report.equal for report in reports.values())
    pending = {name: next(c.pending for c in report.copies if c.copy == "source") for name, report in reports.items()}
    assert pending["shop.customers"] == 1
    assert pending["shop.prices"] == 2
    assert pending["shop.orders"] == 2


def test_a_missing_index_is_said_before_the_scan_and_in_the_status(shop: Shop) -> None:
    clicks = shop.deployment.sources[1]
    assert source_status(shop.deployment, clicks).warnings == ()
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        client.get_default_database()["clicks"].drop_indexes()
    (warning,) = source_status(shop.deployment, clicks).warnings
    assert warning.startswith("clicks: no index on 'at' of collection 'clicks'")
    said: list[str] = []
    (result,) = extract_source(shop.deployment, clicks, clicks.tables, on_event=said.append)
    assert "createIndex" in said[0]
    assert said[1].startswith("clicks.clicks: 60 rows")
    assert result.notes == (said[0].removeprefix("clicks.clicks: "),)


def test_documents_keep_their_lists_and_objects(shop: Shop) -> None:
    shop.run()
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        document = client.get_default_database()["clicks"].find_one({"page": "/p/3"})
    assert document is not None
    row = next(row for row in shop.published("clicks__clicks") if row["_id"] == str(document["_id"]))
    assert row["tags"] == document["tags"]
    assert '"deep"' in row["extra"]
    assert json.loads(row["device"]) == {
        "os": "ž",
        "sizes": [document["device"]["sizes"][0]],
        "seen": [{"at": "2026-01-01T02:00:00.000000Z", "n": document["device"]["undeclared"]}, {"at": None, "n": None}],
    }
    assert bson.decode(_kept(shop, row["_id"])) == document


def test_a_table_may_begin_and_end_to_keep_its_documents(shop: Shop) -> None:
    keeping = shop.deployment
    leaving = replace(CLICKS, tables=tuple(replace(table, keep_document=False) for table in CLICKS.tables))
    shop.deployment = Deployment(keeping.settings, (leaving,))
    shop.run()
    assert_equal(shop)
    assert "_document" not in shop.published("clicks__clicks")[0]
    shop.deployment = Deployment(keeping.settings, (CLICKS,))
    result = shop.run()["clicks"]
    assert "new in the source: _document" in result.notes[0]
    assert_equal(shop)
    assert all(row["_document"] for row in shop.published("clicks__clicks"))
    shop.deployment = Deployment(keeping.settings, (leaving,))
    shop.click(3, FIRST + timedelta(days=1, hours=3))
    shop.run()
    assert_equal(shop)
    assert len(shop.published("clicks__clicks")) == 63


def test_masked_fields_of_documents_are_in_no_copy(shop: Shop) -> None:
    masked = replace(CLICKS, tables=tuple(replace(table, personal={"page": "mask"}, key=("_id",)) for table in CLICKS.tables))
    shop.deployment = Deployment(shop.deployment.settings, (masked,))
    shop.run()
    assert_equal(shop)
    rows = shop.published("clicks__clicks", "page, hex(_document) as kept")
    assert {row["page"] for row in rows} == {"/***"}
    assert all(b"/p/" not in bytes.fromhex(row["kept"]) for row in rows)


def _kept(shop: Shop, identity: str) -> bytes:
    kept = {row["_id"]: row["kept"] for row in shop.published("clicks__clicks", "_id, hex(_document) as kept")}
    return bytes.fromhex(kept[identity])
