"""The row checksum: its definition, held against a plain model, and the laws that every hop relies on."""

from __future__ import annotations

import hashlib
import math
import random as randoms
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.rows import digest
from lakehouse.rows.checksum import EMPTY, checksum_of, partition_checksums, total
from lakehouse.rows.digest import row_digests
from lakehouse.spec import RowChecksum, identity
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
        pa.field("deep", pa.struct([("n", pa.int64()), ("texts", pa.list_(pa.string()))])),
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "id": st.integers(-(2**63), 2**63 - 1),
    "ok": st.booleans(),
    "name": TEXT,
    "cost": st.decimals(min_value=-(10**16), max_value=10**16, places=3),
    "at": st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)),
    "day": st.dates(),
    "raw": st.binary(max_size=6),
    "tags": st.lists(st.none() | TEXT, max_size=3),
    "share": st.floats(),
    "deep": st.fixed_dictionaries(
        {"n": st.none() | st.integers(-(2**63), 2**63 - 1), "texts": st.none() | st.lists(st.none() | TEXT, max_size=2)}
    ),
}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | values for name, values in VALUES.items()}), max_size=8)


P, L, E = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xC2B2AE3D27D4EB4F
N, R = 0x165667B19E3779F9, 0x27D4EB2F165667C5
M = 2**64


