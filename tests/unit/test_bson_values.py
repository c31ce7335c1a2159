"""BSON values become values of the declared types exactly, or are refused with the document's `_id`."""

from __future__ import annotations

import json
import math
import struct
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import bson
import pytest
from bson import Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp, json_util
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.sources.mongodb.bson_scan import following
from lakehouse.sources.mongodb.columns import PathColumn, RefusedValue, decode
from lakehouse.sources.mongodb.extended_json import EXACT, json_text
from lakehouse.spec.types import arrow_field

OID = ObjectId("0123456789abcdef01234567")
UUID = uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")
ONE_DAY = 86_400_000


def decoded(values: list[Any], type_: str, *, nullable: bool = True) -> list[Any]:
    """Values in documents of their own, decoded as one column; absent where a value is `...`."""
    documents = [{"_id": number} | ({} if value is ... else {"v": value}) for number, value in enumerate(values)]
    data = b"".join(bson.encode(document, codec_options=EXACT) for document in documents)
    batch = decode(following(data), [PathColumn(arrow_field("v", type_, nullable=nullable), ("v",))])
    batch.validate(full=True)
    result: list[Any] = batch["v"].to_pylist()
    return result


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("bool", True, True),
        ("int32", -(2**31), -(2**31)),
        ("int32", Int64(7), 7),
        ("int32", 7.0, 7),
        ("int64", 7, 7),
        ("int64", Int64(-(2**63)), -(2**63)),
        ("int64", -(2.0**63), -(2**63)),
        ("int64", -0.0, 0),
        ("float64", 0.1, 0.1),
        ("float64", 7, 7.0),
        ("float64", Int64(2**53), 2.0**53),
        ("float64", Int64(2**62), 2.0**62),
        ("float64", math.inf, math.inf),
        ("float32", 0.5, 0.5),
        ("float32", 16777216, 16777216.0),
        ("decimal(5,2)", Decimal128("123.45"), Decimal("123.45")),
        ("decimal(5,2)", Decimal128("1.2E+2"), Decimal("120.00")),
        ("decimal(5,2)", Decimal128("1.200"), Decimal("1.20")),
        ("decimal(5,2)", -7, Decimal("-7.00")),
        ("decimal(5,2)", 0.25, Decimal("0.25")),
        ("decimal(38,4)", Decimal128("1234567890123456789012345678.012"), Decimal("1234567890123456789012345678.0120")),
        ("string", "naïve 🦆\0", "naïve 🦆\0"),
        ("string", "", ""),
        ("string", OID, str(OID)),
        ("string", Binary.from_uuid(UUID), str(UUID)),
        ("timestamp", DatetimeMS(0), datetime(1970, 1, 1, tzinfo=UTC)),
        ("timestamp", DatetimeMS(-1), datetime(1969, 12, 31, 23, 59, 59, 999000, UTC)),
        ("timestamp", DatetimeMS(-62135596800000), datetime(1, 1, 1, tzinfo=UTC)),
        ("timestamp", DatetimeMS(253402300799999), datetime(9999, 12, 31, 23, 59, 59, 999000, UTC)),
        ("date", DatetimeMS(-ONE_DAY), date(1969, 12, 31)),
        ("date", DatetimeMS(20_000 * ONE_DAY), date(2024, 10, 4)),
        ("binary", b"\0\xff", b"\0\xff"),
        ("list<string>", ["a", None, ""], ["a", None, ""]),
        ("list<string>", [], []),
        ("list<string>", [OID], [str(OID)]),
        ("list<int64>", [1, Int64(2), 3.0], [1, 2, 3]),
        ("list<timestamp>", [DatetimeMS(1)], [datetime(1970, 1, 1, 0, 0, 0, 1000, UTC)]),
        ("list<json>", [{"a": 1}, 2], ['{"a":1}', "2"]),
        ("list<list<int32>>", [[1], [], None], [[1], [], None]),
        ("json", {"b": 1, "a": [True, None]}, '{"b":1,"a":[true,null]}'),
        ("json", "text", '"text"'),
    ],
)  # fmt: skip
def test_a_value_that_fits_arrives_exactly(type_: str, value: object, expected: object) -> None:
    assert decoded([value, None, ..., value], type_) == [expected, None, None, expected]


