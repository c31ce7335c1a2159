"""How lake tables follow the columns of their batches: appear, widen, become nullable, or stop with the ways on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from lakehouse.errors import CommitConflict, DeclarationError, SchemaChanged, SourceMismatch
from lakehouse.raw import under_todays_names
from lakehouse.spec import Table
from lakehouse.spec.partitioning import bucket, days
from lakehouse.spec.types import declared_type, field_doc
from tests.lakes import Lake, evolving_lake_fixture  # noqa: F401
from tests.rawlogs import SOURCE, HandLog, Row, day, digest

ITEMS = Table("items", "upsert", ("id",), cursor="changed", event_time="changed", partition=bucket("id", 2))
FIELDS = {"id": "int32", "changed": "timestamp", "price": "decimal(6,2)", "weight": "float32", "extra": "json"}
EVERY_TYPE = {
    "id": "int64",
    "changed": "timestamp",
    "flag": "bool",
    "small": "int32",
    "single": "float32",
    "double": "float64",
    "money": "decimal(9,2)",
    "more": "decimal(18,4)",
    "most": "decimal(38,10)",
    "text": "string",
    "document": "json",
    "blob": "binary",
    "born": "date",
    "tags": "list<string>",
    "numbers": "list<int64>",
    "documents": "list<json>",
    "object": "struct<a:int64,deep:struct<at:timestamp,blob:binary,tags:list<string>>,odd name's:json>".replace(" ", "_"),
    "objects": "list<struct<n:decimal(9,2),inner:list<struct<x:float64>>>>",
}


def item(number: int, changed: int = 1, **more: object) -> Row:
    """One version of an item."""
    return {"id": number, "changed": day(changed), "price": Decimal("9.50"), "weight": 0.5, "extra": "{}", **more}


def test_every_type_comes_back_as_it_was_declared(lake: Lake) -> None:
    table = Table("types", "upsert", ("id",), cursor="changed", partition=bucket("id", 2))
    log = lake.log(table, EVERY_TYPE, ("id", "changed"))
    rows: list[Row] = [
        {
            "id": 2**62,
            "changed": datetime(2026, 1, 31, 23, 59, 59, 999999, tzinfo=UTC),
            "flag": False,
            "small": -(2**31),
            "single": 1.5,
            "double": 0.1 + 0.2,
            "money": Decimal("-1234567.89"),
            "more": Decimal("99999999999999.0001"),
            "most": Decimal("9999999999999999999999999999.0123456789"),
            "text": "naïve 漢字 \x00 end",
            "document": '{"a": [1, null]}',
            "blob": b"\x00\xff",
            "born": date(1969, 7, 20),
            "tags": ["a", None, ""],
            "numbers": [],
            "documents": ["{}", None],
            "object": {
                "a": 2**62,
                "deep": {"at": datetime(2026, 1, 31, tzinfo=UTC), "blob": b"\xff", "tags": [None, "t"]},
                "odd_name's": "{}",
            },
            "objects": [{"n": Decimal("1.50"), "inner": [{"x": float("-inf")}, None]}, None, {"n": None, "inner": []}],
        },
        {
            "id": 2,
            "changed": datetime(1, 1, 1, tzinfo=UTC),
            "double": float("inf"),
            "tags": None,
            "numbers": [1, 2],
            "objects": [],
        },
        {"id": 3, "changed": datetime(9999, 12, 31, tzinfo=UTC), "text": "x" * 100_000, "born": date(9999, 12, 31)},
    ]
    log.write("upsert", rows)
    lake.apply(log)
    lake.check(log, rows)
    log.write("upsert", [{**rows[1], "text": "again"}])
    lake.apply(log)
    lake.check(log, [rows[0], {**rows[1], "text": "again"}, rows[2]])
    schema = lake.state(table).schema
    assert {field.name: declared_type(field) for field in schema} == EVERY_TYPE
    assert schema == log.schema()
    assert {field_doc(field) for field in schema} == {f"The {name}." for name in EVERY_TYPE}
    assert [field.name for field in schema if not field.nullable] == ["id", "changed"]
    assert next(lake.tables.scan(SOURCE, table)).schema.equals(log.schema(), check_metadata=True)


def test_nan_and_infinities_survive_the_fold(lake: Lake) -> None:
    log = lake.log(ITEMS, {**FIELDS, "weight": "float64"}, ("id",))
    log.write("upsert", [item(1, weight=float("nan")), item(2, weight=float("-inf")), item(3, weight=-0.0)])
    lake.apply(log)
    found = {row["id"]: row["weight"] for row in lake.rows(ITEMS)}
    assert str(found) == "{1: nan, 2: -inf, 3: -0.0}" or {str(found[1]), str(found[2]), str(found[3])} == {"nan", "-inf", "-0.0"}


def test_a_renamed_column_keeps_its_past_under_its_new_name(lake: Lake) -> None:
    log = lake.log(ITEMS, FIELDS, ("id",))
    log.write("upsert", [item(1), item(2), item(3)])
    lake.apply(log)
    before = lake.state(ITEMS).current.version
    log.fields = {"cost" if name == "price" else name: type_ for name, type_ in FIELDS.items()}
    log.write("upsert", [item(2, 2, cost=Decimal("7.25"))])
    log.write("delete", [{"id": 3}], columns=["id"])
    old, log.table = log.table, replace(log.table, renamed={"cost": ("price", "amount")})
    assert lake.tables.has_old_names(SOURCE, log.table)
    assert not lake.tables.has_old_names(SOURCE, old)
    seen_today(log)
    with pytest.raises(CommitConflict, match=r"price \(now cost\)"):
        lake.apply(log)
    rows = [{**item(1), "cost": Decimal("9.50")}, item(2, 2, cost=Decimal("7.25"))]
    expected = [{name: value for name, value in row.items() if name != "price"} for row in rows]

    def built_anew() -> None:
        lake.tables.rebuild(SOURCE, log.table, log.entries, log.folder)
        lake.check(log, expected)
        assert lake.state(ITEMS).schema.names == ["id", "changed", "cost", "weight", "extra"]
        assert not lake.tables.has_old_names(SOURCE, log.table)
        assert {row["price"] for row in lake.rows(old, version=before)} == {Decimal("9.50")}

    built_anew()
    log.write("upsert", [{**expected[0], "changed": day(5)}])
    seen_today(log)
    lake.apply(log)
    expected[0]["changed"] = day(5)
    lake.check(log, expected)
    lake.tables.rollback(SOURCE, log.table, before)
    assert lake.tables.has_old_names(SOURCE, log.table)
    marker = lake.marker(log.table)
    lake.tables.compact(SOURCE, log.table, list(lake.tables.partitions(SOURCE, log.table)))
    assert lake.marker(log.table) == marker, "rows were written under names that the marker's checksum is not of"
    assert digest(pa.Table.from_batches(lake.tables.scan(SOURCE, old)))[1] == marker.checksum
    built_anew()


def seen_today(log: HandLog) -> None:
    """Let the entries of a log be as its table's declaration calls their columns now."""
    log.entries = [replace(entry, manifest=under_todays_names(log.table, entry.manifest)) for entry in log.entries]


