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

from lakehouse import Expect, Source, Table
from lakehouse.errors import DeclarationError
from lakehouse.rows.expected import NAMED, Unmet, Watch, check_expectations, together
from lakehouse.spec.references import check_references, referred_first
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


def source(**expected: Expect) -> Source:
    """Tables of a shop, one of which has a personal column."""
    keys = {"orders": ("id",), "customers": ("id",), "lines": ("number", "order_id"), "prices": ("item",)}
    tables = tuple(
        Table(
            name,
            "snapshot",
            key,
            personal={"email": "tokenise"} if name == "customers" else {},
            expect=(expected[name],) if name in expected else (),
        )
        for name, key in keys.items()
    )
    return Source("shop", "postgres", tables)


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        (Expect.references("note", "price"), "a table of shop, or another one as source.table: shop.orders"),
        (Expect.references("note", "orders"), "orders -> orders"),
        (Expect.references("note", "customers", "email"), "note: as it is; customers.email: tokenise"),
        (Expect.references("note", "lines"), "no column, and a key of number, order_id"),
    ],
)
def test_a_reference_to_what_is_not_declared_or_cannot_be_compared_is_refused(expected: Expect, told: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(told)):
        check_references([source(orders=expected)])


def test_tables_that_refer_to_each_other_in_a_circle_are_refused() -> None:
    with pytest.raises(DeclarationError, match="orders -> prices -> orders"):
        check_references([source(orders=Expect.references("note", "prices"), prices=Expect.references("item", "orders", "note"))])


def test_tables_are_read_after_those_that_they_refer_to_and_else_in_their_order() -> None:
    shop = source(orders=Expect.references("customer", "shop.customers"), customers=Expect.references("item", "prices"))
    check_references([shop])
    assert [one.name for one in referred_first(shop, shop.tables)] == ["prices", "customers", "orders", "lines"]
    assert [one.name for one in referred_first(shop, shop.tables[:1])] == ["orders"]


def test_a_unique_value_is_never_for_the_quarantine_and_a_masked_one_tells_nothing() -> None:
    with pytest.raises(DeclarationError, match="no rule can tell which one is wrong"):
        Expect.unique("email", otherwise="quarantine")
    with pytest.raises(DeclarationError, match="each column once"):
        Expect.unique("email", "email")
    with pytest.raises(DeclarationError, match="tell one value from another"):
        Table("t", "snapshot", ("id",), personal={"email": "mask"}, expect=(Expect.unique("email"),))


def test_floating_numbers_and_documents_are_not_told_from_each_other() -> None:
    schema = pa.schema([arrow_field("id", "int64"), arrow_field("x", "float64"), arrow_field("y", "json")])
    for expected in (Expect.unique("x"), Expect.unique("id", "y"), Expect.references("x", "other")):
        with pytest.raises(DeclarationError, match="columns of whole numbers"):
            check_expectations("shop", table(expected), schema)
