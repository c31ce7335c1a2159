"""What the lake cannot rebuild by itself comes back from a backup, whole or not at all; what it can, it rebuilds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from dagster_postgres import DagsterPostgresStorage
from pydantic import SecretStr

from lakehouse import faults
from lakehouse.errors import ConfigurationError, DamagedData, ServiceFailed, StoreUnavailable, Unsupported, WrongUse
from lakehouse.faults import FaultInjected
from lakehouse.orchestration.storage_tables import storage_tables
from lakehouse.pipeline.backup import make_backup
from lakehouse.pipeline.backup_database import StorageTables
from lakehouse.pipeline.backup_manifest import MANIFEST, BackupManifest, open_place, read_manifest, whole_backups
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.repair import plan_repair, repair_table
from lakehouse.pipeline.restore import Restored, restore_backup
from lakehouse.settings import StoreSettings
from lakehouse.tables.iceberg.rows import CatalogCopy, CatalogRows
from tests.conftest import fresh_name
from tests.crash.matrix import both_formats
from tests.shop import FIRST, Shop, assert_equal


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A place for backups."""
    return (tmp_path / "backups").as_uri()


@pytest.fixture
def storages(shop: Shop) -> Iterator[tuple[StorageTables, StorageTables]]:
    """Two databases for Dagster's storage: one with a run and its events, one in which nothing was made yet."""
    settings, names = shop.deployment.settings, (fresh_name(), fresh_name())
    catalog = settings.catalog.url.get_secret_value()
    with psycopg.connect(catalog, autocommit=True) as connection:
        for name in names:
            connection.execute(f"create database {name}")
    urls = [f"{catalog.rpartition('/')[0]}/{name}" for name in names]
    full, empty = (
        storage_tables(settings.model_copy(update={"dagster": settings.dagster.model_copy(update={"url": SecretStr(url)})}))
        for url in urls
    )
    live(full.url)
    yield full, empty
    with psycopg.connect(catalog, autocommit=True) as connection:
        for name in names:
            connection.execute(f"drop database {name} with (force)")


def live(url: str, run_id: str = "4f6f6b6e-0000-4000-8000-000000000001") -> None:
    """One run more in Dagster's storage, with a line of what it did."""
    storage = DagsterPostgresStorage(url)
    storage.run_storage.add_run(dg.DagsterRun(job_name="tea", run_id=run_id, tags={"with\ttab": 'and "\\N" text'}))
    entry_of: Any = dg.EventLogEntry
    entry = entry_of(
        error_info=None, user_message="žluť\n\\.", level=20, run_id=run_id, timestamp=1.5, step_key=None, job_name="tea"
    )
    storage.event_log_storage.store_event(entry)


def contents(storage: StorageTables) -> dict[str, list[str]]:
    """Every row of every table of Dagster's storage, as text."""
    with psycopg.connect(storage.url) as connection:
        return {
            name: [row for (row,) in connection.execute(f"select t::text from {name} t order by 1").fetchall()]
            for name in storage.names
        }


def elsewhere(shop: Shop) -> None:
    """The deployment as it is after its catalog was lost: led to an empty one."""
    catalog = shop.deployment.settings.catalog.model_copy(update={"name": fresh_name()})
    again(shop, catalog=catalog)


def again(shop: Shop, **changed: object) -> None:
    settings = shop.deployment.settings.model_copy(update=changed)
    shop.deployment = Deployment(settings, shop.deployment.sources)


def backed_up(shop: Shop, url: str, storage: StorageTables | None = None) -> BackupManifest:
    return make_backup(shop.deployment, url, storage)


def restored(shop: Shop, url: str, storage: StorageTables | None = None, **options: object) -> Restored:
    return restore_backup(shop.deployment, url, storage, **options)  # type: ignore[arg-type]  # as the test gives them


def catalog_of(shop: Shop) -> CatalogRows:
    return CatalogCopy(shop.deployment.settings, shop.deployment.store).read()


def file_of(shop: Shop, url: str, manifest: BackupManifest, part: str) -> Path:
    """A file of a backup in a folder."""
    return Path(url.removeprefix("file://")) / manifest.name / part


def rows_of(shop: Shop) -> dict[str, int]:
    return {f"{s.name}.{t.name}": shop.deployment.lake.state(s.name, t).current.marker.rows for s, t in shop.deployment.select()}  # type: ignore[union-attr]


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_a_lost_catalog_and_dagsters_storage_come_back_and_the_next_run_goes_on(
    shop: Shop, url: str, where: str, storages: tuple[StorageTables, StorageTables]
) -> None:
    shop.deployment = both_formats(shop.deployment)
    full, empty = storages
    place = url if where == "folder" else f"{shop.deployment.store.url}/backups"
    shop.run()
    source, orders = shop.deployment.select(["shop.orders"])[0]
    version = shop.deployment.lake.history(source.name, orders)[-1].version
    shop.deployment.lake.tag(source.name, orders, "first", version)
    manifest, before = backed_up(shop, place, full), catalog_of(shop)
    assert {(one.table, one.rows) for one in manifest.lake} == set(rows_of(shop).items())
    assert {one.format for one in manifest.lake} == {"iceberg", "delta"}
    elsewhere(shop)
    done = restored(shop, place, empty)
    assert (done.catalog, done.dagster, done.newer) == (True, True, {})
    assert catalog_of(shop) == before
    assert contents(empty) == contents(full)
    assert_equal(shop)
    assert shop.deployment.lake.tags(source.name, orders) == {"first": version}
    shop.order(900, 3, FIRST + timedelta(days=2, hours=4))
    shop.run(full=True)
    assert_equal(shop)
    assert len(shop.published("shop__orders")) == 153
    for storage in (full, empty):
        live(storage.url, "4f6f6b6e-0000-4000-8000-000000000002")
    assert [row.split(",")[0] for row in contents(empty)["event_logs"]] == [
        row.split(",")[0] for row in contents(full)["event_logs"]
    ]


