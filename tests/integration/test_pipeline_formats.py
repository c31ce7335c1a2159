"""A table's format is a word in its declaration: changed, and changed back, on a deployment that has rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Literal

from lakehouse.pipeline.deployment import Deployment
from tests.shop import FIRST, Shop, assert_equal


def declared(shop: Shop, format_: Literal["iceberg", "delta"]) -> None:
    """Declare all tables in a format."""
    sources = [
        replace(source, tables=tuple(replace(table, format=format_) for table in source.tables))
        for source in shop.deployment.sources
    ]
    shop.deployment = Deployment(shop.deployment.settings, sources)


def markers(shop: Shop) -> dict[str, tuple[int, int, str]]:
    """Where each lake table stands."""
    found = {}
    for source, table in shop.deployment.select():
        state = shop.deployment.lake.state(source.name, table)
        assert state is not None
        marker = state.current.marker
        found[table.name] = (marker.sequence, marker.rows, marker.checksum)
    return found


def test_a_table_whose_format_changes_is_built_anew_from_its_log_and_goes_on_when_it_changes_back(shop: Shop) -> None:
    declared(shop, "iceberg")
    shop.run()
    before = markers(shop)
    declared(shop, "delta")
    assert all(shop.deployment.lake.state(source.name, table) is None for source, table in shop.deployment.select())
    shop.run()
    assert markers(shop) == before
    assert_equal(shop)
    shop.order(900, 3, FIRST + timedelta(days=2, hours=5))
    shop.sql("update customers set tier = 'gold', changed_at = now() where id = 'c1'", "delete from prices where item = 'tea'")
    shop.run()
    assert_equal(shop)
    ahead = markers(shop)
    assert ahead != before
    declared(shop, "iceberg")
    assert markers(shop) == before, "the table of the other format is where it was left"
    shop.run()
    assert markers(shop) == ahead
    assert_equal(shop)
