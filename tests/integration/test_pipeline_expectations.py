"""Rows that are not what their table expects: they do not land, or they land and are told of; everything else goes on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import dagster as dg
import pytest

from lakehouse import Expect
from lakehouse.errors import DeclarationError, ExpectationFailed
from lakehouse.orchestration.factory import source_assets
from lakehouse.pipeline import landing
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.plan import plan_run
from lakehouse.spec.expectations import Otherwise
from tests.shop import CLICKS, FIRST, SHOP, Shop, assert_equal


def expecting(shop: Shop, **expected: tuple[Expect, ...]) -> None:
    """Declare what rows of the tables should be."""
    tables = tuple(replace(table, expect=expected.get(table.name, ())) for table in SHOP.tables)
    shop.deployment = Deployment(shop.deployment.settings, (replace(SHOP, tables=tables), CLICKS))


@pytest.mark.parametrize("few_bytes", [landing.FEW_BYTES, 0])
def test_a_batch_with_rows_that_are_not_expected_does_not_land_until_they_are_right(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, few_bytes: int
) -> None:
    monkeypatch.setattr(landing, "FEW_BYTES", few_bytes)
    expecting(
        shop,
        orders=(Expect.between("amount", 0, None),),
        customers=(Expect.one_of("tier", "free", "pro"),),
        prices=(Expect.matches("item", "^[a-z]+$"),),
    )
    shop.run()
    assert_equal(shop)
    late = "timestamptz '2026-01-03 04:00Z'"
    shop.sql(
        f"insert into orders select i, {late}, -1, null from generate_series(900, 906) i",
        "update customers set tier = 'gold', changed_at = '2026-01-01 14:30Z' where id = 'c3'",
        "insert into prices values ('Tee 2', 1)",
    )
    results = shop.run()
    for table, told in (
        ("orders", "amount is at least 0: not so in 7 rows (id=900; id=901; id=902; id=903; id=904; …)"),
        ("customers", "tier is one of free, pro: not so in 1 row (id=c3)"),
        ("prices", "item matches '^[a-z]+$': not so in 1 row (item=Tee 2)"),
    ):
        assert isinstance(results[table].error, ExpectationFailed)
        assert told in str(results[table].error)
        assert results[table].entries == ()
    assert results["clicks"].error is None
    shop.sql(
        "update orders set amount = 1 where id >= 900",
        "update customers set tier = 'pro', changed_at = '2026-01-01 14:40Z' where id = 'c3'",
        "delete from prices where item = 'Tee 2'",
    )
    assert [result.error for result in shop.run().values()] == [None] * 4
    assert_equal(shop)
    assert len(shop.published("shop__orders")) == 157


def test_rows_that_are_only_warned_of_land_and_are_counted_once(shop: Shop) -> None:
    expecting(shop, orders=(Expect.between("amount", 0, None, otherwise="warn"), Expect.not_null("amount")))
    shop.run()
    shop.order(900, 2, FIRST + timedelta(days=2, hours=4))
    shop.sql("update orders set amount = -1 where id = 901")
    result = shop.run()["orders"]
    assert result.error is None
    assert [str(unmet) for unmet in result.unmet] == ["amount is at least 0: not so in 1 row (id=901)"]
    assert_equal(shop)
    assert shop.run()["orders"].unmet == ()


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
@pytest.mark.parametrize("otherwise", ["stop", "warn"])
def test_dagster_shows_a_check_of_what_is_expected(shop: Shop, otherwise: Otherwise) -> None:
    expecting(shop, customers=(Expect.one_of("tier", "pro", otherwise=otherwise),))
    source = shop.deployment.sources[0]
    extract, *_ = (asset for asset in source_assets(shop.deployment, source) if isinstance(asset, dg.AssetsDefinition))
    result = dg.materialize([extract], instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)
    checks = {(check.asset_key.path[-1], check.check_name): check for check in result.get_asset_check_evaluations()}
    expected = checks["customers", "expected"]
    assert not expected.passed
    assert expected.severity == dg.AssetCheckSeverity.WARN
    told = expected.metadata["error" if otherwise == "stop" else "tier is one of pro"].value
    assert "10 rows" in str(told)
    assert checks["customers", "extracted"].passed == (otherwise == "warn")
    assert ("orders", "expected") not in checks


def test_an_expectation_of_a_column_that_is_not_there_stops_its_table_and_the_plan_says_so(shop: Shop) -> None:
    expecting(shop, customers=(Expect.not_null("level"),))
    assert isinstance(shop.run()["customers"].error, DeclarationError)
    plans = {plan.table: plan for plan in plan_run(shop.deployment, shop.deployment.select()).tables}
    assert plans["shop.customers"].stops
    assert not plans["shop.orders"].stops


def test_personal_columns_are_looked_at_before_they_are_altered(shop: Shop) -> None:
    expecting(shop, customers=(Expect.matches("email", "@example.org$"),))
    assert shop.run()["customers"].error is None
    assert "@" not in shop.published("shop__customers")[0]["email"]
