"""The row checksum: its definition, held against a plain model, and the laws that every hop relies on."""

from __future__ import annotations

import hashlib
import json
import random as randoms
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.rows.checksum import EMPTY, checksum_of, checksums_by, total
from lakehouse.rows.duck import connect_duckdb
from lakehouse.spec import RowChecksum
from lakehouse.spec.types import arrow_field

FEW = settings(max_examples=25, deadline=None)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        arrow_field("id", "int64"),
        arrow_field("ok", "bool"),
        arrow_field("name", "string"),
        arrow_field("cost", "decimal(20,3)"),
        arrow_field("at", "timestamp"),
        arrow_field("day", "date"),
        arrow_field("raw", "binary"),
        arrow_field("tags", "list<string>"),
        arrow_field("share", "float64"),
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PLAIN_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\'), max_size=4)
HALVES = st.integers(-(10**6), 10**6).map(lambda n: n / 2)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "id": st.integers(-(2**63), 2**63 - 1),
    "ok": st.booleans(),
    "name": TEXT,
    "cost": st.decimals(min_value=-(10**16), max_value=10**16, places=3),
    "at": st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)),
    "day": st.dates(),
    "raw": st.binary(max_size=6),
    "tags": st.lists(st.none() | PLAIN_TEXT, max_size=3),
    "share": HALVES,
}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}), max_size=8)


