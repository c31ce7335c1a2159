"""What expectations make of values, held against a plain reading of each rule; and declarations that make no sense."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse import Expect, Table
from lakehouse.errors import DeclarationError
from lakehouse.rows.expected import NAMED, Unmet, Watch, check_expectations, together
from lakehouse.spec.types import arrow_field

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
NUMBERS = st.none() | st.floats(width=64) | st.integers(-5, 5).map(float)
TEXTS = st.none() | st.text("ab@.", max_size=4)


def table(*expected: Expect) -> Table:
    return Table("things", "snapshot", ("id",), expect=expected)


def counted(type_: str, values: Sequence[Any], *expected: Expect, cut: int = 3) -> dict[Expect, int]:
    """How many values each expectation does not hold of, given in batches."""
    schema = pa.schema([arrow_field("id", "int64"), arrow_field("x", type_)])
    rows = pa.table({"id": range(len(values)), "x": pa.array(values, schema.field("x").type)}, schema=schema)
    watch = Watch(table(*expected))
    check_expectations("shop", table(*expected), schema)
    passed = list(watch.passing(rows.to_batches(max_chunksize=cut)))
    assert sum(batch.num_rows for batch in passed) == len(values)
    for unmet in watch.unmet:
        assert len(unmet.named) == min(unmet.rows, NAMED)
    return {unmet.expected: unmet.rows for unmet in watch.unmet}


@settings(deadline=None)
@given(st.lists(NUMBERS, max_size=20), st.none() | st.integers(-5, 5), st.none() | st.integers(-5, 5))
def test_numbers_between_bounds(values: list[float | None], low: int | None, high: int | None) -> None:
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        return
    expected = Expect.between("x", low, high)

    def wrong(value: float | None) -> bool:
        if value is None:
            return False
        return math.isnan(value) or (low is not None and value < low) or (high is not None and value > high)

    assert counted("float64", values, expected).get(expected, 0) == sum(map(wrong, values))


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=20))
def test_texts_null_or_not_of_a_pattern_or_of_a_few_values(values: list[str | None]) -> None:
    there, pattern, few = Expect.not_null("x"), Expect.matches("x", "^a.*@"), Expect.one_of("x", "a", "", "b@")
    found = counted("string", values, there, pattern, few)
    assert found.get(there, 0) == sum(value is None for value in values)
    assert found.get(pattern, 0) == sum(value is not None and re.search("^a.*@", value) is None for value in values)
    assert found.get(few, 0) == sum(value is not None and value not in ("a", "", "b@") for value in values)


@pytest.mark.parametrize(
    ("type_", "low", "values", "wrong"),
    [
        ("decimal(10,2)", 0, [Decimal("-0.01"), Decimal("0.00"), Decimal("3.50")], 1),
        ("timestamp", NEW_YEAR, [NEW_YEAR - timedelta(microseconds=1), NEW_YEAR], 1),
        ("int32", 7, [6, 7, 8], 1),
    ],
)
def test_bounds_are_of_the_columns_own_type(type_: str, low: Any, values: list[Any], wrong: int) -> None:
    expected = Expect.between("x", low, None)
    assert counted(type_, values, expected) == {expected: wrong}


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("string", Expect.between("x", 0, 1)),
        ("int64", Expect.matches("x", "a")),
        ("string", Expect.matches("x", "(")),
        ("int64", Expect.one_of("x", "a")),
        ("int32", Expect.between("x", 2**40, None)),
        ("int64", Expect.not_null("y")),
        ("int32", Expect.between("x", 0.5, 4.5)),
        ("int64", Expect.one_of("x", 0.5)),
        ("float32", Expect.between("x", 0, 1e300)),
        ("date", Expect.between("x", datetime(2026, 1, 1, 12), None)),
        ("list<string>", Expect.one_of("x", "a")),
        ("json", Expect.between("x", 0, 1)),
    ],
)
def test_an_expectation_that_a_column_cannot_have_is_named_before_anything_is_read(type_: str, expected: Expect) -> None:
    schema = pa.schema([arrow_field("id", "int64"), arrow_field("x", type_)])
    with pytest.raises(DeclarationError, match=re.escape(f"expecting of shop.things that {expected}")):
        check_expectations("shop", table(expected), schema)


def test_what_was_found_in_several_windows_is_told_together() -> None:
    expected = Expect.not_null("x")
    schema = pa.schema([arrow_field("id", "int64"), arrow_field("x", "string")])
    found = list[Unmet]()
    for first in (0, 4):
        watch = Watch(table(expected))
        rows = pa.table({"id": range(first, first + 4), "x": pa.nulls(4, pa.string())}, schema=schema)
        list(watch.passing(rows.to_batches()))
        found += watch.unmet
    (both,) = together(found)
    assert str(both) == "x is not null: not so in 8 rows (id=0; id=1; id=2; id=3; id=4; …)"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Expect.between("x", None, None),
        lambda: Expect.one_of("x"),
        lambda: Expect.not_null("x", otherwise="ignore"),  # type: ignore[arg-type]  # what a user might write
        lambda: table(Expect.not_null("x"), Expect.not_null("x")),
        lambda: Table("things", "snapshot", ("id",), expect=(Expect.not_null("x"))),  # type: ignore[arg-type]  # a comma is missing
        lambda: Expect.one_of("x", ["a"]),
        lambda: Expect.between("x", 10, 1),
        lambda: Expect.between("x", math.nan, 1),
        lambda: Expect.matches("x", 5),  # type: ignore[arg-type]  # what a user might write
        lambda: Expect("x", "between", (1,)),
        lambda: Expect("x", "is", ()),  # type: ignore[arg-type]  # so too
        lambda: Table("things", "snapshot", ("id",), gone_at_most="0.2"),  # type: ignore[arg-type]  # so too
        lambda: table("x is not null"),  # type: ignore[arg-type]  # so too
        lambda: Table("things", "snapshot", ("id",), personal={"x": "drop"}, expect=(Expect.not_null("x"),)),
    ],
)
def test_an_expectation_that_cannot_be_meant_is_refused(wrong: Any) -> None:
    with pytest.raises(DeclarationError, match="do next:"):
        wrong()
