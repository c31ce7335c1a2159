"""Fields found in lockstep are the fields that the driver decodes, and damaged bytes are never taken for a value."""

from __future__ import annotations

import struct
from typing import Any

import bson
import numpy as np
import pytest
from bson import Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.errors import DamagedData
from lakehouse.sources.mongodb import lockstep
from lakehouse.sources.mongodb.bson_scan import following
from lakehouse.sources.mongodb.columns import PathColumn, RefusedValue, decode
from lakehouse.sources.mongodb.extended_json import EXACT, json_text
from lakehouse.sources.mongodb.lockstep import RepeatedField, find_fields
from lakehouse.spec.types import arrow_field

Document = dict[str, Any]

EXHAUSTIVE = settings(max_examples=200, deadline=None)
LONG = "a_name_that_is_longer_than_sixteen_bytes"
NAMES = ["a", "b", "seven_7", "eight__8", "fifteen_bytes15", "sixteen_bytes_16", LONG, LONG + "_too", "ünïcödé", "x.y", ""]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
c_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.floats(),
    texts,
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.integers(-(2**63), 2**63 - 1).map(DatetimeMS),
    st.binary(max_size=9),
    st.builds(Binary, st.binary(min_size=16, max_size=16), st.sampled_from([2, 3, 4, 5, 128])),
    st.decimals(allow_nan=True, places=3, min_value=-(10**9), max_value=10**9).map(Decimal128),
    st.builds(Regex, c_texts, st.sampled_from([0, 2, 10])),
    st.builds(Code, texts),
    st.builds(Code, texts, st.just({"scope": 1})),
    st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.sampled_from([MinKey(), MaxKey()]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
documents = st.lists(st.dictionaries(st.sampled_from(NAMES), values, max_size=6), max_size=8)


def column(name: str, type_: str = "json", path: tuple[str, ...] | None = None) -> PathColumn:
    return PathColumn(arrow_field(name, type_), path or (name,))


def encoded(docs: list[Document]) -> bytes:
    return b"".join(bson.encode(doc, codec_options=EXACT) for doc in docs)


def element(type_: int, name: str, value: bytes) -> bytes:
    return bytes([type_]) + name.encode() + b"\0" + value


def document(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


@EXHAUSTIVE
@given(documents, st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
def test_every_field_is_what_the_driver_decodes(docs: list[Document], names: list[str]) -> None:
    data = encoded(docs)
    batch = decode(following(data), [column(name) for name in names])
    driver = [bson.decode(bson.encode(doc, codec_options=EXACT), EXACT) for doc in docs]
    for name in names:
        assert batch[name].to_pylist() == [json_text(doc[name]) if doc.get(name) is not None else None for doc in driver]


def test_no_field_is_passed_by_when_a_document_has_known_and_new_names_in_another_order() -> None:
    """The new names that stand after a field that is waited for can come before it in the order that is learned."""
    names = ["wanted", "other"]
    first = following(encoded([{"a": 1, "b": 1, "other": 1}]))
    find_fields(first, first.starts, names)
    chunk = following(encoded([{"b": 1, "wanted": 2, "a": 3, "new": 4}, {"b": 1, "new": 2, "other": 3}]))
    assert find_fields(chunk, chunk.starts, names).types.tolist() == [[16, 0], [0, 16]]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.permutations(NAMES[:4]), min_size=2, max_size=4), st.lists(st.integers(2, 4), min_size=4, max_size=4))
def test_whatever_order_was_learned_before_every_field_is_found(orders: list[list[str]], lengths: list[int]) -> None:
    lockstep._learned.cache_clear()
    wanted = NAMES[:1]
    for order, length in zip(orders, lengths, strict=False):
        chunk = following(encoded([dict.fromkeys(order[:length], 1)]))
        assert find_fields(chunk, chunk.starts, wanted).types.tolist() == [[16 * (NAMES[0] in order[:length])]]


@EXHAUSTIVE
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.dictionaries(st.sampled_from(["c", "d"]), scalars)), max_size=8))
def test_a_dotted_path_leads_through_objects(docs: list[dict[str, Document]]) -> None:
    batch = decode(
        following(encoded(docs)), [column("ac", path=("a", "c")), column("ad", path=("a", "d")), column("bc", path=("b", "c"))]
    )
    driver = [bson.decode(bson.encode(doc, codec_options=EXACT), EXACT) for doc in docs]
    for name in ("ac", "ad", "bc"):
        found = [doc.get(name[0], {}).get(name[1]) for doc in driver]
        assert batch[name].to_pylist() == [None if value is None else json_text(value) for value in found]