def test_a_backup_that_was_cut_short_is_none_and_the_newest_whole_one_is_taken(shop: Shop, url: str) -> None:
    with pytest.raises(WrongUse, match="no whole one"):
        restored(shop, url)
    shop.run()
    first, second = backed_up(shop, url), backed_up(shop, url)
    assert whole_backups(open_place(shop.deployment.settings.store, url)) == sorted([first.name, second.name])
    faults.arm("store.put:before:error")
    try:
        with pytest.raises(StoreUnavailable):
            backed_up(shop, url)
    finally:
        faults.watch(None)
    assert len(list(Path(url.removeprefix("file://")).glob("2*"))) == 3
    place = open_place(shop.deployment.settings.store, url)
    assert whole_backups(place) == sorted([first.name, second.name])
    assert read_manifest(place, None).name == max(first.name, second.name)
    assert read_manifest(place, first.name) == first
    with pytest.raises(WrongUse, match=first.name):
        restored(shop, url, name="20200101T000000Z-abcdef")


def test_a_place_that_is_not_empty_is_refused_and_stays_as_it_is(
    shop: Shop, url: str, storages: tuple[StorageTables, StorageTables]
) -> None:
    full, empty = storages
    shop.run()
    backed_up(shop, url, full)
    shop.order(900, 3, FIRST + timedelta(days=2, hours=4))
    shop.run(full=True)
    before = catalog_of(shop)
    with pytest.raises(WrongUse, match=r"tables: shop\.customers, shop\.orders"):
        restored(shop, url, empty)
    assert catalog_of(shop) == before
    with psycopg.connect(empty.url) as connection:
        assert connection.execute("select to_regclass('runs')").fetchone() == (None,)
    elsewhere(shop)
    inside = contents(full)
    with pytest.raises(WrongUse, match=r"rows in (snapshots|runs)"):
        restored(shop, url, full)
    assert contents(full) == inside
    assert catalog_of(shop).tables == ()


def test_a_part_that_is_not_what_was_written_is_refused(shop: Shop, url: str) -> None:
    shop.run()
    manifest = backed_up(shop, url)
    elsewhere(shop)
    for name in ("catalog.json", MANIFEST):
        file = file_of(shop, url, manifest, name)
        data = file.read_bytes()
        file.write_bytes(data.replace(b"orders", b"orderz", 1))
        with pytest.raises(DamagedData, match=name):
            restored(shop, url)
        file.write_bytes(data)
    file_of(shop, url, manifest, "catalog.json").unlink()
    with pytest.raises(DamagedData, match=r"catalog\.json"):
        restored(shop, url)
    assert catalog_of(shop).tables == ()


def test_another_privacy_key_or_store_is_refused(shop: Shop, url: str, tmp_path: Path) -> None:
    shop.run()
    manifest = backed_up(shop, url)
    key = shop.deployment.settings.privacy_key.get_secret_value()
    assert key
    assert key not in "".join(path.read_text() for path in Path(url.removeprefix("file://")).rglob("*.json"))
    elsewhere(shop)
    right = shop.deployment
    again(shop, privacy_key=SecretStr("another key of 16 characters"))
    with pytest.raises(ConfigurationError, match=manifest.privacy_key):
        restored(shop, url)
    again(shop, privacy_key=SecretStr(key), store=StoreSettings(url=(tmp_path / "other").as_uri()))
    with pytest.raises(ConfigurationError, match="another store"):
        restored(shop, url)
    shop.deployment = right
    assert catalog_of(shop).tables == ()
    again(shop, privacy_key=SecretStr("another key of 16 characters"))
    assert restored(shop, url, another_key=True).catalog


