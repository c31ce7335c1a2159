"""Objects and arrays become structs and lists exactly as they are declared, at any depth and length."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from bson import Int64
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.sources.mongodb import lockstep
from lakehouse.sources.mongodb.bson_scan import following
from lakehouse.sources.mongodb.columns import PathColumn, RefusedValue, decode
from lakehouse.spec.types import arrow_field

Document = dict[str, Any]
DECLARED = "struct<a: int64, b: list<string>, c: list<struct<x: float64, deep: list<list<int32>>>>, d: struct<e: json>>"

ints = st.integers(-(2**31), 2**31 - 1)
texts = st.text("abžž", max_size=5)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


inner = st.fixed_dictionaries(
    {}, optional={"x": maybe(st.floats(allow_nan=False)), "deep": maybe(st.lists(maybe(st.lists(maybe(ints), max_size=3))))}
)
objects = st.fixed_dictionaries(
    {},
    optional={
        "a": maybe(ints | st.integers(-(2**63), 2**63 - 1).map(Int64)),
        "b": maybe(st.lists(maybe(texts), max_size=4)),
        "c": maybe(st.lists(maybe(inner), max_size=3)),
        "d": maybe(st.fixed_dictionaries({}, optional={"e": maybe(texts)})),
        "undeclared": texts,
    },
)


def column(declared: str) -> PathColumn:
    return PathColumn(arrow_field("v", declared), ("v",))


def expected(value: Document | None) -> Document | None:
    """What the declared type holds of an object."""
    if value is None:
        return None
    d, c = value.get("d"), value.get("c")
    return {
        "a": value.get("a"),
        "b": value.get("b"),
        "c": None if c is None else [None if o is None else {"x": o.get("x"), "deep": o.get("deep")} for o in c],
        "d": None if d is None else {"e": None if d.get("e") is None else f'"{d["e"]}"'},
    }


@settings(max_examples=200, deadline=None)
@given(st.lists(maybe(objects), max_size=6))
def test_every_object_comes_out_as_its_struct(values: list[Document | None]) -> None:
    data = b"".join(bson.encode({"v": value}) for value in values)
    batch = decode(following(data), [column(DECLARED)])
    batch.validate(full=True)
    assert batch["v"].to_pylist() == [expected(value) for value in values]


def test_long_lists_and_wide_objects_are_gone_through_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same result, whether in lockstep or not; refused and damaged the same way."""
    values: list[Any] = [
        {"b": [str(number) for number in range(length)], **{f"f{number}": number for number in range(length)}, "a": length}
        for length in (0, 1, 300, 20, 2_000)
    ]
    data = b"".join(bson.encode({"_id": place, "v": value}) for place, value in enumerate(values))
    wanted = [{"b": value["b"], "a": value["a"]} for value in values]
    for few in (0, 16):
        monkeypatch.setattr(lockstep, "_FEW", few)
        assert decode(following(data), [column("struct<b: list<string>, a: int64>")])["v"].to_pylist() == wanted
    values[4]["b"][1_500] = 7
    data = b"".join(bson.encode({"_id": place, "v": value}) for place, value in enumerate(values))
    with pytest.raises(RefusedValue) as error:
        decode(following(data), [column("struct<b: list<string>, a: int64>")])
    assert (error.value.document_id, error.value.found) == ("4", "int 7 in its list at 'b' in its object")


@pytest.mark.parametrize(
    ("declared", "value", "found"),
    [
        ("struct<a: int64>", [1], "array [1]"),
        ("struct<a: int64>", "text", 'string "text"'),
        ("struct<a: int64>", {"a": 1.5}, "double 1.5 at 'a' in its object"),
        ("list<struct<a: int64>>", [{"a": 1}, {"a": "x"}], "string \"x\" at 'a' in its object in its list"),
        ("list<list<int32>>", [[1], [2, True]], "bool true in its list in its list"),
        ("list<int32>", {"0": 1}, 'object {"0":1}'),
    ],
)
def test_what_the_declared_type_does_not_hold_is_refused_with_its_place(declared: str, value: Any, found: str) -> None:
    data = bson.encode({"_id": 1, "v": None}) + bson.encode({"_id": 2, "v": value})
    with pytest.raises(RefusedValue) as error:
        decode(following(data), [column(declared)])
    assert (error.value.document_id, error.value.found) == ("2", found)


def test_a_declared_field_that_an_object_has_twice_is_refused() -> None:
    once = bson.encode({"a": 1})
    twice = (len(once) * 2 - 5).to_bytes(4, "little") + once[4:-1] * 2 + b"\0"
    body = b"\x03v\0" + twice
    data = (len(body) + 5).to_bytes(4, "little") + body + b"\0"
    with pytest.raises(RefusedValue, match="v") as error:
        decode(following(data), [column("struct<a: int32>")])
    assert error.value.found == "object with the field 'a' twice"
    assert decode(following(data), [column("struct<b: int32>")])["v"].to_pylist() == [{"b": None}]