def mix(word: int) -> int:
    """The finalizer of SplitMix64."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % M
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % M
    return word ^ (word >> 31)


def sequence(words: Sequence[int]) -> int:
    return (sum(word * pow(P, i, M) for i, word in enumerate(words)) + len(words) * L) % M


def word_of(value: Any) -> int:
    """The word of a value, as `lakehouse.rows.digest` defines it."""
    if isinstance(value, float):
        return 0x7FF8 << 48 if math.isnan(value) else int.from_bytes(struct.pack("<d", value), "little")
    if isinstance(value, bool | int):
        return int(value) % M
    if isinstance(value, str | bytes):
        return sequence(list(value.encode() if isinstance(value, str) else value))
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(microseconds=1) % M
    if isinstance(value, date):
        return (value - EPOCH.date()).days % M
    if isinstance(value, Decimal):
        unscaled = int(value.scaleb(3)) % 2**128
        return (unscaled % M + mix(unscaled // M)) % M
    if isinstance(value, dict):
        return mix(sum(map(given_by, value.items())) % M)
    return sequence([N if item is None else mix((word_of(item) + E) % M) for item in value])


def given_by(column: tuple[str, Any]) -> int:
    name, value = column
    salt = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return 0 if value is None else mix((word_of(value) + salt) % M)


def digest_of(row: dict[str, Any]) -> int:
    return mix((sum(map(given_by, row.items())) + R) % M)


def model(rows: Sequence[dict[str, Any]]) -> RowChecksum:
    return RowChecksum(len(rows), sum(map(digest_of, rows)) % 2**64)


def computed(rows: Sequence[dict[str, Any]], schema: pa.Schema = SCHEMA) -> RowChecksum:
    return checksum_of(pa.Table.from_pylist(list(rows), schema=schema), schema)


@FEW
@given(ROWS)
def test_the_checksum_is_the_sum_of_the_digests_that_the_definition_gives(rows: list[dict[str, Any]]) -> None:
    assert computed(rows) == model(rows)


def test_a_known_row_has_the_checksum_it_always_had() -> None:
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
        "deep": {"n": None, "texts": ["", None]},
    }
    assert computed([row]) == model([row])
    assert computed([row]).hex == "867ec97d72a40a74"


@FEW
@given(ROWS, st.randoms())
def test_order_does_not_matter(rows: list[dict[str, Any]], random: randoms.Random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert computed(shuffled) == computed(rows)


@FEW
@given(ROWS, st.randoms())
def test_the_order_of_columns_does_not_matter(rows: list[dict[str, Any]], random: randoms.Random) -> None:
    fields = list(SCHEMA)
    random.shuffle(fields)
    assert computed(rows, pa.schema(fields)) == computed(rows)


@FEW
@given(ROWS, ROWS)
def test_parts_add_up_to_the_whole_and_can_be_taken_away(some: list[dict[str, Any]], more: list[dict[str, Any]]) -> None:
    whole = computed(some + more)
    assert computed(some) + computed(more) == total([computed(some), computed(more)]) == whole
    assert whole - computed(more) == computed(some)


@FEW
@given(ROWS.filter(bool))
def test_a_doubled_row_counts_twice(rows: list[dict[str, Any]]) -> None:
    once, twice = computed(rows), computed([*rows, rows[0]])
    assert twice.rows == once.rows + 1
    assert twice - once == computed([rows[0]])
    assert twice.value != once.value


@FEW
@given(ROWS)
def test_a_column_that_came_later_and_is_null_changes_nothing(rows: list[dict[str, Any]]) -> None:
    wider = pa.schema([arrow_field("a_new", "list<int64>"), *SCHEMA, arrow_field("z_new", "timestamp")])
    assert computed(rows, wider) == computed(rows)


def _same(one: Any, other: Any) -> bool:
    """NaN is itself, and the two zeros are not each other."""
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack("<d", one) == struct.pack("<d", other) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


@FEW
@given(ROWS.filter(bool), st.sampled_from(sorted(VALUES)), st.data())
def test_a_changed_value_changes_the_checksum(rows: list[dict[str, Any]], name: str, data: st.DataObject) -> None:
    values: st.SearchStrategy[Any] = st.none() | VALUES[name]
    other = data.draw(values.filter(lambda value: not _same(value, rows[0][name])))
    assert computed([{**rows[0], name: other}, *rows[1:]]) != computed(rows)


@FEW
@given(TEXT, TEXT)
def test_a_value_cannot_pass_for_that_of_its_neighbour(one: str, other: str) -> None:
    schema = pa.schema([arrow_field("a", "string"), arrow_field("b", "string")])
    rows: list[dict[str, Any]] = [
        {"a": one, "b": other},
        {"a": one + "b=", "b": other},
        {"a": f"{one}b={len(other)}:{other}", "b": None},
    ]
    assert len({computed([row], schema) for row in rows}) == 3


def test_null_and_empty_are_told_apart() -> None:
    schema = pa.schema([arrow_field("name", "string"), arrow_field("tags", "list<int64>")])
    rows = [{"name": n, "tags": t} for n in (None, "", "null") for t in (None, [], [None], [0])]
    assert len({computed([row], schema) for row in rows}) == len(rows)


@FEW
@given(ROWS, st.integers(1, 4))
def test_the_same_rows_in_any_batches_or_a_table_have_one_checksum(rows: list[dict[str, Any]], size: int) -> None:
    batches = [pa.RecordBatch.from_pylist(rows[at : at + size], schema=SCHEMA) for at in range(0, len(rows), size)]
    assert checksum_of(batches, SCHEMA) == computed(rows)
    assert checksum_of(pa.RecordBatchReader.from_batches(SCHEMA, batches), SCHEMA) == computed(rows)


def test_no_rows_have_the_empty_checksum() -> None:
    assert computed([]) == checksum_of((), SCHEMA) == EMPTY
    assert EMPTY.hex == "0" * 16


def test_a_widened_number_keeps_its_checksum() -> None:
    for narrow, wide, value in (
        ("int32", "int64", -5),
        ("decimal(5,2)", "decimal(38,2)", Decimal("1.10")),
        ("float32", "float64", 0.25),
    ):
        one, other = pa.schema([arrow_field("x", narrow)]), pa.schema([arrow_field("x", wide)])
        assert computed([{"x": value}], one) == computed([{"x": value}], other)


def test_doubles_that_differ_have_checksums_that_differ() -> None:
    schema = pa.schema([arrow_field("x", "float64")])
    values = [0.0, -0.0, 0.1, 0.1 + 2**-56, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan"), 2.0**53]
    assert len({computed([{"x": value}], schema) for value in values}) == len(values)
    assert computed([{"x": float("nan")}], schema) == computed([{"x": float("nan")}], schema)


def test_more_than_two_to_the_64_wraps_around() -> None:
    rows = [{"id": number} for number in range(1000)]
    found = computed(rows, pa.schema([arrow_field("id", "int64")]))
    assert found == model(rows)
    assert 0 <= found.value < 2**64 < sum(map(digest_of, rows))


@FEW
@given(ROWS)
def test_checksums_by_partition_add_up(rows: list[dict[str, Any]]) -> None:
    parts: dict[str, RowChecksum] = {}
    for at in range(0, len(rows), 3):
        batch = pa.RecordBatch.from_pylist(rows[at : at + 3], schema=SCHEMA)
        partition_checksums(batch, row_digests(batch, SCHEMA), identity("ok"), parts)
    assert parts == {
        f"ok={name}": model([row for row in rows if row["ok"] is value])
        for name, value in (("true", True), ("false", False), ("null", None))
        if any(row["ok"] is value for row in rows)
    }
    assert total(parts.values()) == model(rows)


@FEW
@given(ROWS, st.data())
def test_a_part_of_a_batch_has_the_digests_of_its_rows(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(rows)))
    part = pa.RecordBatch.from_pylist(rows, schema=SCHEMA).slice(start, 3)
    assert row_digests(part, SCHEMA).tolist() == [digest_of(row) for row in rows[start : start + 3]]


def test_values_of_any_length_follow_the_definition() -> None:
    schema = pa.schema([arrow_field("text", "string"), arrow_field("numbers", "list<int64>")])
    long = "".join(chr(97 + i % 26) for i in range(70_000))
    rows: list[dict[str, Any]] = [
        {"text": long[:size], "numbers": list(range(size % 40_000))} for size in (0, 1, 32_768, 70_000, 5, 40_000)
    ]
    assert computed(rows * 2, schema) == model(rows * 2)


@pytest.mark.parametrize("size", [1, 36, 256, 257])
def test_values_of_one_length_follow_the_definition(size: int) -> None:
    schema = pa.schema([arrow_field("text", "string"), arrow_field("numbers", "list<int64>")])
    rows: list[dict[str, Any]] = [{"text": chr(33 + i % 90) * size, "numbers": [i] * (size % 40)} for i in range(300)]
    assert computed(rows, schema) == model(rows)
    gaps: list[dict[str, Any]] = [row if i % 7 else {"text": [None, ""][i % 2], "numbers": []} for i, row in enumerate(rows)]
    assert computed(gaps, schema) == model(gaps)


@pytest.mark.parametrize("block", [64, 2**15])
def test_long_texts_follow_the_definition(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Those that are summed in lines: of any length, beginning anywhere in a line, across blocks and longer than one."""
    monkeypatch.setattr(digest, "_BLOCK", block)
    random = randoms.Random(3)
    sizes = [0, 1, 31, 32, 33, 64, 500, *(random.randrange(600) for _ in range(40)), 5_000, 0, 3, 2_050, 2_014, 2_016]
    rows = [{"text": None if size == 3 else random.randbytes(size)} for size in sizes]
    schema = pa.schema([arrow_field("text", "binary")])
    for made in (digest._powers, digest._line_powers):
        made.cache_clear()
    try:
        for part in (rows, rows[5:], rows[:40]):
            assert computed(part, schema) == model(part)
            assert row_digests(pa.RecordBatch.from_pylist(rows, schema).slice(5, 40), schema).tolist() == [
                digest_of(row) for row in rows[5:45]
            ]
    finally:
        for made in (digest._powers, digest._line_powers):
            made.cache_clear()


