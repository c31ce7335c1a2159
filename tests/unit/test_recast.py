"""Values in another type are what they were, or are refused with their row."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.errors import SchemaChanged, ValueRefused
from lakehouse.rows.recast import castable, check_castable, recast
from lakehouse.spec.types import arrow_field


def cast(values: list[Any], found: str, wanted: str) -> list[Any]:
    """The values of a column `v`, in rows with the keys 0, 1, and so on."""
    fields = [arrow_field("k", "int64"), arrow_field("v", found)]
    batch = pa.RecordBatch.from_pylist([{"k": k, "v": value} for k, value in enumerate(values)], schema=pa.schema(fields))
    schema = pa.schema([fields[0], arrow_field("v", wanted)])
    check_castable("testing", "", batch.schema, schema)
    return list(recast("testing", batch, schema, ["k"]).column("v").to_pylist())


@pytest.mark.parametrize(
    ("found", "wanted", "values", "expected"),
    [
        ("int64", "int32", [1, None, -(2**31)], [1, None, -(2**31)]),
        ("int32", "decimal(9,2)", [7, None], [Decimal("7.00"), None]),
        ("decimal(9,2)", "int64", [Decimal("7.00"), None], [7, None]),
        ("decimal(9,2)", "decimal(5,1)", [Decimal("7.50")], [Decimal("7.5")]),
        ("decimal(9,2)", "string", [Decimal("7.50"), None], ["7.50", None]),
        ("float64", "float32", [0.5, float("nan"), float("inf"), None], [0.5, float("nan"), float("inf"), None]),
        ("float64", "int32", [4.0, None], [4, None]),
        ("string", "int64", ["12", None], [12, None]),
        ("string", "date", ["2026-01-31"], [date(2026, 1, 31)]),
        ("timestamp", "date", [datetime(2026, 1, 31, tzinfo=UTC)], [date(2026, 1, 31)]),
        ("json", "string", ["{}"], ["{}"]),
        ("list<int64>", "list<int32>", [[1, None], None, []], [[1, None], None, []]),
        ("int64", "int32", [], []),
    ],
)
def test_a_value_that_the_new_type_holds_is_it(found: str, wanted: str, values: list[Any], expected: list[Any]) -> None:
    assert str(cast(values, found, wanted)) == str(expected)


@pytest.mark.parametrize(
    ("found", "wanted", "value"),
    [
        ("int64", "int32", 2**31),
        ("int64", "float64", 2**53 + 1),
        ("decimal(9,2)", "int64", Decimal("7.50")),
        ("decimal(9,2)", "decimal(4,2)", Decimal("123.45")),
        ("float64", "float32", 0.1),
        ("float64", "int32", 4.5),
        ("string", "int64", "007"),
        ("string", "date", "yesterday"),
        ("timestamp", "date", datetime(2026, 1, 31, 1, tzinfo=UTC)),
        ("binary", "string", b"\xff"),
        ("list<int64>", "list<int32>", [1, 2**31]),
    ],
)
def test_a_value_that_it_does_not_hold_exactly_is_refused_with_its_row(found: str, wanted: str, value: Any) -> None:
    with pytest.raises(ValueRefused, match=r"in the row with k=1") as refused:
        cast([None, value, value], found, wanted)
    assert "column 'v'" in str(refused.value)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [("timestamp", "string"), ("float64", "string"), ("float64", "decimal(9,2)"), ("bool", "int32"), ("struct<a:int64>", "json")],
)
def test_types_whose_texts_are_the_sources_business_are_refused_as_such(found: str, wanted: str) -> None:
    assert not castable(found, wanted)
    with pytest.raises(SchemaChanged, match="in the raw log"):
        cast([], found, wanted)


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.none()))
def test_a_whole_number_that_becomes_a_narrower_one_or_a_text_is_itself_or_refused(values: list[int | None]) -> None:
    assert cast(values, "int64", "string") == [None if value is None else str(value) for value in values]
    fits = all(value is None or -(2**31) <= value < 2**31 for value in values)
    if fits:
        assert cast(values, "int64", "int32") == values
    else:
        with pytest.raises(ValueRefused):
            cast(values, "int64", "int32")
