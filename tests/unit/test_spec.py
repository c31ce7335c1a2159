"""Declarations: what can't be meant is refused when it is declared, with the field named and the allowed values listed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest

from lakehouse.errors import DeclarationError
from lakehouse.spec import Column, Partitioning, RowChecksum, Source, Table, Window, bucket, days, identity, months, unpartitioned
from lakehouse.spec.types import arrow_field, arrow_type, declared_type, field_doc

TYPES = {
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "json": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "decimal(12,2)": pa.decimal128(12, 2),
    "decimal(38,38)": pa.decimal128(38, 38),
    "list<string>": pa.list_(pa.field("element", pa.string())),
    "struct<a:int64,$b.c:list<struct<d:decimal(9,2),e:string>>>": pa.struct(
        [
            ("a", pa.int64()),
            ("$b.c", pa.list_(pa.field("element", pa.struct([("d", pa.decimal128(9, 2)), ("e", pa.string())])))),
        ]
    ),
    "list<list<decimal(5,0)>>": pa.list_(pa.field("element", pa.list_(pa.field("element", pa.decimal128(5, 0))))),
}


def a_table(**changes: Any) -> Table:
    return Table(**{"name": "orders", "mode": "upsert", "key": ("id",), "cursor": "updated_at", **changes})


def an_append_table(**changes: Any) -> Table:
    values = {"name": "events", "mode": "append", "key": ("id",), "event_time": "at", "partition": days("at")}
    return Table(**{**values, **changes})


def a_source(**changes: Any) -> Source:
    return Source(**{"name": "shop", "kind": "postgres", "tables": (a_table(),), **changes})


def test_sound_declarations_are_accepted() -> None:
    table = a_table(
        partition=bucket("id", 8),
        deletes="sweep",
        lookback=timedelta(hours=6),
        columns=(Column("extra", "json", path="a.b"),),
        personal={"email": "tokenise", "name": "mask", "phone": "drop"},
        relation="sales.orders",
    )
    source = a_source(tables=(table, an_append_table(), Table("places", "snapshot", ("code",))))
    assert source.table("orders") is table
    assert [table.format for table in source.tables] == ["iceberg"] * 3


WRONG_TABLES: list[tuple[dict[str, Any], str, str]] = [
    ({"mode": "merge"}, "'mode'", "append, upsert, snapshot"),
    ({"format": "hudi"}, "'format'", "iceberg"),
    ({"deletes": "soft"}, "'deletes'", "none, sweep"),
    ({"personal": {"email": "hide"}}, r"personal\['email'\]", "drop, mask, tokenise"),
    ({"personal": {"id": "drop"}}, r"personal\['id'\]", "not key, cursor"),
    ({"personal": {"updated_at": "mask"}}, r"personal\['updated_at'\]", "not key, cursor"),
    ({"partition": identity("city"), "personal": {"city": "mask"}}, r"personal\['city'\]", "partition column"),
    ({"key": ()}, "'key'", "a tuple of column names"),
    ({"key": "id"}, "'key'", "a tuple of column names"),
    ({"cursor": None}, "'cursor'", "a timestamp column"),
    ({"lookback": timedelta(seconds=-1)}, "'lookback'", "zero or more"),
    ({"name": "Orders"}, "'name'", "lower-case letters"),
    ({"name": ""}, "'name'", "lower-case letters"),
    ({"name": "1st"}, "'name'", "a letter first"),
    ({"name": "a/b"}, "'name'", "lower-case letters"),
    ({"name": "a" * 64}, "'name'", "at most 63"),
    ({"name": "orders\n"}, "'name'", "lower-case letters"),
    ({"renamed": {"b": "a", "c": "b"}}, "'renamed'", "each name once"),
    ({"renamed": {"b": ("a", "c"), "d": "c"}}, "'renamed'", "each name once"),
    ({"partition": bucket("id", 2), "renamed": {"id": "number"}}, "'renamed'", "not partitioned by"),
    ({"format": "delta", "keep_months": True}, "'keep_months'", "format='iceberg'"),
    ({"deletes": "sweep", "sweep_every": timedelta(-1)}, "'sweep_every'", "zero or more"),
    ({"deletes": "none", "sweep_every": timedelta(1)}, "'sweep_every'", "deletes='sweep'"),
    ({"on_change": "stop"}, "'on_change'", "evolve, freeze"),
    ({"history": True, "name": "a" * 60, "on_refused": "stop"}, "'history'", "at most 63"),
    ({"name": "a" * 60}, "'name'", "at most 51 letters"),
    ({"refused_at_most": 2.0}, "'refused_at_most'", "from 0 to 1"),
    ({"refused_at_most": 0.1, "on_refused": "stop"}, "'refused_at_most'", "on_refused='quarantine'"),
    ({"on_refused": "drop"}, "'on_refused'", "stop, quarantine"),
    ({"history": True, "columns": (Column("deleted", "bool"),)}, "'columns'", "valid_from, valid_to, is_current, deleted"),
    ({"gone_at_most": 20}, "'gone_at_most'", "from 0 to 1"),
    ({"gone_at_most": 0.2}, "'gone_at_most'", "deletes='sweep'"),
]


@pytest.mark.parametrize(("changes", "field", "allowed"), WRONG_TABLES)
def test_a_table_that_cannot_be_meant_names_the_field_and_what_is_allowed(
    changes: dict[str, Any], field: str, allowed: str
) -> None:
    with pytest.raises(DeclarationError, match=field) as caught:
        a_table(**changes)
    assert caught.value.allowed is not None
    assert allowed in caught.value.allowed
    assert "declaring table" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("changes", [{"event_time": None}, {"partition": unpartitioned()}, {"partition": days("other")},
                                     {"partition": months("at")}, {"deletes": "sweep"}, {"history": True}])  # fmt: skip
def test_an_append_table_needs_an_event_time_and_its_days(changes: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="declaring table 'events'"):
        an_append_table(**changes)


def test_a_snapshot_table_finds_deletes_by_itself() -> None:
    with pytest.raises(DeclarationError, match="'deletes'"):
        Table("places", "snapshot", ("code",), deletes="sweep")


@pytest.mark.parametrize(
    ("changes", "field", "allowed"),
    [
        ({"name": "Shop"}, "'name'", "lower-case"),
        ({"kind": "oracle"}, "'kind'", "postgres, mongodb"),
        ({"tables": (a_table(), a_table())}, "'tables'", "each table once"),
        ({"tables": (a_table(history=True), a_table(name="orders__history"))}, "'tables'", "histories of tables"),
        ({"kind": "mongodb"}, "'columns'", "at least one Column"),
        ({"kind": "mongodb", "tables": (a_table(on_change="freeze"),)}, "'on_change'", "the columns that you declare"),
    ],
)
def test_a_source_that_cannot_be_meant_names_the_field_and_what_is_allowed(
    changes: dict[str, Any], field: str, allowed: str
) -> None:
    with pytest.raises(DeclarationError, match=field) as caught:
        a_source(**changes)
    assert caught.value.allowed is not None
    assert allowed in caught.value.allowed


def test_a_table_that_is_not_declared_is_answered_with_those_that_are() -> None:
    with pytest.raises(DeclarationError, match="'order'") as caught:
        a_source(tables=(a_table(), an_append_table())).table("order")
    assert caught.value.allowed == "orders, events"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Partitioning("hour", "at"),  # type: ignore[arg-type]
        lambda: Partitioning("day"),
        lambda: Partitioning("none", "at"),
        lambda: Partitioning("day", "at", 4),
        lambda: Partitioning("bucket", "id"),
        lambda: bucket("id", 0),
        lambda: bucket("id", -1),
    ],
)
def test_a_partitioning_that_cannot_be_meant_is_refused(make: Callable[[], Partitioning]) -> None:
    with pytest.raises(DeclarationError, match="declaring a partitioning") as caught:
        make()
    assert caught.value.allowed


def test_only_days_and_months_are_spans_of_time() -> None:
    time = {made.transform: made.is_time for made in (days("a"), months("a"), identity("a"), bucket("a", 2), unpartitioned())}
    assert time == {"day": True, "month": True, "identity": False, "bucket": False, "none": False}


@pytest.mark.parametrize("declared", TYPES)
def test_a_declared_type_has_an_arrow_type_and_comes_back_from_it(declared: str) -> None:
    assert arrow_type(declared) == TYPES[declared]
    field = arrow_field("x", declared, nullable=False, doc="Größe")
    assert (field.type, field.nullable, declared_type(field), field_doc(field)) == (TYPES[declared], False, declared, "Größe")
    if declared != "json":
        assert declared_type(pa.field("x", TYPES[declared])) == declared


@pytest.mark.parametrize(
    "declared",
    [
        "",
        "text",
        "INT64",
        "decimal",
        "decimal(0,0)",
        "decimal(39,0)",
        "decimal(5,6)",
        "list<>",
        "list<uuid>",
        "int64[]",
        "struct<a: uuid>",
        "list<struct<a: int64>",
    ],
)
def test_a_type_that_does_not_exist_is_answered_with_those_that_do(declared: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        Column("x", declared)
    assert str(caught.value.value) in declared
    assert "float64" in str(caught.value.allowed)


@pytest.mark.parametrize("declared", ["struct<>", "struct<a>", "struct<a: int64, a: int64>", "struct<a b: int64>"])
def test_a_struct_without_named_and_typed_fields_is_refused(declared: str) -> None:
    with pytest.raises(DeclarationError, match="of a struct"):
        Column("x", declared)


@pytest.mark.parametrize(
    "foreign", [pa.uint64(), pa.timestamp("ns", tz="UTC"), pa.timestamp("us"), pa.map_(pa.string(), pa.int32())]
)
def test_an_arrow_type_that_cannot_be_declared_is_refused_with_the_column_named(foreign: pa.DataType) -> None:
    with pytest.raises(DeclarationError, match="'strange'"):
        declared_type(pa.field("strange", foreign))


def test_large_arrow_types_are_declared_as_their_plain_ones() -> None:
    fields = [pa.field("x", type_) for type_ in (pa.large_string(), pa.large_binary(), pa.large_list(pa.large_string()))]
    assert [declared_type(field) for field in fields] == ["string", "binary", "list<string>"]


def test_declarations_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        a_table().name = "other"  # type: ignore[misc]


def test_a_day_is_a_utc_day() -> None:
    window = Window.of_day(date(2026, 3, 29))
    assert window == Window(datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 3, 30, tzinfo=UTC))
    zone = timezone(timedelta(hours=2))
    assert window == Window(datetime(2026, 3, 29, 2, tzinfo=zone), datetime(2026, 3, 30, 2, tzinfo=zone))
    assert len({window, Window.of_day(date(2026, 3, 29))}) == 1


def test_checksums_add_and_subtract_modulo_two_to_the_64() -> None:
    one, other = RowChecksum(3, 2**64 - 1), RowChecksum(2, 5)
    assert one + other == RowChecksum(5, 4)
    assert one + other - other == one
    assert (RowChecksum(0, 255).hex, one.hex) == ("00000000000000ff", "f" * 16)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mode": "append", "event_time": "at", "partition": days("at")}, "not read again when it is marked"),
        ({"personal": {"deleted_at": "mask"}}, "personal['deleted_at']"),
        ({"soft_deleted": "purge"}, "hide, keep, with soft_delete"),
        ({"soft_delete": None, "soft_deleted": "keep"}, "'keep' without soft_delete"),
    ],
)
def test_a_mark_of_soft_deletes_that_cannot_be_meant_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        Table(**{"name": "users", "mode": "snapshot", "key": ("id",), "soft_delete": "deleted_at", **changes})
    assert told in str(raised.value)


def test_the_name_of_all_rows_of_a_table_that_hides_some_is_no_other_tables() -> None:
    users = Table("users", "snapshot", ("id",), soft_delete="gone")
    other = Table("users__with_deleted", "snapshot", ("id",))
    with pytest.raises(DeclarationError, match="users__with_deleted"):
        Source("shop", "postgres", (users, other))
    Source("shop", "postgres", (replace(users, soft_deleted="keep"), other))
