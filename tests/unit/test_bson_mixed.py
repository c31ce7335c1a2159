"""A field whose type differs between documents follows the rule that its column declares."""

from __future__ import annotations

import math
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64, ObjectId
from bson.datetime_ms import DatetimeMS

from lakehouse.errors import DeclarationError
from lakehouse.sources.mongodb.bson_scan import following
from lakehouse.sources.mongodb.columns import PathColumn, RefusedValue, decode
from lakehouse.sources.mongodb.extended_json import EXACT
from lakehouse.spec import Column
from lakehouse.spec.types import arrow_field

VALUES: list[Any] = [
    1,
    Int64(2**53 + 1),
    1.5,
    math.nan,
    "text",
    "",
    None,
    True,
    {"a": 1},
    [1, "x"],
    [1, 2],
    ObjectId("0123456789abcdef01234567"),
    Decimal128("1.10"),
    DatetimeMS(1),
]


def encoded(values: list[Any]) -> bytes:
    return b"".join(bson.encode({"_id": place, "v": value}, codec_options=EXACT) for place, value in enumerate(values))


def column(name: str, type_: str, mixed: str) -> PathColumn:
    return PathColumn(arrow_field(name, type_), ("v",), mixed)


def test_a_widened_text_takes_every_value() -> None:
    assert decode(following(encoded(VALUES)), [column("v", "string", "widen")])["v"].to_pylist() == [
        "1",
        "9007199254740993",
        "1.5",
        '{"$numberDouble":"NaN"}',
        "text",
        "",
        None,
        "true",
        '{"a":1}',
        '[1,"x"]',
        "[1,2]",
        "0123456789abcdef01234567",
        '{"$numberDecimal":"1.10"}',
        '{"$date":"1970-01-01T00:00:00.001Z"}',
    ]


def test_split_columns_share_the_values_and_lose_none() -> None:
    columns = [
        column("whole", "int64", "split"),
        column("real", "float64", "split"),
        column("flag", "bool", "split"),
        column("text", "string", "split"),
        column("numbers", "list<int32>", "split"),
        column("object", "struct<a: int32>", "split"),
        column("rest", "json", "split"),
    ]
    rows = decode(following(encoded(VALUES)), columns).to_pylist()
    held = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert math.isnan(held[3].pop("real"))
    assert held == [
        {"whole": 1},
        {"whole": 2**53 + 1},
        {"real": 1.5},
        {},
        {"text": "text"},
        {"text": ""},
        {},
        {"flag": True},
        {"object": {"a": 1}},
        {"rest": '[1,"x"]'},
        {"numbers": [1, 2]},
        {"text": "0123456789abcdef01234567"},
        {"rest": '{"$numberDecimal":"1.10"}'},
        {"rest": '{"$date":"1970-01-01T00:00:00.001Z"}'},
    ]


def test_a_value_that_no_split_column_holds_is_refused() -> None:
    columns = [column("whole", "int64", "split"), column("text", "string", "split")]
    with pytest.raises(RefusedValue) as error:
        decode(following(encoded([1, "a", 1.5, True])), columns)
    assert (error.value.document_id, error.value.found) == ("2", "double 1.5")


def test_without_a_rule_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(RefusedValue, match="v"):
        decode(following(encoded(["a", 1])), [column("v", "string", "refuse")])


def test_only_text_is_widened_by_a_rule() -> None:
    with pytest.raises(DeclarationError, match="numbers widen by themselves"):
        Column("v", "int64", mixed="widen")
    with pytest.raises(DeclarationError, match="refuse, widen, split"):
        Column("v", "int64", mixed="null")  # type: ignore[arg-type]
