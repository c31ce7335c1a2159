"""A verification reads what has changed since the last one, finds what a full one finds, and no record of its own fools it."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from pyiceberg.table import Table as IcebergTable

from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.verify import CopyReport, TableReport, verify_source_tables
from lakehouse.pipeline.windows import DayRange
from lakehouse.settings import StoreSettings
from lakehouse.tables import marker as markers
from tests.shop import FIRST, Shop, day

Read = dict[str, tuple[int, int]]


def copies(report: TableReport) -> dict[str, CopyReport]:
    return {copy.copy: copy for copy in report.copies}


def read(report: TableReport) -> Read:
    """By copy: rows that were read, and rows that were known."""
    assert report.equal, report
    return {copy.copy: (copy.read, copy.taken) for copy in report.copies}


def differs(report: TableReport) -> dict[str, tuple[str, ...]]:
    return {copy.copy: copy.differs for copy in report.copies if not copy.equal}


def assert_as_deep(shop: Shop) -> dict[str, TableReport]:
    """Everything is equal, and reading everything gives the same rows and checksums; the first of the two."""
    quick, deep = shop.verify(), shop.verify(deep=True)
    for name, report in deep.items():
        assert quick[name].equal, quick[name]
        assert [(c.copy, c.sequence, c.rows, c.checksum) for c in report.copies] == [
            (c.copy, c.sequence, c.rows, c.checksum) for c in quick[name].copies
        ]
        assert all(copy.taken == 0 for copy in report.copies)
    return quick


def change_warehouse(shop: Shop, statement: str) -> None:
    name = f"`{shop.deployment.settings.warehouse.database}`.`shop__orders`"
    shop.deployment.warehouse.query(statement.format(name))


def said(shop: Shop, deployment: Deployment | None = None) -> tuple[dict[str, TableReport], str]:
    """What is reported of the Postgres tables, and what is said meanwhile."""
    here, lines = deployment or shop.deployment, list[str]()
    source = here.sources[0]
    reports = verify_source_tables(here, source, source.tables, on_event=lines.append)
    return {report.table: report for report in reports}, "\n".join(lines)


def test_only_what_changed_since_it_was_found_equal_is_read(shop: Shop) -> None:
    shop.run()
    first = shop.verify()
    assert {copy: taken for copy, (_, taken) in read(first["shop.orders"]).items()} == dict.fromkeys(
        ("source", "raw", "lake", "warehouse"), 0
    )
    again = shop.verify()
    # Two of the three days are open, so that the source is compared with them once more.
    assert read(again["shop.orders"]) == {"source": (100, 50), "raw": (0, 150), "lake": (0, 150), "warehouse": (0, 150)}
    assert read(again["shop.customers"]) == {"source": (1, 9), "raw": (0, 10), "lake": (0, 10), "warehouse": (0, 10)}
    assert read(again["shop.prices"]) == {"source": (2, 0), "raw": (2, 0), "lake": (0, 2), "warehouse": (0, 2)}
    since = copies(again["shop.orders"])["lake"].since
    assert since is not None

    shop.order(900, 3, FIRST + timedelta(days=2, hours=3))
    shop.sql(
        "update customers set tier = 'pro', created_at = '2026-01-01 05:30Z', changed_at = '2026-01-01 14:30Z' where id = 'c1'",
        "insert into customers values ('c99', null, 'free', '2026-01-01 14:40Z', '2026-01-01 14:40Z')",
        "delete from customers where id = 'c2'",
        "update prices set price = 4 where item = 'coffee'",
    )
    shop.run()
    later = shop.verify()
    assert read(later["shop.orders"])["lake"] == read(later["shop.orders"])["warehouse"] == (53, 100)
    assert copies(later["shop.orders"])["lake"].since == since
    # Entries that bring c1 and c99, and one that takes c2 away.
    assert read(later["shop.customers"])["raw"] == (2, 8)
    assert_as_deep(shop)

    shop.sql("insert into customers values ('c2', null, 'back', '2026-01-01 08:00Z', '2026-01-01 14:50Z')")
    shop.run()
    assert_as_deep(shop)


def test_the_warehouse_changed_by_others_is_found_though_nothing_else_is_read(shop: Shop) -> None:
    shop.run()
    shop.verify()
    found: list[str] = []
    for number, statement in (
        (2, "alter table {} update amount = 0 where id = 105 settings mutations_sync = 2"),
        (1, "insert into {} (id, at) values (7777, '2026-01-01 12:00:00')"),
        (3, "delete from {} where id = 205"),
    ):
        change_warehouse(shop, statement)
        found.append(f"at_day=2026-01-{number:02d}")
        report = shop.verify()["shop.orders"]
        assert differs(report) == {"warehouse": tuple(sorted(found))}
        assert copies(report)["lake"].read == 0
        assert copies(report)["warehouse"].taken == 150 - 50 * len(found)


def test_a_value_changed_in_a_day_that_was_published_since_is_found(shop: Shop) -> None:
    shop.run()
    shop.verify()
    shop.order(900, 3, FIRST + timedelta(days=2, hours=3))
    shop.run()
    change_warehouse(shop, "alter table {} update note = 'x' where id = 901 settings mutations_sync = 2")
    report = shop.verify()["shop.orders"]
    assert differs(report) == {"warehouse": ("at_day=2026-01-03",)}
    assert copies(report)["lake"].taken == 100


def test_merged_parts_are_read_again_and_are_equal(shop: Shop) -> None:
    shop.run()
    shop.verify()
    change_warehouse(shop, "optimize table {} final")
    assert read(shop.verify()["shop.orders"])["warehouse"] == (150, 0)
    assert read(shop.verify()["shop.orders"])["warehouse"] == (0, 150)


def test_bytes_changed_in_place_are_found_by_a_deep_verification_and_by_any_that_sees_the_write(
    shop: Shop, tmp_path: Path
) -> None:
    here = shop.deployment
    settings = here.settings.model_copy(update={"store": StoreSettings(url=(tmp_path / "store").as_uri())})
    shop.deployment = Deployment(settings, here.sources[:1])
    shop.run()
    shop.verify()
    lake = next((tmp_path / "store" / "lake" / "shop" / "orders").rglob("*2026-01-01*/*.parquet"))
    raw = next((tmp_path / "store" / "raw" / "shop" / "orders").rglob("day=2026-01-01/*.parquet"))
    for path, copy in ((lake, "lake"), (raw, "raw")):
        whole, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        flipped = bytearray(whole)
        flipped[len(whole) // 3] ^= 1
        path.write_bytes(bytes(flipped))
        os.utime(path, ns=times)
        assert copies(shop.verify()["shop.orders"])[copy].taken >= 50
        deep = shop.verify(deep=True)["shop.orders"]
        assert not copies(deep)[copy].equal
        path.write_bytes(bytes(flipped))  # and this time it shows
        assert not copies(shop.verify()["shop.orders"])[copy].equal
        path.write_bytes(whole)
        assert shop.verify()["shop.orders"].equal


def test_an_entry_that_the_lake_says_it_has_and_has_not_is_found_in_partitions_that_did_not_change(shop: Shop) -> None:
    shop.run()
    shop.verify()
    shop.sql("update customers set tier = 'lost', changed_at = '2026-01-01 14:30Z' where id = 'c1'")
    shop.extract()
    source = shop.deployment.sources[0]
    table = source.table("customers")
    state = shop.deployment.lake.state("shop", table)
    assert state is not None
    head = shop.deployment.log(source, table).head()
    assert head > state.current.marker.sequence
    properties = markers.marker_properties(
        type(state.current.marker)(head, state.current.marker.rows, state.current.marker.checksum),
        changed_days=(),
        partitions=(),
        commit_id="by hand",
    )
    handle: IcebergTable = shop.deployment.lake._existing("shop", table).iceberg  # type: ignore[attr-defined]
    with handle.transaction() as transaction, transaction.update_snapshot(snapshot_properties=properties).fast_append():
        pass
    publish_table(shop.deployment, source, table)
    report = shop.verify()["shop.customers"]
    assert set(differs(report)) == {"lake", "warehouse"}
    assert len(copies(report)["lake"].differs) == 1
    assert copies(report)["lake"].read == copies(report)["warehouse"].read == 0


def test_after_a_rollback_a_backfill_and_a_new_column_every_copy_is_as_a_deep_verification_says(shop: Shop) -> None:
    shop.run()
    shop.verify()
    source = shop.deployment.sources[0]
    orders, customers = source.table("orders"), source.table("customers")
    shop.order(900, 3, FIRST + timedelta(days=2, hours=3))
    shop.sql("update customers set tier = 'pro', changed_at = '2026-01-01 14:30Z' where id = 'c1'")
    shop.run()
    shop.verify()
    for table in (orders, customers):
        shop.deployment.lake.rollback("shop", table, shop.deployment.lake.history("shop", table)[0].version)
        publish_table(shop.deployment, source, table)
    behind = shop.verify()
    assert not behind["shop.orders"].equal
    assert "behind" in copies(behind["shop.customers"])["lake"].problem
    for table in (orders, customers):
        apply_table(shop.deployment, source, table)
        publish_table(shop.deployment, source, table)
    assert_as_deep(shop)

    shop.sql("update orders set amount = 77 where id = 5")
    assert shop.verify()["shop.orders"].equal, "the day is closed, was compared, and is not read again"
    assert differs(shop.verify(deep=True)["shop.orders"]) == {"source": ("at_day=2026-01-01",)}
    shop.run(DayRange(day(1), day(1)), full=True)
    assert read(assert_as_deep(shop)["shop.orders"])["lake"] == (50, 103)

    shop.sql("alter table customers add column city text", "update customers set city = 'Brno' where id = 'c4'")
    shop.run()
    reports, lines = said(shop)
    assert "shop.customers: the columns have changed since the last verification: everything is read" in lines
    assert all(copy.taken == 0 for copy in reports["shop.customers"].copies)
    assert_as_deep(shop)
    assert read(shop.verify()["shop.customers"])["lake"] == (0, 10)


def test_a_record_that_does_not_fit_makes_it_read_and_never_pass(shop: Shop) -> None:
    shop.run()
    shop.verify()
    store, path = shop.deployment.store, "verified/shop/orders.json"
    old = store.get(path)

    def all_is_read(reports: dict[str, TableReport]) -> bool:
        return all(copy.taken == 0 for copy in reports["shop.orders"].copies)

    store.put(path, old.replace(b'"sequence": 3', b'"sequence": 2'))
    reports, lines = said(shop)
    assert all_is_read(reports)
    assert "shop.orders: the record of the last verification is damaged" in lines
    assert not all_is_read(said(shop)[0]), "a good record was written instead"
    store.put(path, b"{}")
    assert all_is_read(said(shop)[0])
    store.delete(path)
    assert all_is_read(said(shop)[0])

    shop.order(900, 3, FIRST + timedelta(days=2, hours=3))
    shop.run()
    shop.verify()
    store.put(path, old)
    stale = said(shop)[0]["shop.orders"]
    assert read(stale)["lake"] == (53, 100)
    change_warehouse(shop, "alter table {} update amount = 0 where id = 105 settings mutations_sync = 2")
    store.put(path, old)
    assert differs(said(shop)[0]["shop.orders"]) == {"warehouse": ("at_day=2026-01-02",)}
    assert store.get(path) == old, "a difference leaves the record as it is"

    declared = shop.deployment.sources[0]
    tables = tuple(replace(table, lookback=timedelta(hours=7)) for table in declared.tables)
    changed = Deployment(shop.deployment.settings, (replace(declared, tables=tables),))
    reports, lines = said(shop, changed)
    assert "shop.orders: the declaration has changed since the last verification" in lines
    assert all_is_read(reports)
