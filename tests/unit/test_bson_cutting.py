"""Fields are cut out of documents as if they had never been in them, and nothing else changes."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.errors import DeclarationError
from lakehouse.sources.mongodb.bson_scan import following
from lakehouse.sources.mongodb.columns import PathColumn, RefusedValue, decode
from lakehouse.sources.mongodb.cutting import shortest, without
from lakehouse.spec import Column, Source, Table
from lakehouse.spec.types import arrow_field

Document = dict[str, Any]

names = st.sampled_from(["a", "b", "a_long_name_of_a_field", "ü"])
values = st.recursive(
    st.none() | st.integers(-5, 5) | st.text("xyz", max_size=9) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)
documents = st.lists(st.dictionaries(names, values, max_size=4), max_size=6)
paths = st.lists(st.lists(names, min_size=1, max_size=3).map(tuple), max_size=4)


def cut(document: Document, path: tuple[str, ...]) -> Document:
    """The document without what is at the path, by the driver's own objects."""
    kept = {}
    for name, value in document.items():
        if name == path[0] and len(path) == 1:
            continue
        kept[name] = cut(value, path[1:]) if name == path[0] and isinstance(value, dict) else value
    return kept


@settings(max_examples=300, deadline=None)
@given(documents, paths)
def test_what_is_left_is_what_the_documents_are_without_the_fields(docs: list[Document], taken: list[tuple[str, ...]]) -> None:
    chunk = following(b"".join(bson.encode(doc) for doc in docs))
    wanted = docs
    for path in taken:
        wanted = [cut(doc, path) for doc in wanted]
    left = without(chunk, taken)
    assert left.data[: left.size] == b"".join(bson.encode(doc) for doc in wanted)


def test_a_path_under_another_is_left_out() -> None:
    assert shortest([("a", "b"), ("a",), ("b", "c"), ("b", "c", "d")]) == (("a",), ("b", "c"))


def test_a_personal_field_that_is_there_twice_is_refused() -> None:
    once = bson.encode({"a": 1})
    twice = (len(once) * 2 - 5).to_bytes(4, "little") + once[4:-1] * 2 + b"\0"
    with pytest.raises(RefusedValue, match="a"):
        decode(following(twice), [PathColumn(arrow_field("all", "binary"), ())], [("a",)])


def test_a_column_cannot_have_the_name_of_the_kept_document() -> None:
    table = Table("things", "snapshot", ("_id",), columns=(Column("_id", "string"), Column("_document", "json")))
    with pytest.raises(DeclarationError, match="keeps the whole document"):
        Source("shop", "mongodb", (table,))