@pytest.mark.parametrize(
    ("type_", "value", "found"),
    [
        ("bool", 1, "int 1"),
        ("bool", "true", 'string "true"'),
        ("int32", Int64(2**31), "long 2147483648"),
        ("int32", 7.5, "double 7.5"),
        ("int32", True, "bool true"),
        ("int64", 2.0**63, "double 9.223372036854776e+18"),
        ("int64", math.nan, "double"),
        ("int64", math.inf, "double"),
        ("int64", "7", 'string "7"'),
        ("int64", Decimal128("7"), "decimal"),
        ("float64", Int64(2**53 + 1), "long 9007199254740993"),
        ("float64", Decimal128("0.5"), "decimal"),
        ("float64", True, "bool true"),
        ("float32", 0.1, "double 0.1"),
        ("float32", 1e300, "double 1e+300"),
        ("decimal(5,2)", Decimal128("123.456"), "decimal"),
        ("decimal(5,2)", Decimal128("1000"), "decimal"),
        ("decimal(5,2)", Decimal128("NaN"), "decimal"),
        ("decimal(5,2)", 0.1, "double 0.1"),
        ("string", 7, "int 7"),
        ("string", {"a": 1}, 'object {"a":1}'),
        ("string", b"abc", "binData"),
        ("string", Code("f()"), "javascript"),
        ("string", Binary(b"x" * 16, 3), "binData"),
        ("timestamp", "2025-01-01", 'string "2025-01-01"'),
        ("timestamp", Timestamp(1, 1), "timestamp"),
        ("timestamp", DatetimeMS(253402300800000), "date"),
        ("timestamp", DatetimeMS(-62135596800001), "date"),
        ("date", DatetimeMS(1), "date"),
        ("binary", Binary(b"x" * 16, 4), "binData"),
        ("binary", "abc", "string"),
        ("list<string>", "a", 'string "a"'),
        ("list<string>", ["a", 1], "int 1 in its list"),
        ("list<string>", {"0": "a"}, "object"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_id(type_: str, value: object, found: str) -> None:
    with pytest.raises(RefusedValue) as error:
        decoded([None, ..., value, value], type_)
    assert error.value.column == "v"
    assert error.value.document_id == "2"
    assert error.value.found.startswith(found)


def test_nothing_where_a_value_is_required_is_refused() -> None:
    for nothing in (None, ...):
        with pytest.raises(RefusedValue) as error:
            decoded(["a", nothing], "string", nullable=False)
        assert error.value.document_id == "1"


def test_text_that_is_not_utf8_is_refused_with_its_id() -> None:
    good = bson.encode({"_id": 1, "v": "ab"})
    data = good + bson.encode({"_id": 2, "v": "ab"}).replace(b"ab", b"a\xff") + good
    for type_ in ("string", "json"):
        with pytest.raises(RefusedValue) as error:
            decode(following(data), [PathColumn(arrow_field("v", type_), ("v",))])
        assert error.value.document_id == "2"


def test_a_path_through_something_that_is_no_object_is_refused() -> None:
    data = b"".join(
        bson.encode(document) for document in ({"_id": 1, "a": {"b": 1}}, {"_id": 2, "a": None}, {"_id": 3, "a": [1]})
    )
    with pytest.raises(RefusedValue) as error:
        decode(following(data), [PathColumn(arrow_field("v", "int32"), ("a", "b"))])
    assert error.value.document_id == "3"
    assert "'a', not an object" in error.value.found


numbers = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1).map(Int64), st.floats(), st.integers(-99, 99).map(float)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(numbers | st.none(), max_size=8), st.sampled_from(["int32", "int64", "float32", "float64", "decimal(20,3)"]))
def test_a_number_is_taken_if_and_only_if_it_stays_itself(values: list[Any], type_: str) -> None:
    for value in values:
        try:
            (found,) = decoded([value], type_)
        except RefusedValue:
            assert not fits(value, type_)
        else:
            assert found == value or (value is None and found is None) or (math.isnan(value) and math.isnan(found))
    fitting = [value for value in values if value is None or fits(value, type_)]
    assert [repr(value) for value in decoded(fitting, type_)] == [repr(decoded([value], type_)[0]) for value in fitting]


def fits(value: Any, type_: str) -> bool:
    """Whether a type holds a number, by arithmetic on exact fractions."""
    if type_ == "float64":
        return isinstance(value, float) or float(value) == value
    if type_ == "float32":
        if isinstance(value, float) and not math.isfinite(value):
            return True
        try:
            return bool(struct.unpack("f", struct.pack("f", value))[0] == value)
        except OverflowError:
            return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if type_ == "decimal(20,3)":
        thousandths = Decimal(value).scaleb(3) if isinstance(value, int) else Decimal(value) * 1000
        return abs(Decimal(value)) < 10**17 and Decimal(value).as_integer_ratio()[1] in (1, 2, 4, 8) and thousandths % 1 == 0
    bits = int(type_.removeprefix("int"))
    return float(value).is_integer() and -(2 ** (bits - 1)) <= int(value) < 2 ** (bits - 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Int64(2**63 - 1), "9223372036854775807"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e300, "1e+300"),
        (0.1, "0.1"),
        (math.nan, '{"$numberDouble":"NaN"}'),
        ([-math.inf, {"a": math.inf}], '[{"$numberDouble":"-Infinity"},{"a":{"$numberDouble":"Infinity"}}]'),
        ('naïve 🦆 " \\ \n \x01', '"naïve 🦆 \\" \\\\ \\n \\u0001"'),
        (OID, '{"$oid":"0123456789abcdef01234567"}'),
        (DatetimeMS(0), '{"$date":"1970-01-01T00:00:00Z"}'),
        (DatetimeMS(1), '{"$date":"1970-01-01T00:00:00.001Z"}'),
        (DatetimeMS(-1), '{"$date":{"$numberLong":"-1"}}'),
        (DatetimeMS(253402300800000), '{"$date":{"$numberLong":"253402300800000"}}'),
        (Decimal128("1.20E+5"), '{"$numberDecimal":"1.20E+5"}'),
        (Binary(b"\0\xff", 128), '{"$binary":{"base64":"AP8=","subType":"80"}}'),
        (b"\0\xff", '{"$binary":{"base64":"AP8=","subType":"00"}}'),
        (Timestamp(1, 2), '{"$timestamp":{"t":1,"i":2}}'),
        (Regex("a", "i"), '{"$regularExpression":{"pattern":"a","options":"i"}}'),
        (Code("f()"), '{"$code":"f()"}'),
        ([Code("f()", {"a": 1})], '[{"$code":"f()","$scope":{"a":1}}]'),
        (DBRef("c", OID), '{"$ref":"c","$id":{"$oid":"0123456789abcdef01234567"}}'),
        ([MinKey(), MaxKey()], '[{"$minKey":1},{"$maxKey":1}]'),
        ({"b": {}, "a": []}, '{"b":{},"a":[]}'),
    ],
)
def test_json_is_relaxed_extended_json(value: object, text: str) -> None:
    assert decoded([value], "json") == [text]
    assert json.loads(text) is not None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.binary(min_size=12, max_size=12).map(ObjectId)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9).map(Decimal128)
    | st.integers(-62135596800000, 253402300799999).map(DatetimeMS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_json_reads_back_as_the_value_it_was(value: Any) -> None:
    options = json_util.JSONOptions(datetime_conversion=EXACT.datetime_conversion, tz_aware=True)
    assert json_util.loads(json_text(value), json_options=options) == value
