"""The table of BSON types is what the decoder does: every BSON type against every declared type."""

from __future__ import annotations

import struct

import bson
import pytest
from bson import Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS

from lakehouse.sources.mongodb.bson_scan import TYPE_NAMES, following
from lakehouse.sources.mongodb.columns import PathColumn, RefusedValue, decode
from lakehouse.sources.mongodb.mapping import ANY, RULES, BsonRule
from lakehouse.spec.types import arrow_field

DECLARED = (
    *("bool", "int32", "int64", "float32", "float64", "decimal(p,s)", "string", "binary", "date", "timestamp", "json"),
    *("list<int64>", "struct<a: int64>"),
)


def text(value: bytes) -> bytes:
    return struct.pack("<i", len(value) + 1) + value + b"\0"


def raw(type_: int, value: bytes) -> bytes:
    body = bytes([type_]) + b"v\0" + value
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def put(value: object) -> bytes:
    return bson.encode({"v": value})


SAMPLES: dict[str, list[bytes]] = {
    "double": [put(7.0)],
    "string": [put("x")],
    "object": [put({"a": 7})],
    "array": [put([7])],
    "binData": [put(b"x"), put(Binary(b"x" * 16, 4))],
    "undefined": [raw(6, b"")],
    "objectId": [put(ObjectId("0123456789abcdef01234567"))],
    "bool": [put(True)],
    "date": [put(DatetimeMS(86_400_000))],
    "null": [put(None)],
    "regex": [put(Regex("x", "i"))],
    "dbPointer": [raw(12, text(b"db.c") + bytes(12))],
    "javascript": [put(Code("f()"))],
    "symbol": [raw(14, text(b"x"))],
    "javascriptWithScope": [put(Code("f()", {"a": 1}))],
    "int": [put(7)],
    "timestamp": [put(Timestamp(7, 1))],
    "long": [put(Int64(7))],
    "decimal": [put(Decimal128("7"))],
    "minKey": [put(MinKey())],
    "maxKey": [put(MaxKey())],
}
"""Values of each type that any declared type takes which takes the type at all."""


def taken(document: bytes, declared: str) -> bool | None:
    """Whether a column takes the value; None when it takes it as null."""
    column = PathColumn(arrow_field("v", declared.replace("(p,s)", "(12,5)")), ("v",))
    try:
        (value,) = decode(following(document), [column])["v"].to_pylist()
    except RefusedValue:
        return False
    return True if value is not None else None


def test_every_bson_type_is_in_the_table() -> None:
    assert {rule.name for rule in RULES} == set(TYPE_NAMES.values()) == set(SAMPLES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.name))
def test_a_bson_type_is_taken_by_the_declared_types_of_its_row_and_refused_by_all_others(rule: BsonRule) -> None:
    assert set(rule.declared) <= set(DECLARED)
    for declared in DECLARED:
        found = {taken(document, declared) for document in SAMPLES[rule.name]}
        if rule.is_null:
            assert found == {None}
        else:
            assert (True in found) == (declared in (*rule.declared, ANY)), declared
            assert None not in found
