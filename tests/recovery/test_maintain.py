"""Looking after the tables of a deployment: small files, old versions and what nobody names go; every copy stays equal."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from lakehouse.pipeline import maintain, orphans
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.maintain import Maintained, maintain_table
from lakehouse.pipeline.statistics import mark_built, stale_statistics
from lakehouse.spec import Marker
from lakehouse.tables.engine import TableVersion
from lakehouse.tables.lake import version_before
from tests.crash.passage import take
from tests.shop import FIRST, Shop
from tests.wear import wear

TABLES = ("shop.orders", "shop_delta.orders")


def looked_after(shop: Shop, name: str, *, dry: bool = False) -> Maintained:
    found = maintain_table(shop.deployment, *shop.deployment.select([name])[0], dry=dry)
    assert found is not None
    return found


def with_history(shop: Shop) -> None:
    """Six versions of the orders, the last of them in small files."""
    for number in range(5):
        shop.order(10_000 + 10 * number, 6, FIRST + timedelta(days=2, hours=4))
        for name in TABLES:
            take(shop.deployment, name)
    for name in TABLES:
        source, table = shop.deployment.select([name])[0]
        wear(shop.deployment.settings, shop.deployment.store, source.name, table)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_small_again_and_every_copy_is_equal(old_shop: Shop, name: str) -> None:
    shop = old_shop
    with_history(shop)
    before = looked_after(shop, name, dry=True)
    assert before.compact
    assert before.expired
    assert before.before == before.after
    assert looked_after(shop, name, dry=True) == before
    done = looked_after(shop, name)
    assert done.before == before.before
    assert done.compact == before.compact
    assert done.after.files < done.before.files
    assert done.after.versions < done.before.versions
    assert done.removed > 4
    assert done.removed_bytes > 0
    assert done.skipped == ()
    source, table = shop.deployment.select([name])[0]
    state, published = shop.deployment.lake.state(source.name, table), shop.deployment.warehouse.state(source.name, table)
    assert state is not None
    assert published is not None
    assert (published.version, published.marker) == (state.current.version, state.current.marker)
    assert shop.verify(deep=True)[name].equal
    looked_after(shop, name)  # a Delta log's own commit made one more version old
    assert looked_after(shop, name).idle
    shop.order(20_000, 3, FIRST + timedelta(days=2, hours=5))
    take(shop.deployment, name)
    assert shop.verify(deep=True)[name].equal


def test_a_table_that_was_never_built_is_passed_over(old_shop: Shop) -> None:
    assert maintain_table(old_shop.deployment, *old_shop.deployment.select(["shop.orders"])[0]) is None


def test_statistics_of_a_time_that_is_forgotten_are_built_for_all_days(old_shop: Shop) -> None:
    """What changed between two versions cannot be told once those between them are gone."""
    shop = old_shop
    for name in TABLES:
        take(shop.deployment, name)
    mark_built(shop.deployment, stale_statistics(shop.deployment))
    with_history(shop)
    changed = stale_statistics(shop.deployment)
    for name in TABLES:
        looked_after(shop, name)
    after = stale_statistics(shop.deployment)
    assert after.sequences == changed.sequences
    assert set(changed.days) < set(after.days)


def test_the_last_version_of_a_month_is_kept_under_its_name_where_that_is_declared(old_shop: Shop) -> None:
    shop = old_shop
    with_history(shop)
    source, table = shop.deployment.select(["shop.orders"])[0]
    kept = replace(table, keep_months=True)
    history = shop.deployment.lake.history(source.name, table)
    last = history[-1]
    month = f"month-{last.committed_at:%Y-%m}"
    later = (last.committed_at.replace(day=1) + timedelta(days=45)).replace(day=3)

    def after(now: datetime, *, dry: bool = False) -> Maintained:
        done = maintain_table(shop.deployment, source, kept, now=now, dry=dry)
        assert done is not None
        return done

    assert after(last.committed_at, dry=True).named == {}, "the month is not over, or had no version before it"
    assert after(later, dry=True).named == {month: last.version}
    assert shop.deployment.lake.tags(source.name, table) == {}
    assert looked_after(shop, "shop.orders", dry=True).named == {}, "it is not declared"
    done = after(later)
    named = shop.deployment.lake.tags(source.name, table)
    assert done.named == named == {month: named[month]}
    rows = sum(batch.num_rows for batch in shop.deployment.lake.scan(source.name, table))
    shop.order(30_000, 4, FIRST + timedelta(days=2, hours=5))
    take(shop.deployment, "shop.orders")
    again = after(later)
    assert again.named == {}
    assert named[month] in {version.version for version in shop.deployment.lake.history(source.name, table)}
    assert sum(batch.num_rows for batch in shop.deployment.lake.scan(source.name, table, version=named[month])) == rows
    shop.deployment.lake.tag(source.name, table, month, None)
    assert set(after(later + timedelta(days=31)).named.values()) == {shop.deployment.lake.history(source.name, table)[-1].version}


@pytest.mark.parametrize(
    ("currents", "gone", "expected"),
    [
        ("1@1 2@2 3@3 4@4", "", 2),  # 2 was followed by 3, when the month was over
        ("1@1 2@2 3@3 4@4", "1", 2),
        ("1@1 2@2 3@3 4@4", "2", None),  # what the table was then is not there
        ("1@1 2@2 3@3 4@4", "3", None),  # 3, which may have been of the month, is gone
        ("1@1 2@2", "", 2),
        ("1@1 2@2 1@2.2", "", 1),  # 2 was taken back before the month was over
        ("1@1 2@2 3@3 1@4 2@5", "", 2),  # 3 was taken back later, and in two steps
        ("1@1 2@2 1@3", "", None),  # a rollback: another one may have come between, and be gone
        ("3@3 4@4", "", None),
        ("", "", None),
    ],
)
def test_a_month_whose_last_version_may_be_gone_gets_no_name(currents: str, gone: str, expected: int | None) -> None:
    """A version and when it became the current one, in days; the month is over at two and a half."""
    left = [(int(n), FIRST + timedelta(days=float(at))) for n, _, at in (word.partition("@") for word in currents.split())]
    left = [(version, at) for version, at in left if str(version) not in gone.split()]
    history = [
        TableVersion(n, n - 1 or None, FIRST, "overwrite", Marker(1, 0, "0" * 16)) for n in {version for version, _ in left}
    ]
    assert version_before(FIRST + timedelta(days=2, hours=12), left, history) == expected


def test_of_a_real_table_the_version_at_a_moment_is_known_after_rollbacks(shop: Shop) -> None:
    source, table = shop.deployment.select(["shop.orders"])[0]
    lake, versions = shop.deployment.lake, []
    for number in range(3):
        shop.order(900 + number, 1, FIRST + timedelta(days=2, hours=4, minutes=number))
        take(shop.deployment, "shop.orders")
        versions.append(lake.history(source.name, table)[-1])
    lake.rollback(source.name, table, versions[0].version)
    lake.rollback(source.name, table, versions[1].version)
    for version, following in pairwise(versions):
        assert lake.version_at(source.name, table, following.committed_at) == version.version
    assert lake.version_at(source.name, table, versions[0].committed_at) is None


def test_what_is_young_stays(old_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that was current a moment ago may be read, a file of a moment ago may be named."""
    shop = old_shop
    with_history(shop)
    for module in (maintain, orphans):
        monkeypatch.setattr(module, "oldest_writer", orphans_limit)
    shop.deployment.store.put("lake/shop/orders/data/dead.parquet", b"12345")
    done = looked_after(shop, "shop.orders")
    assert done.compact
    assert (done.expired, done.removed) == ((), 0)
    assert done.after.versions == done.before.versions + 1


def orphans_limit(deployment: Deployment) -> timedelta:
    return timedelta(hours=48)


def test_the_clock_of_the_store_decides_what_is_removed(old_shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = old_shop
    take(shop.deployment, "shop.orders")
    monkeypatch.setattr(orphans, "oldest_writer", orphans_limit)
    for path, age in (("lake/shop/orders/data/dead.parquet", 49), ("lake/shop/orders/data/new.parquet", 47)):
        shop.deployment.store.put(path, b"12345")
        written = (tmp_path / "store" / path).stat().st_mtime - timedelta(hours=age).total_seconds()
        os.utime(tmp_path / "store" / path, (written, written))
    done = looked_after(shop, "shop.orders")
    assert (done.removed, done.removed_bytes) == (1, 5)
    assert [info.path for info in shop.deployment.store.list("lake/shop/orders/data") if "new" in info.path]