def text_of(value: Any) -> str:
    """The canonical text of a value, as the module's docstring defines it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return hashlib.md5(value).hexdigest()
    if isinstance(value, datetime):
        return str((value - EPOCH) // timedelta(microseconds=1))
    if isinstance(value, date):
        return str((value - EPOCH.date()).days)
    if isinstance(value, Decimal):
        return f"{value:.3f}"
    if isinstance(value, list):
        return json.dumps(value, separators=(",", ":"))
    return str(value)


def digest_of(row: dict[str, Any]) -> int:
    parts = []
    for name in sorted(row):
        if row[name] is not None:
            text = text_of(row[name])
            parts.append(f"{name}={len(text.encode())}:{text}")
    return int.from_bytes(hashlib.md5("".join(parts).encode()).digest()[8:], "little")


def model(rows: Sequence[dict[str, Any]]) -> RowChecksum:
    return RowChecksum(len(rows), sum(map(digest_of, rows)) % 2**64)


@pytest.fixture(scope="module")
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    with connect_duckdb() as connection:
        yield connection


def computed(rows: Sequence[dict[str, Any]], cursor: duckdb.DuckDBPyConnection, schema: pa.Schema = SCHEMA) -> RowChecksum:
    return checksum_of(pa.Table.from_pylist(list(rows), schema=schema), schema, cursor)


@FEW
@given(ROWS)
def test_the_checksum_is_the_sum_of_the_digests_of_canonical_texts(
    cursor: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]]
) -> None:
    assert computed(rows, cursor) == model(rows)


def test_a_known_row_has_the_checksum_it_always_had(cursor: duckdb.DuckDBPyConnection) -> None:
    row = {
        "id": 7,
        "ok": True,
        "name": "Grüße",
        "cost": Decimal("-0.500"),
        "at": datetime(2026, 1, 31, 1, 2, 3, 4, UTC),
        "day": date(1969, 12, 31),
        "raw": b"\x00\xff",
        "tags": ["a", None],
        "share": 0.1,
    }
    assert computed([row], cursor) == model([row])
    assert computed([row], cursor).hex == "d16521b6b84ba6c9"


@FEW
@given(ROWS, st.randoms())
def test_order_does_not_matter(cursor: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], random: randoms.Random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert computed(shuffled, cursor) == computed(rows, cursor)


@FEW
@given(ROWS, st.randoms())
def test_the_order_of_columns_does_not_matter(
    cursor: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], random: randoms.Random
) -> None:
    fields = list(SCHEMA)
    random.shuffle(fields)
    assert computed(rows, cursor, pa.schema(fields)) == computed(rows, cursor)


@FEW
@given(ROWS, ROWS)
def test_parts_add_up_to_the_whole_and_can_be_taken_away(
    cursor: duckdb.DuckDBPyConnection, some: list[dict[str, Any]], more: list[dict[str, Any]]
) -> None:
    whole = computed(some + more, cursor)
    assert computed(some, cursor) + computed(more, cursor) == total([computed(some, cursor), computed(more, cursor)]) == whole
    assert whole - computed(more, cursor) == computed(some, cursor)


@FEW
@given(ROWS.filter(bool))
def test_a_doubled_row_counts_twice(cursor: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]]) -> None:
    once, twice = computed(rows, cursor), computed([*rows, rows[0]], cursor)
    assert twice.rows == once.rows + 1
    assert twice - once == computed([rows[0]], cursor)
    assert twice.value != once.value


@FEW
@given(ROWS)
def test_a_column_that_came_later_and_is_null_changes_nothing(
    cursor: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]]
) -> None:
    wider = pa.schema([arrow_field("a_new", "list<int64>"), *SCHEMA, arrow_field("z_new", "timestamp")])
    assert computed(rows, cursor, wider) == computed(rows, cursor)


@FEW
@given(ROWS.filter(bool), st.sampled_from(sorted(VALUES)), st.data())
def test_a_changed_value_changes_the_checksum(
    cursor: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], name: str, data: st.DataObject
) -> None:
    values: st.SearchStrategy[Any] = st.none() | VALUES[name]
    other = data.draw(values.filter(lambda value: value != rows[0][name]))
    assert computed([{**rows[0], name: other}, *rows[1:]], cursor) != computed(rows, cursor)


@FEW
@given(TEXT, TEXT)
def test_a_value_cannot_pass_for_that_of_its_neighbour(cursor: duckdb.DuckDBPyConnection, one: str, other: str) -> None:
    schema = pa.schema([arrow_field("a", "string"), arrow_field("b", "string")])
    rows: list[dict[str, Any]] = [
        {"a": one, "b": other},
        {"a": one + "b=", "b": other},
        {"a": f"{one}b={len(other)}:{other}", "b": None},
    ]
    assert len({computed([row], cursor, schema) for row in rows}) == 3


def test_null_and_empty_are_told_apart(cursor: duckdb.DuckDBPyConnection) -> None:
    schema = pa.schema([arrow_field("name", "string"), arrow_field("tags", "list<int64>")])
    rows = [{"name": n, "tags": t} for n in (None, "", "null") for t in (None, [], [None], [0])]
    assert len({computed([row], cursor, schema) for row in rows}) == len(rows)


@FEW
@given(ROWS, st.integers(1, 4))
def test_the_same_rows_in_any_batches_or_a_table_have_one_checksum(
    cursor: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]], size: int
) -> None:
    batches = [pa.RecordBatch.from_pylist(rows[at : at + size], schema=SCHEMA) for at in range(0, len(rows), size)]
    assert checksum_of(batches, SCHEMA, cursor) == computed(rows, cursor)
    assert checksum_of(pa.RecordBatchReader.from_batches(SCHEMA, batches), SCHEMA, cursor) == computed(rows, cursor)


def test_no_rows_have_the_empty_checksum(cursor: duckdb.DuckDBPyConnection) -> None:
    assert computed([], cursor) == checksum_of((), SCHEMA, cursor) == EMPTY
    assert EMPTY.hex == "0" * 16


def test_a_widened_integer_or_decimal_keeps_its_checksum(cursor: duckdb.DuckDBPyConnection) -> None:
    for narrow, wide, value in (("int32", "int64", -5), ("decimal(5,2)", "decimal(38,2)", Decimal("1.10"))):
        one, other = pa.schema([arrow_field("x", narrow)]), pa.schema([arrow_field("x", wide)])
        assert computed([{"x": value}], cursor, one) == computed([{"x": value}], cursor, other)


def test_doubles_that_differ_have_checksums_that_differ(cursor: duckdb.DuckDBPyConnection) -> None:
    schema = pa.schema([arrow_field("x", "float64")])
    values = [0.0, -0.0, 0.1, 0.1 + 2**-56, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan"), 2.0**53]
    assert len({computed([{"x": value}], cursor, schema) for value in values}) == len(values)
    assert computed([{"x": float("nan")}], cursor, schema) == computed([{"x": float("nan")}], cursor, schema)


def test_more_than_two_to_the_64_wraps_around(cursor: duckdb.DuckDBPyConnection) -> None:
    rows = [{"id": number} for number in range(1000)]
    found = computed(rows, cursor, pa.schema([arrow_field("id", "int64")]))
    assert found == model(rows)
    assert 0 <= found.value < 2**64 < sum(map(digest_of, rows))


@FEW
@given(ROWS)
def test_checksums_by_partition_add_up(cursor: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]]) -> None:
    cursor.register("some_rows", pa.Table.from_pylist(rows, schema=SCHEMA))
    parts = checksums_by("some_rows", SCHEMA, "coalesce(ok::varchar, 'null')", cursor)
    cursor.unregister("some_rows")
    assert parts == {
        name: model([row for row in rows if row["ok"] is value])
        for name, value in (("true", True), ("false", False), ("null", None))
        if any(row["ok"] is value for row in rows)
    }
    assert total(parts.values()) == model(rows)


@pytest.mark.parametrize("name", ['quo"ted', "with space", "ü", "select", "a'b", "a=1:b"])
def test_a_column_may_have_any_name(cursor: duckdb.DuckDBPyConnection, name: str) -> None:
    schema = pa.schema([arrow_field(name, "int64")])
    assert computed([{name: 1}], cursor, schema) == model([{name: 1}])