def test_absent_and_null_and_empty_are_told_apart() -> None:
    chunk = following(encoded([{}, {"a": None}, {"a": ""}, {"a": 0}]))
    assert find_fields(chunk, chunk.starts, ["a"]).types.tolist() == [[0, 10, 2, 16]]


def test_types_that_the_driver_no_longer_writes_are_stepped_over() -> None:
    text = struct.pack("<i", 4) + b"old\0"
    old = document(
        element(0x06, "u", b""),
        element(0x0E, "s", text),
        element(0x0C, "p", text + bytes(12)),
        element(0x10, "a", struct.pack("<i", 7)),
    )
    assert decode(following(old), [column("a", "int32")])["a"].to_pylist() == [7]


def test_a_field_that_a_document_has_twice_is_refused() -> None:
    twice = document(element(0x10, "a", struct.pack("<i", 1)), element(0x10, "a", struct.pack("<i", 2)))
    chunk = following(encoded([{"a": 1}]) + twice)
    with pytest.raises(RepeatedField) as error:
        find_fields(chunk, chunk.starts, ["a"])
    assert error.value.document == 1


def test_a_field_twice_deep_in_an_object_is_refused() -> None:
    twice = document(element(0x10, "a", struct.pack("<i", 1)), element(0x10, "a", struct.pack("<i", 2)))
    data = document(element(0x10, "_id", struct.pack("<i", 7)), element(0x03, "v", document(element(0x03, "in", twice))))
    with pytest.raises(RefusedValue, match="v") as error:
        decode(following(data), [column("v")])
    assert error.value.document_id == "7"
    assert "field twice" in error.value.found


def test_no_documents_make_no_rows() -> None:
    batch = decode(
        following(b""),
        [column("a", "string"), column("b", "int64", ("b", "c")), column("c", "json"), column("d", "list<string>")],
    )
    assert batch.num_rows == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x05",
        struct.pack("<i", -5) + b"\0",
        struct.pack("<i", 500) + b"\0",
        struct.pack("<i", 4),
        struct.pack("<i", 5) + b"\1",
        struct.pack("<i", 7) + b"\x10a\0",
        document(b"\x10no end of the name"),
        document(b"\x55a\0"),
        document(element(0x10, "a", b"\1\0")),
        document(element(0x02, "a", struct.pack("<i", 100) + b"short\0")),
        document(element(0x02, "a", struct.pack("<i", -2) + b"short\0")),
        document(element(0x02, "a", struct.pack("<i", 0))),
        document(element(0x03, "a", struct.pack("<i", 4))),
        document(element(0x03, "a", struct.pack("<i", 2**31 - 1) + b"\0")),
        document(element(0x05, "a", struct.pack("<i", 2**31 - 1) + b"\0")),
        document(element(0x0B, "a", b"no end of the pattern")),
        document(element(0x0A, "a", b""), b"\0\0"),
    ],
)
def test_damaged_documents_are_an_error(data: bytes) -> None:
    with pytest.raises(DamagedData):
        decode(following(data), [column("a")])


@settings(max_examples=300, deadline=None)
@given(documents.filter(bool), st.data())
def test_damage_is_never_more_than_an_error(docs: list[Document], data: st.DataObject) -> None:
    """Bytes changed or cut anywhere: decoded, refused or called damaged, but nothing else and never without an end."""
    whole = bytearray(encoded(docs))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    columns = [
        column("a", "string"),
        column("b", "int64"),
        column("seven_7", "list<string>"),
        column("eight__8", "timestamp"),
        column("x", "json", ("x.y",)),
        column("l", "float64", (LONG, "a")),
    ]
    for damaged in (bytes(whole), bytes(whole[:cut])):
        try:
            batch = decode(following(damaged), columns)
        except (DamagedData, RefusedValue):
            continue
        batch.validate(full=True)


def test_positions_do_not_depend_on_how_documents_are_cut_into_chunks() -> None:
    docs: list[Document] = [{"_id": number, LONG: "x" * number, "a": {"b": number}} for number in range(50)]
    columns = [column("a", "int32", ("a", "b")), column(LONG, "string")]
    whole = decode(following(encoded(docs)), columns)
    parts = [decode(following(encoded(docs[low : low + 7])), columns) for low in range(0, 50, 7)]
    assert [row for part in parts for row in part.to_pylist()] == whole.to_pylist()


def test_a_chunk_knows_where_its_documents_start() -> None:
    docs: list[Document] = [{"a": "x" * number} for number in range(4)]
    sizes = [len(bson.encode(doc)) for doc in docs]
    assert following(encoded(docs)).starts.tolist() == [0, *np.cumsum(sizes)[:-1].tolist()]
