"""Rows that are gone from the source in great numbers: none is deleted until that was said to be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from lakehouse.errors import DeletesRefused
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import Extracted, has_news
from lakehouse.pipeline.plan import plan_run
from lakehouse.pipeline.sweep import SWEPT
from lakehouse.spec import Source
from tests.shop import CLICKS, SHOP, Shop, assert_equal

KEPT = tuple(replace(t, gone_at_most=0.5) if t.mode == "snapshot" or t.deletes == "sweep" else t for t in SHOP.tables)


@pytest.fixture
def kept(shop: Shop) -> Shop:
    """The shop, whose customers and prices may lose half of their rows at once."""
    sources: Sequence[Source] = (replace(SHOP, tables=KEPT), CLICKS)
    shop.deployment = Deployment(shop.deployment.settings, sources)
    shop.run()
    return shop


def ids(shop: Shop, table: str, key: str) -> set[str]:
    return {row[key] for row in shop.published(f"shop__{table}")}


def refused(result: Extracted) -> str:
    assert isinstance(result.error, DeletesRefused)
    return str(result.error)


def test_a_sweep_that_finds_too_many_rows_gone_deletes_none_until_it_is_told_to(kept: Shop) -> None:
    kept.sql("delete from customers where id in ('c1', 'c2', 'c3', 'c4', 'c5', 'c6')")
    for _ in range(2):
        results = kept.run()
        assert "6 of 10 rows are gone" in refused(results["customers"])
        assert "run --select shop.customers --accept-deletes" in refused(results["customers"])
        assert results["orders"].error is None
        assert len(ids(kept, "customers", "id")) == 10
    assert kept.extract(accept_deletes=True)["customers"].error is None
    kept.run()
    assert_equal(kept)
    assert ids(kept, "customers", "id") == {"c0", "c7", "c8", "c9"}


def test_what_was_accepted_and_not_yet_applied_is_not_asked_about_again(kept: Shop) -> None:
    kept.sql("delete from customers where id in ('c1', 'c2', 'c3', 'c4', 'c5', 'c6')")
    assert kept.extract(accept_deletes=True)["customers"].error is None
    assert kept.run()["customers"].error is None, "the run that had accepted it died before the lake had it"
    assert_equal(kept)
    assert len(ids(kept, "customers", "id")) == 4


def test_as_many_as_are_allowed_are_deleted_at_once(kept: Shop) -> None:
    kept.sql("delete from customers where id in ('c1', 'c2', 'c3', 'c4', 'c5')", "delete from prices where item = 'tea'")
    kept.run()
    assert_equal(kept)
    assert len(ids(kept, "customers", "id")) == 5
    assert ids(kept, "prices", "item") == {"coffee"}


def test_what_was_changed_arrives_with_the_run_that_accepts_what_is_gone(kept: Shop) -> None:
    kept.sql(
        "delete from customers where id <> 'c9'",
        "update customers set tier = 'pro', changed_at = '2026-01-01 14:30Z' where id = 'c9'",
    )
    assert "9 of 10 rows" in refused(kept.extract()["customers"])
    kept.extract(accept_deletes=True)
    kept.run()
    assert_equal(kept)
    assert [row["tier"] for row in kept.published("shop__customers")] == ["pro"]


def test_a_small_table_that_was_emptied_stays_until_it_is_told_to_go(kept: Shop) -> None:
    kept.sql("create table aside as table prices", "delete from prices")
    assert "2 of 2 rows are gone" in refused(kept.run()["prices"])
    assert ids(kept, "prices", "item") == {"tea", "coffee"}
    kept.sql("insert into prices table aside")  # the application had only begun to fill it anew
    assert kept.run()["prices"].error is None
    kept.sql("delete from prices")
    kept.extract(accept_deletes=True)
    kept.run()
    assert_equal(kept)
    assert ids(kept, "prices", "item") == set()


@pytest.mark.parametrize("way", ["full", "accepted", "due", "unreadable"])
def test_a_table_that_is_swept_once_a_day_keeps_deleted_rows_until_then(shop: Shop, way: str) -> None:
    tables = tuple(replace(t, sweep_every=timedelta(days=1)) if t.deletes == "sweep" else t for t in SHOP.tables)
    shop.deployment = Deployment(shop.deployment.settings, (replace(SHOP, tables=tables), CLICKS))
    source, table = shop.deployment.select(["shop.customers"])[0]
    shop.run()
    assert not has_news(shop.deployment, source, [table], lambda: False)
    with pytest.raises(FileNotFoundError):
        shop.deployment.log(source, table).note(SWEPT)
    swept = shop.run()["customers"]
    shop.sql("delete from customers where id = 'c1'")
    assert not has_news(shop.deployment, source, [table], lambda: False)
    waiting = shop.run()["customers"]
    assert waiting.notes[-1].startswith("the next key sweep is due at ")
    assert "c1" in ids(shop, "customers", "id")
    (plan,) = plan_run(shop.deployment, [(source, table)]).tables
    assert plan.changes[-1].text.startswith("no keys: the next sweep is due at ")
    assert all(report.equal for report in shop.verify().values()), "it is pending, and no difference"
    log = shop.deployment.log(source, table)
    assert swept.position is not None
    if way == "due":
        log.keep_note(SWEPT, (swept.position.taken_at - timedelta(days=1)).isoformat().encode())
    elif way == "unreadable":
        log.keep_note(SWEPT, b"\xff")
    if way in ("full", "accepted"):
        shop.extract(full=way == "full", accept_deletes=way == "accepted")
    shop.run()
    assert_equal(shop)
    assert "c1" not in ids(shop, "customers", "id")


def test_a_table_that_does_not_say_how_many_may_go_loses_all(shop: Shop) -> None:
    shop.run()
    shop.sql("delete from customers", "delete from prices")
    shop.run()
    assert_equal(shop)
    assert ids(shop, "customers", "id") == ids(shop, "prices", "item") == set()
