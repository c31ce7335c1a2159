"""The parts of lake tables that need no table: partition names, markers, evolution, settings."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from lakehouse.errors import ConfigurationError, DeclarationError, StoreUnavailable, Unsupported
from lakehouse.rows.duck import connect_duckdb
from lakehouse.rows.partition import partition_names
from lakehouse.settings import CatalogSettings, Settings, StoreSettings
from lakehouse.spec import Marker, Partitioning, Table, Window
from lakehouse.spec.partitioning import bucket, days, identity, months, unpartitioned
from lakehouse.spec.types import arrow_type
from lakehouse.stores import open_store
from lakehouse.tables import open_tables
from lakehouse.tables.evolution import wider_type
from lakehouse.tables.marker import (
    LONGEST_PARTITIONS,
    day_ranges,
    days_of_ranges,
    marker_of,
    marker_properties,
    partitions_of,
)
from lakehouse.tables.partitions import PartitionScheme

TIMES = [
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(2026, 2, 28, tzinfo=UTC),
    datetime(33, 4, 5, tzinfo=UTC),
]
VALUES: list[tuple[Partitioning, str, list[Any]]] = [
    (days("c"), "timestamp", TIMES),
    (months("c"), "timestamp", TIMES),
    (days("c"), "date", [date(1969, 7, 20), date(9999, 12, 31), date(1, 1, 1)]),
    (months("c"), "date", [date(1969, 7, 20), date(9999, 12, 31), date(1, 1, 1)]),
    (bucket("c", 7), "int32", [0, -1, 34, 2**31 - 1]),
    (bucket("c", 7), "int64", [0, -1, 34, 2**62]),
    (bucket("c", 7), "string", ["", "iceberg", "Ünï 漢字"]),
    (bucket("c", 7), "binary", [b"", b"\x00\xff"]),
    (bucket("c", 7), "date", [date(2017, 11, 16)]),
    (bucket("c", 7), "timestamp", TIMES),
    (bucket("c", 7), "decimal(9,2)", [Decimal("14.20"), Decimal("-0.01")]),
    (identity("c"), "string", ["", "null", "a/b", "a=b&c", "100%", "Ünï 漢字", "~-_. +"]),
    (identity("c"), "int32", [-5, 0, 7]),
    (identity("c"), "bool", [True, False]),
    (identity("c"), "date", [date(2026, 1, 31), date(1, 1, 1)]),
    (identity("c"), "timestamp", TIMES),
    (identity("c"), "decimal(9,2)", [Decimal("14.20"), Decimal("-0.01")]),
]


def iceberg_value(partitioning: Partitioning, declared: str, value: Any) -> Any:
    """The partition value that Iceberg's own transform gives."""
    from pyiceberg.transforms import BucketTransform, DayTransform, IdentityTransform, MonthTransform

    from lakehouse.tables.iceberg.schema import iceberg_type

    if isinstance(value, datetime):
        value = (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    elif isinstance(value, date):
        value = (value - date(1970, 1, 1)).days
    transform: Any = {
        "day": DayTransform(),
        "month": MonthTransform(),
        "bucket": BucketTransform(partitioning.buckets or 1),
        "identity": IdentityTransform(),
    }[partitioning.transform]
    return transform.transform(iceberg_type(declared))(value)


@pytest.mark.parametrize(("partitioning", "declared", "values"), VALUES)
def test_rows_and_files_agree_on_a_partitions_name(partitioning: Partitioning, declared: str, values: list[Any]) -> None:
    """What SQL calls a row's partition is what the value in Iceberg's manifest is called, and reads back as that value."""
    rows = pa.table({"c": pa.array([*values, None], arrow_type(declared))})
    scheme = PartitionScheme.of(partitioning, rows.schema)
    connection = connect_duckdb()
    scheme.prepare(connection)
    connection.execute("set preserve_insertion_order = true")
    told = connection.execute(f"select {scheme.key_sql()}, {scheme.folder_sql()}::varchar from rows").fetchall()
    names = [scheme.named(key) for key, _ in told]
    assert [scheme.folder(name) for name in names] == [folder for _, folder in told]
    expected = [iceberg_value(partitioning, declared, value) for value in values]
    assert names == [*(scheme.name(value) for value in expected), scheme.name(None)]
    assert [scheme.value(name) for name in names] == [*expected, None]
    assert len(set(names)) == len(set(expected)) + 1
    assert [scheme.shown(name) for name in names] == partition_names(rows.to_batches()[0], partitioning).to_pylist()


@pytest.mark.parametrize(
    ("partitioning", "value", "name"),
    [
        (days("at"), 20484, "at_day=2026-01-31"),
        (days("at"), date(2026, 1, 31), "at_day=2026-01-31"),
        (days("at"), 2932897, "at_day=+2932897"),
        (days("at"), -719163, "at_day=-719163"),
        (months("at"), 672, "at_month=2026-01"),
        (months("at"), -1, "at_month=1969-12"),
        (bucket("at", 16), 3, "at_bucket=3"),
        (days("at"), None, "at_day=null"),
        (unpartitioned(), None, "all"),
    ],
)
def test_partitions_are_named_for_people(partitioning: Partitioning, value: Any, name: str) -> None:
    scheme = PartitionScheme(partitioning, arrow_type("timestamp"))
    assert scheme.name(value) == name
    assert scheme.name(scheme.value(name)) == name


@pytest.mark.parametrize(
    ("partitioning", "declared"), [(days("c"), "string"), (identity("c"), "float64"), (bucket("c", 2), "bool")]
)
def test_a_type_without_that_transform_is_refused(partitioning: Partitioning, declared: str) -> None:
    with pytest.raises(DeclarationError, match="column 'c'"):
        PartitionScheme.of(partitioning, pa.schema([("c", arrow_type(declared))]))


def test_a_window_overlaps_the_days_that_hold_its_moments() -> None:
    scheme = PartitionScheme(days("at"), arrow_type("timestamp"))
    names = [f"at_day=2026-01-0{number}" for number in range(1, 6)] + ["at_day=null"]
    noon, midnight = datetime(2026, 1, 2, 12, tzinfo=UTC), datetime(2026, 1, 4, tzinfo=UTC)
    assert scheme.overlapped(names, [Window(noon, midnight)]) == {"at_day=2026-01-02", "at_day=2026-01-03"}
    assert scheme.overlapped(names, [Window(None, noon)]) == {"at_day=2026-01-01", "at_day=2026-01-02"}
    assert scheme.overlapped(names, [Window(midnight, None)]) == {"at_day=2026-01-04", "at_day=2026-01-05"}
    assert scheme.overlapped(names, []) == set()


@given(st.sets(st.dates(date(1990, 1, 1), date(1990, 3, 1)) | st.dates()))
def test_days_survive_their_ranges(found: set[date]) -> None:
    texts = sorted(day.isoformat() for day in found)
    assert days_of_ranges(day_ranges(texts)) == tuple(texts)


def test_consecutive_days_are_one_range() -> None:
    assert day_ranges(["2026-02-01", "2026-01-30", "2026-01-31", "2026-02-03"]) == "2026-01-30..2026-02-01,2026-02-03"
    assert day_ranges([]) == ""


def test_a_marker_survives_its_properties_and_long_lists_of_partitions_are_left_out() -> None:
    marker = Marker(7, 12, "00ff00ff00ff00ff")
    properties = marker_properties(marker, changed_days=[], partitions=["b=1", "a=2"], commit_id="x")
    assert marker_of(properties) == marker
    assert partitions_of(properties) == ("a=2", "b=1")
    assert partitions_of(marker_properties(marker, changed_days=[], partitions=[], commit_id="x")) == ()
    many = [f"at_day={number}" for number in range(LONGEST_PARTITIONS)]
    assert partitions_of(marker_properties(marker, changed_days=[], partitions=many, commit_id="x")) is None
    assert marker_of({"operation": "append"}) is None


@pytest.mark.parametrize(
    ("one", "other", "wider"),
    [
        ("int32", "int64", "int64"),
        ("float32", "float64", "float64"),
        ("json", "string", "string"),
        ("decimal(9,2)", "decimal(12,2)", "decimal(12,2)"),
        ("list<int32>", "list<int64>", "list<int64>"),
        ("decimal(9,2)", "decimal(9,3)", None),
        ("int32", "float64", None),
        ("date", "timestamp", None),
        ("list<int32>", "int32", None),
        ("list<int32>", "list<string>", None),
        ("bool", "int32", None),
        ("struct<a:int32>", "struct<a:int64>", "struct<a:int64>"),
        ("list<struct<a:list<json>>>", "list<struct<a:list<string>>>", "list<struct<a:list<string>>>"),
        ("struct<a:int32>", "struct<a:string>", None),
        ("struct<a:struct<b:date>>", "struct<a:struct<b:timestamp>>", None),
        ("struct<a:int32>", "int32", None),
    ],
)
def test_types_widen_one_way_and_no_other(one: str, other: str, wider: str | None) -> None:
    assert wider_type(one, other) == wider
    assert wider_type(other, one) == wider
    assert wider_type(one, one) == one


@pytest.mark.parametrize(
    ("one", "other", "wider"),
    [
        ("struct<a:int32>", "struct<b:json,a:int64>", "struct<a:int64,b:json>"),
        ("struct<a:int32,b:json>", "struct<b:string>", "struct<a:int32,b:string>"),
        ("list<struct<a:struct<x:bool>>>", "list<struct<a:struct<y:list<date>>>>", "list<struct<a:struct<x:bool,y:list<date>>>>"),
        ("struct<a: decimal(9, 2), b: json>", "struct<a:decimal(12,2)>", "struct<a:decimal(12,2),b:json>"),
    ],
)
def test_a_struct_gets_the_fields_that_it_lacks_behind_its_own(one: str, other: str, wider: str) -> None:
    assert wider_type(one, other) == wider


def lake_settings(tmp_path: Path, **more: Any) -> Settings:
    """Settings of a lake in a folder."""
    return Settings.model_validate({"home": tmp_path, "store": StoreSettings(url=tmp_path.as_uri()), **more})


def test_an_engine_that_there_is_not_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    settings = lake_settings(tmp_path).model_copy(update={"engine": "abacus"})
    with pytest.raises(Unsupported) as raised:
        open_tables(settings, open_store(settings.store))
    assert "LAKEHOUSE_ENGINE=embedded" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("", ConfigurationError, "LAKEHOUSE_CATALOG__URL is not set"),
        ("nonsense:// :", ConfigurationError, "LAKEHOUSE_CATALOG__URL"),
        ("mysql://user:secret-word@127.0.0.1/lake", ConfigurationError, "postgresql://"),
        ("postgresql://user:secret-word@127.0.0.1:1/lake", StoreUnavailable, "127.0.0.1:1"),
        ("sqlite:////no/such/folder/catalog.db", StoreUnavailable, "unable to open"),
    ],
)
def test_a_catalog_that_cannot_be_opened_is_told_without_its_password(
    tmp_path: Path, url: str, error: type[Exception], said: str
) -> None:
    settings = lake_settings(tmp_path, catalog=CatalogSettings(url=SecretStr(url)))
    with pytest.raises(error) as raised:
        open_tables(settings, open_store(settings.store)).state("shop", Table("t", "snapshot", ("id",)))
    assert said in str(raised.value)
    assert "secret-word" not in str(raised.value)