def test_a_new_column_appears_and_older_rows_are_null_in_it(lake: Lake) -> None:
    log = lake.log(ITEMS, FIELDS, ("id",))
    log.write("upsert", [item(1), item(2), item(3)])
    lake.apply(log)
    checksum = lake.marker(ITEMS).checksum
    log.fields["colour"] = "string"
    log.fields["shape"] = "json"
    log.required.add("colour")
    log.write("upsert", [])
    lake.apply(log)
    assert lake.marker(ITEMS).checksum == checksum
    log.write("upsert", [item(2, 2, colour="red", shape="[]")])
    lake.apply(log)
    lake.check(log, [item(1), item(2, 2, colour="red", shape="[]"), item(3)])
    schema = lake.state(ITEMS).schema
    assert schema.names == [*FIELDS, "colour", "shape"]
    assert schema.field("colour").nullable
    assert declared_type(schema.field("shape")) == "json"


def test_types_widen_and_the_marker_stays_true(lake: Lake) -> None:
    log = lake.log(ITEMS, FIELDS, ("id",))
    log.write("upsert", [item(number, weight=0.1) for number in range(6)])
    lake.apply(log)
    old = {row["id"]: row for row in lake.rows(ITEMS)}
    log.fields |= {"id": "int64", "price": "decimal(12,2)", "weight": "float64", "extra": "string"}
    log.write("upsert", [item(2**40, 2, price=Decimal("1234567890.12"), weight=0.1, extra="not json")])
    lake.apply(log)
    lake.check(log, [*old.values(), item(2**40, 2, price=Decimal("1234567890.12"), weight=0.1, extra="not json")])
    assert {f.name: declared_type(f) for f in lake.state(ITEMS).schema} == log.fields
    log.write("upsert", [item(1, 3)])
    lake.apply(log)
    lake.check(log, [row for key, row in old.items() if key != 1] + [item(1, 3), *(r for r in lake.rows(ITEMS) if r["id"] > 9)])


