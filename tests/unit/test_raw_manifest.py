"""Manifests as JSON: what is written is what is read, and what is damaged is refused."""

from __future__ import annotations

import json
import string
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.errors import DamagedData
from lakehouse.raw import decode_manifest, encode_manifest, fingerprint, schema_of
from lakehouse.raw.manifest import fields_of
from lakehouse.spec import BatchKind, FieldSpec, Manifest, Position, RawFile, Window
from lakehouse.spec.types import arrow_field

PATIENT = settings(deadline=None)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
HEX = st.text(string.hexdigits.lower()[:16], min_size=16, max_size=64)
TIMES = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.just(UTC))
COUNTS = st.integers(0, 2**62)
TYPES = st.recursive(
    st.sampled_from(["bool", "int32", "int64", "float64", "decimal(38,10)", "string", "binary", "date", "timestamp", "json"]),
    lambda inner: st.builds("list<{}>".format, inner),
    max_leaves=3,
)
FIELDS = st.builds(FieldSpec, TEXT, TYPES, st.booleans(), TEXT)
MANIFESTS = st.builds(
    Manifest,
    batch_id=TEXT,
    source=TEXT,
    table=TEXT,
    kind=st.sampled_from(get_args(BatchKind)),
    window=st.none() | st.builds(Window, st.none() | TIMES, st.none() | TIMES),
    closed=st.booleans(),
    files=st.lists(st.builds(RawFile, TEXT, COUNTS, COUNTS, HEX), max_size=3).map(tuple),
    fields=st.lists(FIELDS, max_size=4).map(tuple),
    fingerprint=HEX,
    position=st.builds(Position, TIMES, TIMES, st.booleans(), st.dictionaries(TEXT, TEXT, max_size=3)),
    rows=COUNTS,
    checksum=HEX,
    created_at=TIMES,
    run_id=TEXT,
)


def a_manifest(**changes: object) -> Manifest:
    moment = datetime(2026, 1, 31, 1, 2, 3, 4, UTC)
    values: dict[str, object] = {
        "batch_id": "batch",
        "source": "shop",
        "table": "orders",
        "kind": "replace",
        "window": Window.of_day(moment.date()),
        "closed": True,
        "files": (RawFile("day=2026-01-31/batch-0.parquet", 3, 100, "ab" * 32),),
        "fields": (FieldSpec("id", "int64", False, "the größe"),),
        "fingerprint": "cd" * 16,
        "position": Position(moment, moment, True, {"lsn": "0/1"}),
        "rows": 3,
        "checksum": "ef" * 8,
        "created_at": moment,
        "run_id": "run",
    }
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


@PATIENT
@given(MANIFESTS)
def test_a_manifest_comes_back_from_json_as_it_was(manifest: Manifest) -> None:
    assert decode_manifest(encode_manifest(manifest), "entry") == manifest


@PATIENT
@given(MANIFESTS)
def test_equal_manifests_have_equal_bytes(manifest: Manifest) -> None:
    assert encode_manifest(decode_manifest(encode_manifest(manifest), "entry")) == encode_manifest(manifest)


@PATIENT
@given(MANIFESTS, st.data())
def test_a_manifest_with_any_byte_changed_is_refused_or_says_the_same(manifest: Manifest, data: st.DataObject) -> None:
    whole = encode_manifest(manifest)
    place = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= data.draw(st.integers(1, 255))
    with suppress(DamagedData):
        assert decode_manifest(bytes(flipped), "entry") == manifest


@PATIENT
@given(st.binary(max_size=50) | st.recursive(st.none() | st.integers() | TEXT, lambda x: st.lists(x) | st.dictionaries(TEXT, x)))
def test_what_is_no_manifest_is_refused_by_name(content: object) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(DamagedData, match="_log/7"):
        decode_manifest(data, "_log/7.json")


@pytest.mark.parametrize("length", [0, 1, 100, -2])
def test_a_manifest_cut_short_is_refused(length: int) -> None:
    with pytest.raises(DamagedData):
        decode_manifest(encode_manifest(a_manifest())[:length], "entry")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", 4),
        ("kind", "upsert"),
        ("closed", False),
        ("window", None),
        ("checksum", "0" * 16),
        ("batch_id", "other"),
        ("x", 1),
    ],
)
def test_an_edited_manifest_is_refused(field: str, value: object) -> None:
    document = json.loads(encode_manifest(a_manifest()))
    document[field] = value
    with pytest.raises(DamagedData, match="seal"):
        decode_manifest(json.dumps(document).encode(), "entry")


def test_a_manifest_of_a_later_format_is_refused_with_the_format_named() -> None:
    document = json.loads(encode_manifest(a_manifest())) | {"format": 2}
    with pytest.raises(DamagedData, match="format 2"):
        decode_manifest(json.dumps(document).encode(), "entry")


def test_a_manifest_can_be_read_by_people() -> None:
    lines = encode_manifest(a_manifest()).decode().splitlines()
    assert ' "kind": "replace",' in lines
    assert '  "low": "2026-01-31T00:00:00.000000+00:00",' in lines
    assert '   "doc": "the größe"' in lines


def test_times_of_any_zone_are_written_in_utc() -> None:
    zone = timezone(timedelta(hours=5, minutes=45))
    manifest = a_manifest(created_at=datetime(2026, 1, 31, 5, 45, tzinfo=zone))
    assert json.loads(encode_manifest(manifest))["created_at"] == "2026-01-31T00:00:00.000000+00:00"
    assert decode_manifest(encode_manifest(manifest), "entry") == manifest


def test_a_time_without_a_zone_is_never_written() -> None:
    with pytest.raises(ValueError, match="no zone"):
        encode_manifest(a_manifest(created_at=datetime(2026, 1, 31)))


@PATIENT
@given(st.lists(FIELDS, max_size=5, unique_by=lambda field: field.name), st.randoms())
def test_a_fingerprint_is_of_names_types_and_nullability_alone(fields: list[FieldSpec], random: object) -> None:
    shuffled = [FieldSpec(f.name, f.type, f.nullable, "another description") for f in fields]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fingerprint(shuffled) == fingerprint(fields)
    for number, field in enumerate(fields):
        others = fields[:number] + fields[number + 1 :]
        assert fingerprint(others) != fingerprint(fields)
        assert fingerprint([*others, FieldSpec(field.name, field.type, not field.nullable)]) != fingerprint(fields)
        assert fingerprint([*others, FieldSpec(field.name, f"list<{field.type}>", field.nullable)]) != fingerprint(fields)
        assert fingerprint([*others, FieldSpec(field.name + "x", field.type, field.nullable)]) != fingerprint(fields)


@PATIENT
@given(st.lists(FIELDS, max_size=5, unique_by=lambda field: field.name))
def test_the_schema_of_a_manifest_is_the_one_that_it_was_made_from(fields: list[FieldSpec]) -> None:
    schema = pa.schema([arrow_field(f.name, f.type, nullable=f.nullable, doc=f.doc) for f in fields])
    assert schema_of(a_manifest(fields=fields_of(schema))).equals(schema, check_metadata=True)
