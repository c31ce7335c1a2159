"""Nested values become text and come back as they were."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.rows.nested_text import from_nested_text, nested_text
from lakehouse.spec.types import arrow_type

LEAVES: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=False),
    "float32": st.floats(width=32, allow_nan=False),
    "decimal(38,9)": st.decimals(-(10**28), 10**28, places=9),
    "string": st.text(st.characters(exclude_categories=["Cs"])),
    "binary": st.binary(),
    "date": st.dates(),
    "timestamp": st.datetimes(timezones=st.just(UTC)),
}


def structs(inner: st.SearchStrategy[tuple[str, Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    """A declared struct of two fields and the strategy of its values."""
    return st.tuples(inner, inner).map(
        lambda two: (
            f"struct<a:{two[0][0]},b:{two[1][0]}>",
            st.none() | st.fixed_dictionaries({"a": two[0][1], "b": two[1][1]}),
        )
    )


def lists(inner: st.SearchStrategy[tuple[str, Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    return inner.map(lambda one: (f"list<{one[0]}>", st.none() | st.lists(one[1], max_size=3)))


types = st.recursive(
    st.sampled_from([(name, st.none() | values) for name, values in LEAVES.items()]),
    lambda inner: structs(inner) | lists(inner),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(structs(types) | lists(structs(types)), st.data())
def test_every_value_comes_back(declared: tuple[str, Any], data: st.DataObject) -> None:
    type_ = arrow_type(declared[0])
    values = pa.array(data.draw(st.lists(declared[1], max_size=4)), type_)
    text = nested_text(values)
    assert from_nested_text(text, type_).equals(values)
    assert from_nested_text(text.cast(pa.binary()), type_).equals(values)
    assert text.is_null().equals(values.is_null())


def test_the_text_is_json_that_people_can_query() -> None:
    type_ = arrow_type("struct<a: int64, at: timestamp, d: decimal(9,2), x: float64, s: list<string>>")
    value = {"a": 1, "at": datetime(2026, 1, 2, tzinfo=UTC), "d": 1, "x": math.nan, "s": ["ž", None]}
    (text,) = nested_text(pa.array([value], type_)).to_pylist()
    assert text == '{"a":1,"at":"2026-01-02T00:00:00.000000Z","d":"1.00","x":"NaN","s":["ž",null]}'
    assert json.loads(text)["s"] == ["ž", None]