def test_a_list_widens_with_its_element(lake: Lake) -> None:
    log = lake.log(ITEMS, {**FIELDS, "sizes": "list<int32>"}, ("id",))
    log.write("upsert", [item(1, sizes=[1, None]), item(2, sizes=[])])
    lake.apply(log)
    log.fields["sizes"] = "list<int64>"
    log.write("upsert", [item(3, sizes=[2**40])])
    lake.apply(log)
    lake.check(log, [item(1, sizes=[1, None]), item(2, sizes=[]), item(3, sizes=[2**40])])


def test_structs_get_new_fields_and_wider_ones_at_any_depth_and_what_was_there_is_null_in_them(lake: Lake) -> None:
    nested = {"place": "struct<x:int32,deep:struct<tags:list<string>>>", "parts": "list<struct<n:float32>>"}
    log = lake.log(ITEMS, {**FIELDS, **nested}, ("id",))
    old = [
        item(1, place={"x": 1, "deep": {"tags": ["a", None]}}, parts=[{"n": 0.1}, None, {"n": None}]),
        item(2, place={"x": None, "deep": None}, parts=[]),
        item(3, place=None, parts=None),
    ]
    log.write("upsert", old)
    lake.apply(log)
    before = {row["id"]: row for row in lake.rows(ITEMS)}
    log.fields |= {
        "place": "struct<x:int64,deep:struct<tags:list<string>,more:json>,name:string>",
        "parts": "list<struct<n:float32,at:timestamp,inner:list<struct<y:date>>>>",
    }
    new = item(
        2,
        2,
        place={"x": 2**40, "deep": {"tags": None, "more": "[]"}, "name": "b"},
        parts=[{"n": 0.5, "at": day(2), "inner": [{"y": date(2026, 1, 1)}, None]}, None],
    )
    log.write("upsert", [new])
    lake.apply(log)
    first = before[1]
    first["place"] = {"x": 1, "deep": {"tags": ["a", None], "more": None}, "name": None}
    first["parts"] = [part and {**part, "at": None, "inner": None} for part in first["parts"]]
    lake.check(log, [first, new, old[2]])
    assert {f.name: declared_type(f) for f in lake.state(ITEMS).schema} == log.fields
    log.fields |= nested
    log.write("upsert", [item(3, 3, place={"x": 7, "deep": None}, parts=[{"n": 1.5}])])
    lake.apply(log)
    third = item(3, 3, place={"x": 7, "deep": None, "name": None}, parts=[{"n": 1.5, "at": None, "inner": None}])
    lake.check(log, [first, new, third])


def test_a_narrower_batch_is_read_as_the_tables_type(lake: Lake) -> None:
    log = lake.log(ITEMS, {**FIELDS, "id": "int64"}, ("id",))
    log.write("upsert", [item(2**40)])
    lake.apply(log)
    log.fields["id"] = "int32"
    log.write("upsert", [item(7)])
    lake.apply(log)
    lake.check(log, [item(2**40), item(7)])
    assert declared_type(lake.state(ITEMS).schema.field("id")) == "int64"


