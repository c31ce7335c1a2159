"""A damaged copy is found, named, and rebuilt from the nearest good one; a repair that is killed is begun again."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from lakehouse.errors import DamagedData
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.damage import diagnose
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.repair import Plan, plan_repair, repair_table
from lakehouse.pipeline.repair_record import RepairRecord, read_records
from lakehouse.pipeline.status import table_status
from lakehouse.pipeline.verify import verify_source_tables
from lakehouse.spec import Source, Table
from lakehouse.stores import ObjectStore
from tests.shop import FIRST, Shop


def table_of(shop: Shop, name: str) -> tuple[Source, Table]:
    ((source, table),) = shop.deployment.select([name])
    return source, table


def planned(shop: Shop, name: str) -> Plan:
    return plan_repair(shop.deployment, *table_of(shop, name))


def repaired(shop: Shop, name: str) -> RepairRecord:
    return repair_table(shop.deployment, *table_of(shop, name), planned(shop, name))


def flip(store: ObjectStore, path: str) -> str:
    """One bit of an object is another one."""
    data = bytearray(store.get(path))
    data[len(data) // 2] ^= 1
    store.put(path, bytes(data))
    return store.url_of(path)


def data_file(shop: Shop, prefix: str, holding: str = "") -> str:
    """The newest data file below a folder."""
    found = [info for info in shop.deployment.store.list(prefix) if info.path.endswith(".parquet") and holding in info.path]
    return max(found, key=lambda info: info.modified).path


def entry_path(shop: Shop, name: str, sequence: int) -> str:
    return f"raw/{name.replace('.', '/')}/_log/{sequence:020d}.json"


def assert_repaired(shop: Shop, name: str, what: str) -> RepairRecord:
    """The damage is named, a repair heals it, and then there is nothing left to do."""
    plan = planned(shop, name)
    assert plan.steps
    assert what in " ".join(f"{one.what} {one.found}" for one in plan.diagnosis.damage)
    record = repair_table(shop.deployment, *table_of(shop, name), plan)
    assert record.done
    assert_table_equal(shop, name)
    return record


def assert_table_equal(shop: Shop, name: str) -> None:
    source, table = table_of(shop, name)
    (report,) = verify_source_tables(shop.deployment, source, [table])
    assert report.equal, report
    assert len({(copy.rows, copy.checksum) for copy in report.copies}) == 1, report


def test_a_damaged_raw_file_of_a_day_is_landed_anew_from_whoever_has_its_rows(shop: Shop) -> None:
    shop.run()
    store, table = shop.deployment.store, table_of(shop, "shop.orders")[1]
    before = len(shop.deployment.log(*table_of(shop, "shop.orders")).entries())
    named = flip(store, data_file(shop, "raw/shop/orders", "2026-01-02"))
    record = assert_repaired(shop, "shop.orders", named)
    assert "from the source" in record.done[0]
    entries = shop.deployment.log(*table_of(shop, "shop.orders")).entries()
    assert len(entries) == before + 1
    assert entries[-1].manifest.window == next(
        e.manifest.window for e in entries if named.rpartition("/")[2] in e.manifest.files[0].path
    )
    shop.sql("delete from orders where at < '2026-01-02'")
    store.delete(data_file(shop, "raw/shop/orders", "2026-01-01"))
    plan = planned(shop, "shop.orders")
    assert "from the lake" in plan.steps[0]
    repair_table(shop.deployment, *table_of(shop, "shop.orders"), plan)
    assert len(shop.published("shop__orders")) == 150
    assert not diagnose(shop.deployment, *table_of(shop, "shop.orders")).damage
    assert table.mode == "append"


def test_a_damaged_raw_file_from_before_a_renaming_is_landed_anew_as_it_came(shop: Shop) -> None:
    shop.run()
    first, *others = shop.deployment.sources
    orders, *tables = first.tables
    shop.sql("alter table orders rename column amount to total")
    renamed = replace(first, tables=(replace(orders, renamed={"total": "amount"}), *tables))
    shop.deployment = Deployment(shop.deployment.settings, (renamed, *others))
    shop.run()
    before = {row["id"]: row["total"] for row in shop.published("shop__orders")}
    shop.sql("delete from orders where at < '2026-01-02'")
    shop.deployment.store.delete(data_file(shop, "raw/shop/orders", "2026-01-01"))
    plan = planned(shop, "shop.orders")
    assert "from the lake" in plan.steps[0]
    repair_table(shop.deployment, *table_of(shop, "shop.orders"), plan)
    assert {row["id"]: row["total"] for row in shop.published("shop__orders")} == before
    assert not diagnose(shop.deployment, *table_of(shop, "shop.orders")).damage


def test_rows_that_are_in_no_copy_any_more_stop_the_repair(shop: Shop) -> None:
    shop.extract()
    shop.sql("delete from orders where at < '2026-01-02'")
    shop.deployment.store.delete(data_file(shop, "raw/shop/orders", "2026-01-01"))
    plan = planned(shop, "shop.orders")
    assert plan.problems == ("the day 2026-01-01 had 50 rows; the source has purged to 0, and the lake has not got them",)
    with pytest.raises(DamagedData, match="the source has purged"):
        repaired(shop, "shop.orders")
    (record,) = read_records(shop.deployment, *table_of(shop, "shop.orders"))
    assert "purged" in record.problem
    assert record.ended


@pytest.mark.parametrize("applied", [True, False], ids=["the lake has applied it", "the lake is behind"])
def test_a_log_of_changing_rows_is_begun_anew_by_a_snapshot(shop: Shop, applied: bool) -> None:
    shop.run()
    shop.sql("update customers set tier = 'pro', changed_at = '2026-01-01 14:30Z' where id = 'c1'")
    shop.sql("delete from customers where id = 'c2'")
    (shop.run if applied else shop.extract)()
    store, name = shop.deployment.store, "shop.customers"
    lake = table_of(shop, name)
    log = shop.deployment.log(*lake)
    damaged = entry_path(shop, name, 2)
    store.put(damaged, store.get(damaged)[:-9])
    record = assert_repaired(shop, name, store.url_of(damaged))
    assert ("snapshot of the lake" if applied else "could be read") in record.done[0]
    assert log.entries()[-1].sequence == log.head()
    assert 2 not in [entry.sequence for entry in log.entries()]
    shop.sql("update customers set tier = 'gold', changed_at = '2026-01-01 14:50Z' where id = 'c3'")
    shop.run()
    assert_table_equal(shop, name)
    tiers = {row["id"]: row["tier"] for row in shop.published("shop__customers")}
    assert (tiers["c1"], tiers["c3"], "c2" in tiers) == ("pro", "gold", False)


def test_a_log_that_lost_its_end_takes_no_batch_until_it_is_repaired(shop: Shop) -> None:
    shop.run()
    shop.order(900, 3, FIRST + timedelta(days=2, hours=3))
    shop.run()
    log = shop.deployment.log(*table_of(shop, "shop.orders"))
    head = log.head()
    shop.deployment.store.delete(entry_path(shop, "shop.orders", head))
    assert log.head() == head - 1
    shop.order(950, 3, FIRST + timedelta(days=2, hours=4))
    refused = shop.extract()["orders"].error
    assert isinstance(refused, DamagedData)
    assert "lakehouse repair shop.orders" in str(refused)
    repaired(shop, "shop.orders")
    assert log.head() == head + 1
    shop.run()
    assert_table_equal(shop, "shop.orders")
    assert len(shop.published("shop__orders")) == 156


def test_a_damaged_snapshot_table_is_landed_anew(shop: Shop) -> None:
    shop.run()
    store = shop.deployment.store
    store.delete(data_file(shop, "raw/shop/prices"))
    assert_repaired(shop, "shop.prices", "raw/shop/prices")
    manifest = entry_path(shop, "shop.prices", 2)
    store.put(manifest, b"{")
    assert_repaired(shop, "shop.prices", manifest)


def test_a_damaged_lake_is_folded_anew_from_its_log(shop: Shop) -> None:
    shop.run()
    store, name = shop.deployment.store, "shop.customers"
    source, table = table_of(shop, name)
    (first,) = shop.deployment.lake.history(source.name, table)
    for holding in ("id_bucket=0", "id_bucket=1"):
        assert_repaired(shop, name, flip(store, data_file(shop, "lake/shop/customers/data", holding)))
    manifest_list = newest(store, "lake/shop/customers/metadata", "snap-")
    store.delete(manifest_list)
    assert_repaired(shop, name, "customers")
    assert shop.deployment.lake.history(source.name, table)[0] == first
    metadata = newest(store, "lake/shop/customers/metadata", ".metadata.json")
    store.put(metadata, store.get(metadata)[:200])
    assert_repaired(shop, name, "metadata")


def newest(store: ObjectStore, prefix: str, holding: str) -> str:
    return max((i for i in store.list(prefix) if holding in i.path), key=lambda i: (i.modified, i.path)).path


def test_a_published_table_that_somebody_dropped_or_altered_is_copied_anew(shop: Shop) -> None:
    shop.run()
    warehouse, database = shop.deployment.warehouse, shop.deployment.settings.warehouse.database
    name = f"`{database}`.`shop__orders`"
    for statement, found in (
        (f"alter table {name} update amount = 0 where id = 105 settings mutations_sync = 2", "at_day=2026-01-02"),
        (f"drop table {name} sync", "not there"),
        (f"alter table {name} drop column note", "cannot be read"),
        (f"alter table {name} modify comment 'mine'", "did not publish"),
    ):
        warehouse.query(statement)
        assert_repaired(shop, "shop.orders", found)
    tables = warehouse.query(f"select name from system.tables where database = '{database}'")["name"].to_pylist()
    assert len([name for name in tables if name.startswith("__kept__shop__orders")]) == 1
    assert not [name for name in tables if name.startswith("__next__")]


def test_a_repair_leaves_a_record_that_tells_what_was_damaged_and_what_was_done(shop: Shop) -> None:
    shop.run()
    assert not planned(shop, "shop.prices").damaged
    path = data_file(shop, "lake/shop/prices/data")
    shop.deployment.store.delete(path)
    record = repaired(shop, "shop.prices")
    (read,) = read_records(shop.deployment, *table_of(shop, "shop.prices"))
    assert read == record
    assert read.ended
    assert [one["copy"] for one in read.damaged] == ["lake"]
    assert path in read.damaged[0]["found"]
    assert "folded 1 entries anew" in read.done[0]
    assert "@" in read.who
    assert json.loads(shop.deployment.store.get(record.path))["table"] == "shop.prices"


def test_status_says_what_is_behind_and_what_is_damaged_and_what_mends_it(shop: Shop) -> None:
    name = "shop.orders"
    source, table = table_of(shop, name)
    shop.extract()
    apply_table(shop.deployment, source, table)
    status = table_status(shop.deployment, source, table)
    assert status.behind == ("the published table is missing: run `lakehouse run --select shop.orders`",)
    shop.run()
    assert table_status(shop.deployment, source, table).state == "up to date"
    shop.order(900, 3, FIRST + timedelta(days=2, hours=3))
    shop.extract()
    (words,) = table_status(shop.deployment, source, table).behind
    assert words == "1 batch landed that the lake has not applied: run `lakehouse run --select shop.orders`"
    store, damaged = shop.deployment.store, data_file(shop, "raw/shop/orders", "2026-01-01")
    store.put(damaged, b"short")
    store.put(entry_path(shop, name, 2), b"{")
    said = table_status(shop.deployment, source, table).damaged
    assert [one.endswith("run `lakehouse repair shop.orders`") for one in said] == [True, True]
    assert said[0].startswith("raw log entry 2 cannot be read")
    assert f"{damaged} of entry 1 has 5 bytes instead of" in said[1]