def test_lake_files_that_are_gone_are_named_and_a_table_can_be_led_to_its_newest_metadata(shop: Shop, url: str) -> None:
    shop.deployment = both_formats(shop.deployment)
    shop.run()
    manifest = backed_up(shop, url)
    place = next(one.place for one in manifest.lake if one.table == "shop.orders")
    shop.order(900, 3, FIRST + timedelta(days=2, hours=4))
    shop.run(full=True)
    led = next(row.metadata for row in catalog_of(shop).tables if row.name == "shop.orders")
    store = shop.deployment.store
    store.delete(place.removeprefix(f"{store.url}/"))
    elsewhere(shop)
    with pytest.raises(DamagedData, match=rf"shop\.orders: {place}"):
        restored(shop, url)
    assert catalog_of(shop).tables == ()
    assert restored(shop, url, newest=True).newer == {"shop.orders": led}
    shop.run()
    assert_equal(shop)
    for info in list(store.list("delta/shop_delta/orders/_delta_log")):
        store.delete(info.path)
    for info in [info for info in store.list("lake/shop/prices/metadata") if "-m0" in info.path]:
        store.delete(info.path)
    elsewhere(shop)
    with pytest.raises(DamagedData, match=r"shop\.prices: \S+ names files that are gone"):
        restored(shop, url)
    done = restored(shop, url, newest=True)
    assert set(done.lacking) == {"shop.prices", "shop_delta.orders"}
    assert "holds no version" in done.lacking["shop_delta.orders"]
    shop.run()
    assert_equal(shop)


@pytest.mark.parametrize(
    "fault", ["restore.catalog:before", "restore.catalog:after", "restore.dagster:before", "restore.dagster:after"]
)
def test_a_restore_that_dies_has_written_all_of_a_database_or_nothing_and_can_be_repeated(
    shop: Shop, url: str, fault: str, storages: tuple[StorageTables, StorageTables]
) -> None:
    full, empty = storages
    shop.run()
    backed_up(shop, url, full)
    elsewhere(shop)
    faults.arm(f"{fault}:error")
    try:
        with pytest.raises((FaultInjected, ServiceFailed)):
            restored(shop, url, empty)
    finally:
        faults.watch(None)
    written = fault != "restore.catalog:before"
    assert bool(catalog_of(shop).tables) == written
    assert bool(contents(empty)["runs"]) == (fault == "restore.dagster:after")
    done = restored(shop, url, empty, settle=lambda: ["settled"])
    assert (done.catalog, done.settled) == (not written, ("settled",))
    assert contents(empty) == contents(full)
    assert_equal(shop)
    inside = contents(empty)
    with pytest.raises(WrongUse, match="restoring Dagster's storage"):
        restored(shop, url, empty)
    assert contents(empty) == inside
    assert not restored(shop, url).catalog


def test_a_storage_of_another_schema_is_refused(shop: Shop, url: str, storages: tuple[StorageTables, StorageTables]) -> None:
    full, empty = storages
    manifest = backed_up(shop, url, full)
    assert manifest.dagster is not None
    empty.make()
    with psycopg.connect(empty.url) as connection:
        connection.execute("update alembic_version set version_num = 'older'")
    with pytest.raises(Unsupported, match=f"schema older[\\s\\S]*{manifest.dagster.schema}"):
        restored(shop, url, empty)
    assert contents(empty)["runs"] == []
    assert not restored(shop, url).dagster


def test_what_was_never_made_is_left_out(shop: Shop, url: str, storages: tuple[StorageTables, StorageTables]) -> None:
    _, empty = storages
    manifest = backed_up(shop, url, empty)
    assert (manifest.dagster, manifest.lake) == (None, ())
    done = restored(shop, url, empty)
    assert (done.catalog, done.dagster) == (False, False)
    with pytest.raises(ConfigurationError, match="LAKEHOUSE_DAGSTER__URL"):
        backed_up(shop, url, replace(empty, url=""))
    with pytest.raises(WrongUse, match="such a URL"):
        backed_up(shop, "ftp://nowhere")


def test_without_a_backup_a_lost_catalog_is_built_anew_from_the_raw_log(shop: Shop) -> None:
    shop.deployment = both_formats(shop.deployment)
    shop.run()
    elsewhere(shop)
    shop.run()
    assert_equal(shop)


def test_a_lost_warehouse_is_published_anew_by_a_run(shop: Shop) -> None:
    shop.run()
    database = shop.deployment.settings.warehouse.database
    shop.deployment.warehouse.query(f"drop database `{database}` sync")
    again(shop)
    shop.run()
    assert_equal(shop)


def test_lost_kept_manifests_and_lost_files_are_healed_as_the_page_says(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakehouse.raw.log.FEW", 0)
    again(shop, home=tmp_path / "home")
    shop.run()
    shop.run()
    assert list((tmp_path / "home" / "manifests").iterdir())
    shutil.rmtree(tmp_path / "home")
    shop.order(900, 3, FIRST + timedelta(days=2, hours=4))
    shop.run(full=True)
    assert_equal(shop)
    store, (source, table) = shop.deployment.store, shop.deployment.select(["shop.orders"])[0]
    for folder in ("raw/shop/orders", "lake/shop/orders/data"):
        for lost in ("day=2026-01-02", "at_day=2026-01-02"):
            for info in [info for info in store.list(folder) if f"/{lost}/" in info.path]:
                store.delete(info.path)
        repair_table(shop.deployment, source, table, plan_repair(shop.deployment, source, table))
        shop.run()
        assert_equal(shop)
    (entry, *_) = store.list("raw/shop/orders/_log")
    store.delete(entry.path)
    repair_table(shop.deployment, source, table, plan_repair(shop.deployment, source, table))
    shop.run()
    assert_equal(shop)