def test_the_same_values_in_other_layouts_have_one_digest() -> None:
    wanted = pa.schema([pa.field("x", pa.string())])
    values = ["a", None, "", "žluť"]
    layouts = (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
    found = {tuple(row_digests(pa.record_batch([pa.array(values, type_)], names=["x"]), wanted).tolist()) for type_ in layouts}
    assert len(found) == 1


def test_texts_that_repeat_have_the_digests_of_the_definition() -> None:
    schema = pa.schema([arrow_field("few", "string"), arrow_field("many", "string"), arrow_field("bytes", "binary")])
    rows: list[dict[str, Any]] = [
        {"few": None if i % 7 == 0 else f"v{i % 5}", "many": f"{i}", "bytes": None if i % 3 else b"x" * (i % 4)}
        for i in range(5000)
    ]
    assert computed(rows, schema) == model(rows)
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    nulls_inside = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array([None, "a"]))
    assert row_digests(pa.record_batch([nulls_inside], names=["few"]), schema.empty_table().select(["few"]).schema).tolist() == [
        digest_of({"few": value}) for value in (None, "a", None, None)
    ]
    assert row_digests(batch.slice(4000), schema).tolist() == [digest_of(row) for row in rows[4000:]]


@pytest.mark.parametrize("name", ['quo"ted', "with space", "ü", "select", "a'b", "a=1:b"])
def test_a_column_may_have_any_name(name: str) -> None:
    schema = pa.schema([arrow_field(name, "int64")])
    assert computed([{name: 1}], schema) == model([{name: 1}])


DECISION = Path(__file__).resolve().parents[2] / "docs" / "decisions" / "0008-digests-on-arrow.md"
VECTORS: tuple[tuple[str, str, Any, str], ...] = (
    ("id", "int64", 7, "1a7243f75e86f88a"),
    ("id", "int64", None, "323def0871273387"),
    ("ok", "bool", True, "b2daf3312ed3f984"),
    ("day", "date", date(1969, 12, 31), "90981d6c46528cff"),
    ("at", "timestamp", datetime(2026, 1, 31, 23, 59, 59, 123456, UTC), "9a9c7a0758c171b4"),
    ("name", "string", "", "44d03ed01bd3727f"),
    ("raw", "binary", b"\xff\x00", "c02ef22a9ce2c414"),
    ("big", "decimal(38,0)", Decimal(2**70), "74247d8ef4c15503"),
    ("share", "float64", math.nan, "9cff8bf552c721ee"),
    ("deep", "struct<n:int64,t:string>", {"n": 1, "t": None}, "73165efe93c47615"),
    ("name", "string", "Grüße", "06d53a20c2ce7c52"),
    ("cost", "decimal(20,3)", Decimal("-0.500"), "8fd30fd721311433"),
    ("share", "float64", 0.1, "e702d55b0951bf4f"),
    ("tags", "list<string>", ["a", None], "5e0fb5dd306e5bcf"),
)
"""Those of decision 8, for whoever computes the checksum elsewhere."""


@pytest.mark.parametrize(("name", "type_", "value", "checksum"), VECTORS)
def test_the_published_vectors_hold(name: str, type_: str, value: Any, checksum: str) -> None:
    assert computed([{name: value}], pa.schema([arrow_field(name, type_)])).hex == checksum
    assert f"`{checksum}`" in DECISION.read_text()


def test_the_published_vector_of_two_rows_holds() -> None:
    rows: list[dict[str, Any]] = [{"id": 1, "name": "a"}, {"id": 2, "name": None}]
    assert computed(rows, pa.schema([arrow_field("id", "int64"), arrow_field("name", "string")])) == model(rows)
    assert f"`{model(rows).hex}`" in DECISION.read_text()
