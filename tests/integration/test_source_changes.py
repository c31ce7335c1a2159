"""Each change of a source that the documentation tells of, made between two runs: what arrives everywhere, or what stops it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import bson
import psycopg
import pymongo
import pytest

from lakehouse import Column
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import Extracted
from lakehouse.pipeline.rebuild import plan_rebuild, rebuild_table
from lakehouse.spec.declaration import OnRefused
from tests.shop import CLICKS, FIRST, SHOP, Shop
from tests.source_changes import MONGODB, POSTGRES, Change

CUSTOMERS = next(table for table in SHOP.tables if table.name == "customers")
NEW = {"id": "new", "created_at": "2026-01-01 14:40Z", "changed_at": "2026-01-01 14:40Z"}


def only(shop: Shop, **declared: Any) -> None:
    """The deployment with the one table that changes."""
    source = replace(SHOP, tables=(replace(CUSTOMERS, **declared),))
    shop.deployment = Deployment(shop.deployment.settings, (source,))


def stopped(result: Extracted, change: Change) -> bool:
    """Whether the table stopped, as it should where it should."""
    assert (result.error is not None) == bool(change.stops), result.error
    if result.error is None:
        return False
    assert change.stops in str(result.error)
    assert "do next:" in str(result.error)
    return True


def assert_arrived(shop: Shop, rows: Mapping[str, Mapping[str, Any]], change: Change) -> None:
    """The old row and the new one as they should be, and every copy of the table equal."""
    for key, expected in (("old", change.old), ("new", change.new)):
        assert (key in rows) == (expected is not None)
        for name, value in (expected or {}).items():
            found = rows[key][name]
            assert (str(found) if isinstance(value, str) else found) == value, (key, name)
    assert all(report.equal for report in shop.verify(deep=True).values())


@pytest.mark.parametrize("change", POSTGRES, ids=lambda change: change.what)
def test_a_change_of_a_postgres_table(shop: Shop, change: Change) -> None:
    only(shop, **change.from_start)
    shop.sql(*change.before, "update customers set id = 'old' where id = 'c1'")
    shop.run()
    before = {row["id"]: row for row in shop.published("shop__customers")}
    shop.sql(*change.change)
    if change.stops:
        result = shop.run()["customers"]
        assert stopped(result, change)
        assert result.entries == ()
        assert {row["id"]: row for row in shop.published("shop__customers")} == before
        if not change.rebuilt:
            return
        only(shop, **change.from_start, **change.declared)
        ((source, table),) = shop.deployment.select()
        rebuild_table(shop.deployment, source, table, plan_rebuild(shop.deployment, source, table))
    row = {**NEW, **change.new_row}
    with psycopg.connect(shop.url, autocommit=True) as connection:
        names, places = ", ".join(row), ", ".join(["%s"] * len(row))
        connection.execute(f"insert into customers ({names}) values ({places})".encode(), list(row.values()))
    only(shop, **change.from_start, **change.declared)
    assert shop.run()["customers"].error is None
    assert_arrived(shop, {row["id"]: row for row in shop.published("shop__customers")}, change)
    assert shop.run()["customers"].entries == (), "nothing is new any more"


@pytest.mark.parametrize("change", MONGODB, ids=lambda change: change.what)
def test_a_change_of_a_mongodb_collection(shop: Shop, change: Change) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (CLICKS,))
    added = tuple(Column(name, type_) for name, type_ in change.declared.items())
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        clicks = client.get_default_database()["clicks"]
        clicks.insert_one({"_id": "old", "at": FIRST + timedelta(days=1, hours=3), "page": "/p/0"})
        shop.run()
        document = {"_id": "new", "at": FIRST + timedelta(days=2, hours=1), "page": "/p/1", **change.new_row}
        clicks.insert_one({name: value for name, value in document.items() if value is not None})
    on_refused: OnRefused = "stop" if change.stops else "quarantine"
    tables = tuple(replace(table, columns=(*table.columns, *added), on_refused=on_refused) for table in CLICKS.tables)
    shop.deployment = Deployment(shop.deployment.settings, (replace(CLICKS, tables=tables),))
    stops = stopped(shop.run()["clicks"], change)
    rows = {row["_id"]: kept(row) | row for row in shop.published("clicks__clicks", "*, hex(_document) as whole")}
    if stops:
        assert set(rows) >= {"old"}
        assert "new" not in rows
        return
    assert_arrived(shop, rows, change)
    assert shop.run()["clicks"].entries == (), "nothing is new any more"


def kept(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the whole document that is kept beside the columns; null where it has not got one."""
    return {"undeclared": None} | bson.decode(bytes.fromhex(row["whole"]))
