"""Two versions of a lake table compared, row by row, against what was done in the source between them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lakehouse.errors import WrongUse
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.diff import TableDiff, diff_table
from tests.crash.matrix import both_formats
from tests.shop import FIRST, Shop


def applied(shop: Shop, name: str) -> int:
    shop.extract(full=True)
    source, table = shop.deployment.select([name])[0]
    return apply_table(shop.deployment, source, table).state.current.version  # type: ignore[union-attr]


def compared(shop: Shop, name: str, before: int, after: int | None = None, *, limit: int = 20) -> TableDiff:
    return diff_table(shop.deployment, *shop.deployment.select([name])[0], before, after, limit=limit)


@pytest.mark.parametrize("name", ["shop.orders", "shop_delta.orders"])
def test_rows_that_came_went_and_changed_are_told_apart(shop: Shop, name: str) -> None:
    shop.deployment = both_formats(shop.deployment)
    first = applied(shop, name)
    shop.order(900, 2, FIRST + timedelta(days=2, hours=4))
    shop.sql("delete from orders where id = 201", "update orders set amount = 77.5 where id = 202")
    second = applied(shop, name)
    found = compared(shop, name, first)
    assert (found.before.version, found.after.version) == (first, second)
    assert (found.added, found.changed, found.removed) == (2, 1, 1)
    assert found.partitions == ("at_day=2026-01-03",)
    rows = {row.key["id"]: row for row in found.rows}
    assert {key: row.kind for key, row in rows.items()} == {
        "201": "removed",
        "202": "changed",
        "900": "added",
        "901": "added",
    }
    assert set(rows["202"].values) == {"amount"}
    assert rows["202"].values["amount"][1] == "77.50"
    assert rows["900"].values["at"] == (None, "2026-01-03 04:00:00+00")
    back = compared(shop, name, second, first)
    assert (back.added, back.changed, back.removed) == (1, 1, 2)
    same = compared(shop, name, second)
    assert (same.added, same.changed, same.removed, same.partitions, same.rows) == (0, 0, 0, (), ())


def test_all_rows_are_counted_and_no_more_shown_than_were_asked_for(shop: Shop) -> None:
    first = applied(shop, "shop.orders")
    shop.order(900, 30, FIRST + timedelta(days=2, hours=4))
    applied(shop, "shop.orders")
    found = compared(shop, "shop.orders", first, limit=3)
    assert found.added == 30
    assert [row.key["id"] for row in found.rows] == ["900", "901", "902"]
    assert compared(shop, "shop.orders", first, limit=0).rows == ()


def test_a_row_that_went_to_another_partition_and_a_new_column_are_changes(shop: Shop) -> None:
    first = applied(shop, "shop.orders")
    shop.sql(
        "alter table orders add column colour text",
        f"update orders set at = '{FIRST + timedelta(days=2, hours=9)}', colour = 'red' where id = 110",
    )
    applied(shop, "shop.orders")
    found = compared(shop, "shop.orders", first)
    assert found.columns == {"colour": (None, "string")}
    assert (found.added, found.changed, found.removed) == (0, 1, 0)
    assert found.rows[0].values == {
        "at": ("2026-01-02 01:10:00+00", "2026-01-03 09:00:00+00"),
        "colour": (None, "red"),
    }
    assert len(found.partitions) == 2


def test_after_a_rollback_the_current_version_is_not_the_newest(shop: Shop) -> None:
    first = applied(shop, "shop.orders")
    shop.order(900, 2, FIRST + timedelta(days=2, hours=4))
    second = applied(shop, "shop.orders")
    source, table = shop.deployment.select(["shop.orders"])[0]
    shop.deployment.lake.rollback(source.name, table, first)
    assert compared(shop, "shop.orders", first).added == 0
    assert compared(shop, "shop.orders", second).removed == 2


def test_a_version_that_is_not_kept_is_named(shop: Shop) -> None:
    applied(shop, "shop.orders")
    with pytest.raises(WrongUse, match="a version that is kept"):
        compared(shop, "shop.orders", 5)