def test_a_required_column_that_a_batch_lacks_may_be_null_from_then_on(lake: Lake) -> None:
    log = lake.log(ITEMS, FIELDS, ("id", "price"))
    log.write("upsert", [item(1)])
    lake.apply(log)
    assert not lake.state(ITEMS).schema.field("price").nullable
    log.write("upsert", [item(2)], columns=["id", "changed", "weight", "extra"])
    lake.apply(log)
    lake.check(log, [item(1), item(2, price=None)])
    assert lake.state(ITEMS).schema.field("price").nullable


def test_a_key_column_that_may_be_null_no_longer_identifies_rows_but_still_folds(lake: Lake) -> None:
    log = lake.log(ITEMS, FIELDS, ("id",))
    log.write("upsert", [item(1)])
    lake.apply(log)
    log.required.clear()
    log.write("upsert", [{**item(0), "id": None}, {**item(0, 2), "id": None}])
    lake.apply(log)
    lake.check(log, [item(1), {**item(0, 2), "id": None}])


@pytest.mark.parametrize(
    ("column", "changed"), [("extra", "int64"), ("id", "string"), ("price", "decimal(6,3)"), ("weight", "int32")]
)
def test_a_type_that_cannot_be_followed_stops_with_column_types_and_the_ways_on(lake: Lake, column: str, changed: str) -> None:
    log = lake.log(ITEMS, FIELDS, ("id",))
    log.write("upsert", [item(1)])
    lake.apply(log)
    before = lake.state(ITEMS)
    log.fields[column] = changed
    log.write("upsert", [])
    with pytest.raises(SchemaChanged) as raised:
        lake.apply(log)
    said = str(raised.value)
    for part in (f"column {column!r}", changed, FIELDS[column], "beside shop.items"):
        assert part in said
    assert lake.state(ITEMS) == before


def test_a_declaration_that_names_a_column_which_is_not_there_is_told_before_any_work(lake: Lake) -> None:
    table = Table("items", "upsert", ("id",), cursor="updated", partition=bucket("id", 2))
    log = lake.log(table, FIELDS, ("id",))
    log.write("upsert", [item(1)])
    with pytest.raises(SourceMismatch, match="'updated'"):
        lake.apply(log)
    assert lake.tables.state(SOURCE, table) is None


def test_a_partitioning_that_the_columns_type_does_not_have_is_refused(lake: Lake) -> None:
    table = Table("items", "upsert", ("id",), cursor="changed", partition=days("extra"))
    log = lake.log(table, FIELDS, ("id",))
    log.write("upsert", [item(1)])
    with pytest.raises(DeclarationError, match="partitioning by day of column 'extra'"):
        lake.apply(log)


def test_another_partitioning_than_the_tables_own_is_refused(lake: Lake) -> None:
    log = lake.log(ITEMS, FIELDS, ("id",))
    log.write("upsert", [item(1)])
    lake.apply(log)
    log.write("upsert", [item(2)])
    other = Table("items", "upsert", ("id",), cursor="changed", partition=bucket("id", 8))
    with pytest.raises(SchemaChanged, match="partitioned by"):
        lake.tables.apply(SOURCE, other, log.entries, log.folder)
    lake.check(log, [item(1)], sequence=1)


def test_bytes_of_a_raw_file_stay_what_they_were_when_the_table_widens(lake: Lake) -> None:
    """The raw zone is immutable: an evolved table folds old files with the schema they came with."""
    log = lake.log(ITEMS, FIELDS, ("id",))
    log.write("upsert", [item(1)])
    log.fields["id"] = "int64"
    log.write("upsert", [item(2)])
    lake.apply(log)
    lake.check(log, [item(1), item(2)])
    assert pa.types.is_int64(lake.state(ITEMS).schema.field("id").type)
