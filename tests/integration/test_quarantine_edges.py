"""Quarantines at their edges: keys of every type, tables without a good row, columns that came and went, and what is personal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pymongo
import pytest

from lakehouse import Column, Expect, Table, days
from lakehouse.errors import DeletesRefused
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.gate import as_bytes
from lakehouse.pipeline.look import is_up_to_date
from lakehouse.pipeline.rebuild import plan_rebuild, rebuild_table
from lakehouse.pipeline.replay import discard_rows, quarantined, replay_rows
from lakehouse.pipeline.replaying import Replayed
from lakehouse.pipeline.statistics import mark_built, stale_statistics
from lakehouse.pipeline.verify import verify_source_tables
from lakehouse.spec import Source
from lakehouse.spec.declaration import Privacy
from tests.shop import CLICKS, FIRST, SHOP, Shop, assert_equal

PRICES = SHOP.table("prices")


def only(shop: Shop, table: Table, source: Source = SHOP) -> None:
    """The deployment with one table."""
    shop.deployment = Deployment(shop.deployment.settings, (replace(source, tables=(table,)),))


def kept(shop: Shop) -> list[str | None]:
    """The keys in the quarantine of the one table."""
    ((source, table), *_) = shop.deployment.select()
    return sorted((row.key for row in quarantined(shop.deployment, source, table)), key=str)


def is_level(shop: Shop) -> bool:
    """Whether a run would find nothing to do, the statistics apart."""
    mark_built(shop.deployment, stale_statistics(shop.deployment))
    return is_up_to_date(shop.deployment, shop.deployment.select())


def replayed(shop: Shop) -> Replayed:
    ((source, table), *_) = shop.deployment.select()
    return replay_rows(shop.deployment, source, table, quarantined(shop.deployment, source, table))


@pytest.mark.parametrize(
    ("type_", "keys"),
    [
        ("bytea", (r"'\xab12'", r"'\xab13'", r"'\xff'")),
        ("numeric(9,2)", ("1.50", "2.50", "3.50")),
        ("timestamptz", ("'2026-01-01 10:00:00.5Z'", "'2026-01-02Z'", "'2026-01-03Z'")),
        ("uuid", ("gen_random_uuid()", "gen_random_uuid()", "gen_random_uuid()")),
        ("boolean", ("true", "false", None)),
    ],
)
def test_a_refused_row_stays_until_its_key_is_gone_whatever_type_that_has(shop: Shop, type_: str, keys: tuple[str, ...]) -> None:
    shop.sql(f"create table things (key {type_} primary key, amount numeric(6,2), changed timestamptz not null)")
    for number, key in enumerate(key for key in keys if key is not None):
        amount = "'NaN'" if number < 2 else "1"
        shop.sql(f"insert into things values ({key}, {amount}, '2026-01-0{number + 1} 10:00Z')")
    only(shop, Table("things", "upsert", ("key",), cursor="changed", deletes="sweep"))
    shop.run()
    assert len(kept(shop)) == 2
    shop.run()
    assert len(kept(shop)) == 2, "the sweep sees that the source has them"
    shop.sql("delete from things where changed = '2026-01-01 10:00Z'")
    shop.run()
    assert len(kept(shop)) == 1
    shop.sql("update things set amount = 2, changed = '2026-01-05Z' where amount = 'NaN'")
    shop.run()
    assert kept(shop) == []
    assert_equal(shop)


def test_a_new_table_of_which_every_row_is_refused_is_there_without_rows(shop: Shop) -> None:
    shop.sql("create table things (id int primary key, amount numeric(6,2), changed timestamptz not null)")
    shop.sql("insert into things select i, 'NaN', '2026-01-01Z' from generate_series(1, 3) i")
    only(shop, Table("things", "upsert", ("id",), cursor="changed", deletes="sweep"))
    shop.run()
    assert len(kept(shop)) == 3
    assert shop.published("shop__things") == []
    assert_equal(shop)
    assert is_level(shop)
    shop.sql("update things set amount = 1, changed = '2026-01-02Z' where id = 2")
    shop.run()
    assert [row["id"] for row in shop.published("shop__things")] == [2]
    assert_equal(shop)


def test_a_quarantine_that_lags_behind_its_log_is_something_to_do(shop: Shop) -> None:
    shop.sql("alter table prices add tax numeric(6,2)", "update prices set tax = 'NaN' where item = 'tea'")
    only(shop, PRICES)
    shop.extract()
    source, table = shop.deployment.select()[0]
    apply_table(shop.deployment, source, replace(table, on_refused="stop"))
    assert not is_level(shop)
    shop.run()
    assert is_level(shop)


def test_rows_that_went_to_the_quarantine_before_do_not_hide_how_many_are_gone(shop: Shop) -> None:
    shop.sql("alter table prices add tax numeric(6,2)", "insert into prices select 'p' || i, 1, 1 from generate_series(1, 8) i")
    shop.sql("update prices set tax = 'NaN' where item in ('p1', 'p2', 'p3', 'p4')")
    only(shop, replace(PRICES, gone_at_most=0.1))
    shop.run()
    assert len(kept(shop)) == 4
    shop.sql("delete from prices where item in ('p5', 'p6', 'p7')")
    assert isinstance(shop.run()["prices"].error, DeletesRefused)
    assert len(shop.published("shop__prices")) == 6


def test_a_row_that_is_not_as_expected_is_the_same_beside_others_and_under_other_descriptions(shop: Shop) -> None:
    only(shop, replace(PRICES, expect=(Expect.between("price", 0, None, otherwise="quarantine"),)))
    shop.sql("insert into prices values ('cocoa', -1), ('mate', -2)")
    shop.run()
    source, table = shop.deployment.select()[0]
    discard_rows(shop.deployment, source, table, quarantined(shop.deployment, source, table))
    shop.sql("delete from prices where item = 'cocoa'", "insert into prices values ('zzz', -3)")
    shop.sql("comment on column prices.price is 'In euros'")
    shop.run()
    assert {(row.key, row.state) for row in quarantined(shop.deployment, source, table)} == {
        ('["mate"]', "discarded"),
        ('["zzz"]', "open"),
    }
    assert_equal(shop)


def test_the_bytes_of_a_row_do_not_depend_on_its_neighbours() -> None:
    rows = pa.RecordBatch.from_pylist([{"a": None, "b": "x"}, {"a": 1, "b": None}, {"a": None, "b": "x"}])
    alone = pa.RecordBatch.from_pylist([{"a": None, "b": "x"}], schema=rows.schema)
    assert as_bytes(rows.take(pa.array([0]))) == as_bytes(rows.take(pa.array([2]))) == as_bytes(alone.take(pa.array([0])))


def test_a_replay_keeps_what_the_source_has_lost_since_and_takes_days_of_dates(shop: Shop) -> None:
    shop.sql(
        "create table notes (id int primary key, day date not null, amount numeric, note text)",
        "insert into notes select i, date '2026-01-01' + i % 3, case when i = 3 then 123456 else 1 end, 'n' || i"
        " from generate_series(0, 11) i",
    )
    amount = Column("amount", "decimal(6,2)")
    notes = Table("notes", "append", ("id",), event_time="day", partition=days("day"), columns=(amount,))
    only(shop, notes)
    shop.run()
    assert kept(shop) == ["[3]"]
    shop.sql("alter table notes drop note")
    only(shop, replace(notes, columns=(replace(amount, type="decimal(12,2)"),)))
    assert len(replayed(shop).taken) == 1
    assert {row["note"] for row in shop.published("shop__notes", "id, note") if row["id"] % 3 == 0} == {"n0", "n6", "n9", None}
    assert kept(shop) == []


def test_a_column_that_became_personal_is_so_in_what_is_replayed(shop: Shop) -> None:
    customers = replace(SHOP.table("customers"), personal={})
    shop.sql("alter table customers add score numeric", "update customers set score = 123456, tier = 'Ann' where id = 'c1'")
    only(shop, replace(customers, columns=(Column("score", "decimal(6,2)"),)))
    shop.run()
    personal: dict[str, Privacy] = {"email": "tokenise", "tier": "mask"}
    only(shop, replace(customers, columns=(Column("score", "decimal(12,2)"),), personal=personal))
    source, table = shop.deployment.select()[0]
    plan = plan_rebuild(shop.deployment, source, table)
    assert any("1 rows in quarantine" in note for note in plan.notes)
    rebuild_table(shop.deployment, source, table, plan)
    assert len(replayed(shop).taken) == 1
    rows = {row["id"]: row for row in shop.published("shop__customers")}
    assert rows["c1"]["tier"] == "A***"
    assert len(rows["c1"]["email"]) == 32


@pytest.mark.parametrize("contact", ["joe@example.org", [{"email": "joe@example.org"}], {"email": {"at": "joe@example.org"}}])
def test_what_is_at_a_personal_path_is_in_no_quarantine_whatever_it_is(shop: Shop, contact: Any) -> None:
    columns = (
        Column("_id", "string", nullable=False),
        Column("at", "timestamp", nullable=False),
        Column("kind", "string", path="contact.kind"),
        Column("email", "string", path="contact.email"),
    )
    only(shop, replace(CLICKS.tables[0], columns=columns, personal={"email": "mask"}), CLICKS)
    with pymongo.MongoClient[dict[str, Any]](shop.mongo_url) as client:
        client.get_default_database()["clicks"].insert_one({"_id": "joe", "at": FIRST, "contact": contact, "page": "/here"})
    shop.run()
    source, table = shop.deployment.select()[0]
    (row,) = quarantined(shop.deployment, source, table)
    assert row.key == '["joe"]'
    assert "/here" in (row.row or "")
    assert "example.org" not in f"{row.row}{row.reason}"
    assert b"example.org" not in row.original


def test_a_history_that_is_declared_after_a_rebuild_begins_with_it_and_is_equal(shop: Shop) -> None:
    customers = SHOP.table("customers")
    shop.sql("alter table customers add visits int default 7")
    only(shop, customers)
    shop.run()
    only(shop, replace(customers, columns=(Column("visits", "string"),)))
    source, table = shop.deployment.select()[0]
    rebuild_table(shop.deployment, source, table, plan_rebuild(shop.deployment, source, table))
    only(shop, replace(table, history=True))
    shop.run()
    shop.sql("update customers set visits = 8, changed_at = '2026-01-01 14:30Z' where id = 'c3'")
    shop.run()
    reports = verify_source_tables(shop.deployment, source, [table for _, table in shop.deployment.select()], deep=True)
    assert [report.equal for report in reports] == [True, True], reports
    assert len(shop.published("shop__customers__history")) == 11
