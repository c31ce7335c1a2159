"""What dead attempts left is found, and removed only when it is older than every possible writer."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from lakehouse.errors import TooLate
from lakehouse.pipeline import orphans as looking
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.orphans import Orphan, find_orphans, remove_orphans
from lakehouse.settings import StoreSettings
from lakehouse.spec import LogEntry
from lakehouse.stores import elapsed
from tests.shop import FIRST, SHOP, Shop


@pytest.fixture
def folder_shop(shop: Shop, tmp_path: Path) -> Shop:
    """The shop's tables on a store in a folder, where a test can make files old."""
    settings = shop.deployment.settings.model_copy(
        update={"store": StoreSettings(url=(tmp_path / "store").as_uri()), "home": tmp_path / "home"}
    )
    shop.deployment = Deployment(settings, (SHOP,))
    return shop


def found_in(shop: Shop) -> tuple[Orphan, ...]:
    return find_orphans(shop.deployment, shop.deployment.select()).found


def test_only_files_that_nothing_names_and_no_writer_can_want_are_removed(folder_shop: Shop, tmp_path: Path) -> None:
    shop, store, root = folder_shop, folder_shop.deployment.store, tmp_path / "store"
    shop.run()
    shop.order(900, 3, FIRST + timedelta(days=2, hours=3))
    shop.run()
    kept = {info.path for info in store.list("")}
    assert [o.name for o in found_in(shop) if o.where != "scratch"] == []
    dead = ["raw/shop/orders/day=2026-01-02/dead-0.parquet", "lake/shop/orders/data/at_day=2026-01-02/dead-0-0.parquet"]
    young = ["raw/shop/orders/day=2026-01-02/new-0.parquet", "lake/shop/orders/metadata/dead-m0.avro"]
    for path in dead + young:
        store.put(path, b"12345")
    for path in dead + sorted(kept):
        long_ago = (root / path).stat().st_mtime - timedelta(hours=49).total_seconds()
        os.utime(root / path, (long_ago, long_ago))
    warehouse, database = shop.deployment.warehouse, shop.deployment.settings.warehouse.database
    warehouse.query(f"create table `{database}`.`__next__shop__orders__0123456789ab` (a UInt8) engine = MergeTree order by a")
    orphans = find_orphans(shop.deployment, shop.deployment.select())
    assert {o.name: (o.where, o.bytes, o.young) for o in orphans.found if o.where != "scratch"} == {
        dead[0]: ("raw", 5, False),
        dead[1]: ("lake", 5, False),
        young[0]: ("raw", 5, True),
        young[1]: ("lake", 5, True),
        f"{database}.__next__shop__orders__0123456789ab": ("warehouse", 0, True),
    }
    assert {o.name for o in remove_orphans(shop.deployment, orphans) if o.where != "scratch"} == set(dead)
    assert {info.path for info in store.list("")} == kept | set(young)
    assert shop.verify()["shop.orders"].equal


def test_nothing_of_a_table_is_touched_whose_log_or_metadata_cannot_be_read(folder_shop: Shop) -> None:
    shop, store = folder_shop, folder_shop.deployment.store
    shop.run()
    metadata = max(i.path for i in store.list("lake/shop/orders/metadata") if i.path.endswith(".metadata.json"))
    store.put("raw/shop/orders/_log/00000000000000000002.json", b"{")
    store.put(metadata, b"{")
    orphans = find_orphans(shop.deployment, shop.deployment.select(["shop.orders"]))
    assert [o for o in orphans.found if o.where != "scratch"] == []
    assert [reason.partition(":")[0] for reason in orphans.skipped] == ["shop.orders, raw", "shop.orders, lake"]
    other = folder_shop.deployment.settings.catalog.model_copy(update={"name": "another"})
    elsewhere = Deployment(shop.deployment.settings.model_copy(update={"catalog": other}), (SHOP,))
    skipped = find_orphans(elsewhere, elsewhere.select(["shop.prices"])).skipped
    assert "there is no such table, and the store has its metadata" in skipped[0]


def test_an_unreadable_entry_that_a_later_snapshot_made_void_protects_no_files(folder_shop: Shop, tmp_path: Path) -> None:
    shop, store = folder_shop, folder_shop.deployment.store
    shop.run()
    first = next(info.path for info in store.list("raw/shop/prices") if info.path.endswith(".parquet"))
    shop.sql("update prices set price = 9 where item = 'tea'")
    shop.run()
    store.put("raw/shop/prices/_log/00000000000000000001.json", b"{")
    for info in store.list("raw/shop/prices"):
        os.utime(tmp_path / "store" / info.path, (1, 1))
    orphans = find_orphans(shop.deployment, shop.deployment.select(["shop.prices"]))
    assert orphans.skipped == ()
    assert [o.name for o in remove_orphans(shop.deployment, orphans) if o.where != "scratch"] == [first]
    shop.deployment.lake.rebuild("shop", shop.deployment.select(["shop.prices"])[0][1], *log_of(shop, "shop.prices"))
    assert shop.verify(deep=True)["shop.prices"].equal


def log_of(shop: Shop, name: str) -> tuple[list[LogEntry], str]:
    log = shop.deployment.log(*shop.deployment.select([name])[0])
    return log.entries(), log.folder


def test_a_writer_that_took_too_long_may_not_claim_or_commit(folder_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = folder_shop
    shop.run()
    shop.order(900, 3, FIRST + timedelta(days=2, hours=3))
    real = elapsed.started
    monkeypatch.setattr(elapsed, "started", lambda: real() + 25 * 3600)
    refused = shop.extract()["orders"].error
    assert isinstance(refused, TooLate)
    assert "LAKEHOUSE_LONGEST_WRITE_HOURS" in str(refused)
    monkeypatch.undo()
    shop.run()
    assert shop.verify()["shop.orders"].equal


def test_a_scratch_folder_that_another_process_removes_meanwhile_is_no_orphan(
    folder_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp = folder_shop.deployment.settings.home / "tmp"
    left = [tmp / looking.SCRATCH[0].replace("*", name) for name in ("one", "two")]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / ".lock").touch()

    def looked_at(folder: Path) -> bool:
        if folder == left[0]:
            shutil.rmtree(folder)
        return folder in left

    monkeypatch.setattr(looking, "_is_abandoned", looked_at)
    assert [o.name for o in found_in(folder_shop) if o.where == "scratch"] == [str(left[1])]
