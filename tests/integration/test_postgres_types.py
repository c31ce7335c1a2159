"""Every Postgres type arrives exactly, or is refused by name."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse.errors import SourceMismatch, ValueRefused
from lakehouse.rows.duck import quoted
from lakehouse.settings import Settings
from lakehouse.sources import open_source
from lakehouse.spec import Column, Source, Table, Window, days
from lakehouse.spec.types import declared_type, field_doc
from tests.conftest import fresh_name

Row = dict[str, Any]
SHAPED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def database(postgres: Settings) -> Iterator[str]:
    """The URL of one database for the tests that put one table in it, each after dropping the last one's."""
    catalog, name = postgres.catalog.url.get_secret_value(), fresh_name()
    execute(catalog, f"create database {name}")
    yield catalog.rpartition("/")[0] + f"/{name}"
    execute(catalog, f"drop database {name} with (force)")


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def load(url: str, table: Table) -> pa.Table:
    """The whole table as it is read."""
    reader = open_source(Source("shop", "postgres", (table,)), url)
    with reader.snapshot() as snapshot:
        rows = pa.Table.from_batches(list(snapshot.read(table)), reader.schema(table))
    rows.validate(full=True)
    return rows.sort_by(table.key[0])


def things(*columns: Column) -> Table:
    return Table("things", "snapshot", ("id",), columns=columns)


def value_read(url: str, type_: str, literal: str, declared: str | None = None) -> tuple[str, Any]:
    """Declared type and value of one column of a Postgres type that holds one SQL literal."""
    execute(
        url,
        "drop table if exists things",
        f"create table things (id int primary key, v {type_})",
        f"insert into things values (1, null), (2, {literal})",
    )
    rows = load(url, things(*([Column("v", declared)] if declared else [])))
    values = rows["v"].to_pylist()
    assert values[0] is None
    return declared_type(rows.schema.field("v")), values[1]


@pytest.mark.parametrize(
    ("type_", "literal", "declared", "value"),
    [
        ("bool", "true", "bool", True),
        ("int2", "-32768", "int32", -32768),
        ("int4", "-2147483648", "int32", -(2**31)),
        ("int8", "9223372036854775807", "int64", 2**63 - 1),
        ("real", "'1.1'", "float32", struct.unpack("f", struct.pack("f", 1.1))[0]),
        ("real", "'-Infinity'", "float32", -math.inf),
        ("double precision", "0.1::float8 + 0.2::float8", "float64", 0.1 + 0.2),
        ("double precision", "'5e-324'", "float64", 5e-324),
        ("numeric(12,2)", "-9999999999.99", "decimal(12,2)", Decimal("-9999999999.99")),
        ("numeric(38,38)", "0.12345678901234567890123456789012345678", "decimal(38,38)",
         Decimal("0.12345678901234567890123456789012345678")),
        ("numeric(38,0)", "12345678901234567890123456789012345678", "decimal(38,0)",
         Decimal("12345678901234567890123456789012345678")),
        ("numeric(3,-2)", "12345", "decimal(5,0)", Decimal(12300)),
        ("numeric(2,4)", "0.0012", "decimal(4,4)", Decimal("0.0012")),
        ("numeric", "1.10", "string", "1.10"),
        ("numeric", "'NaN'", "string", "NaN"),
        ("numeric(50,3)", "12345678901234567890123456789012345678901234567.125", "string",
         "12345678901234567890123456789012345678901234567.125"),
        ("text", "'naïve 東京 🦆' || chr(1) || chr(10)", "string", "naïve 東京 🦆\x01\n"),
        ("varchar(5)", "'ab  '", "string", "ab  "),
        ("char(5)", "'ab'", "string", "ab"),
        ("uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "string", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("json", "'{\"b\": 1,  \"a\": 1e400, \"b\": 2}'", "json", '{"b": 1,  "a": 1e400, "b": 2}'),
        ("jsonb", "'{\"b\": 12345678901234567890.10, \"a\": null}'", "json", '{"a": null, "b": 12345678901234567890.10}'),
        ("timestamptz", "'2025-03-30 02:30:00.123456+02'", "timestamp", datetime(2025, 3, 30, 0, 30, 0, 123456, UTC)),
        ("timestamptz", "'0001-01-01 00:00:00+00'", "timestamp", datetime(1, 1, 1, tzinfo=UTC)),
        ("timestamptz", "'9999-12-31 23:59:59.999999+00'", "timestamp", datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
        ("timestamp", "'1969-12-31 23:59:59.999999'", "timestamp", datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)),
        ("date", "'0001-01-01'", "date", date(1, 1, 1)),
        ("date", "'9999-12-31'", "date", date(9999, 12, 31)),
        ("bytea", "'\\x00ff10'", "binary", b"\x00\xff\x10"),
        ("int4[]", "'{1,null,-3}'", "list<int32>", [1, None, -3]),
        ("int2[]", "'{}'", "list<int32>", []),
        ("int8[]", "'{9223372036854775807}'", "list<int64>", [2**63 - 1]),
        ("bool[]", "'{t,f}'", "list<bool>", [True, False]),
        ("float8[]", "'{0.1,Infinity}'", "list<float64>", [0.1, math.inf]),
        ("text[]", "array['a,b', null, '\"', '']", "list<string>", ["a,b", None, '"', ""]),
        ("uuid[]", "'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'", "list<string>", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
        ("numeric(6,2)[]", "'{1.10,null}'", "list<decimal(6,2)>", [Decimal("1.10"), None]),
        ("numeric[]", "'{1.10,NaN}'", "list<string>", ["1.10", "NaN"]),
        ("money", "'-92233720368547758.08'", "decimal(19,2)", Decimal("-92233720368547758.08")),
        ("money[]", "'{1.5,null}'", "list<decimal(19,2)>", [Decimal("1.50"), None]),
        ("date[]", "'{2025-01-01}'", "list<date>", [date(2025, 1, 1)]),
        ("timestamptz[]", "'{\"2025-01-01 00:00:00.5+00\"}'", "list<timestamp>", [datetime(2025, 1, 1, 0, 0, 0, 500000, UTC)]),
        ("timestamp[]", "'{\"2025-01-01 00:00:00.5\"}'", "list<timestamp>", [datetime(2025, 1, 1, 0, 0, 0, 500000, UTC)]),
        ("bytea[]", "array['\\x00'::bytea]", "list<string>", ["\\x00"]),
        ("int2vector", "'1 2'", "string", "1 2"),
        ("jsonb[]", "array['{\"a\": 1}'::jsonb]", "list<json>", ['{"a": 1}']),
        ("inet", "'10.0.0.1/8'", "string", "10.0.0.1/8"),
        ("interval", "'1 year 2 days 3.000004 s'", "string", "P1Y2DT3.000004S"),
        ("time", "'24:00:00'", "string", "24:00:00"),
        ("timetz", "'12:00:00.000001+05:30'", "string", "12:00:00.000001+05:30"),
        ("int4range", "'[1,5)'", "string", "[1,5)"),
        ("bit(3)", "b'101'", "string", "101"),
        ("point", "'(1,2)'", "string", "(1,2)"),
        ("xid8", "'18446744073709551615'", "string", "18446744073709551615"),
        ("oid", "4294967295", "string", "4294967295"),
        ("tsvector", "'a:1 b:2'", "string", "'a':1 'b':2"),
    ],
)  # fmt: skip
def test_a_value_of_each_type_arrives_exactly(database: str, type_: str, literal: str, declared: str, value: object) -> None:
    assert value_read(database, type_, literal) == (declared, value)


def test_the_server_s_own_settings_change_no_text_form(postgres_database: str) -> None:
    name = postgres_database.rpartition("/")[2]
    execute(
        postgres_database,
        f"alter database {name} set datestyle = 'German'",
        f"alter database {name} set timezone = 'Asia/Tokyo'",
        f"alter database {name} set intervalstyle = 'sql_standard'",
        f"alter database {name} set extra_float_digits = 0",
        f"alter database {name} set bytea_output = 'escape'",
    )
    assert value_read(postgres_database, "timestamptz", "'2025-01-01 00:00:00+00'", "string")[1] == "2025-01-01 00:00:00+00"
    assert value_read(postgres_database, "float8", "0.1::float8 + 0.2::float8", "string")[1] == "0.30000000000000004"
    assert value_read(postgres_database, "timestamp", "'2025-01-01 00:00:00'")[1] == datetime(2025, 1, 1, tzinfo=UTC)


def test_enums_domains_and_composites_are_followed(postgres_database: str) -> None:
    execute(
        postgres_database,
        "create type mood as enum ('sad', 'ok')",
        "create domain cents as numeric(8,2) check (value >= 0)",
        "create domain more_cents as cents not null",
        "create domain score as int4",
        "create type pair as (a int, b text)",
        "create table things (id int primary key, m mood, ms mood[], c more_cents, s score, ss score[], p pair)",
        "insert into things values (1, 'ok', '{sad,ok}', 12.34, 7, '{7}', (1, 'x y'))",
    )
    rows = load(postgres_database, things())
    assert [declared_type(field) for field in rows.schema] == [
        "int32", "string", "list<string>", "decimal(8,2)", "int32", "list<string>", "string"
    ]  # fmt: skip
    assert not rows.schema.field("c").nullable
    assert rows.to_pylist() == [
        {"id": 1, "m": "ok", "ms": ["sad", "ok"], "c": Decimal("12.34"), "s": 7, "ss": ["7"], "p": '(1,"x y")'}
    ]


@pytest.mark.parametrize(
    ("type_", "literal", "shown"),
    [
        ("numeric(6,2)", "'NaN'", "NaN"),
        ("timestamptz", "'infinity'", "infinity"),
        ("timestamptz", "'-infinity'", "-infinity"),
        ("timestamp", "'infinity'", "infinity"),
        ("timestamptz", "'0044-03-15 12:00:00+00 BC'", "0044-03-15 12:00:00+00 BC"),
        ("timestamptz", "'10000-01-01 00:00:00+00'", "10000-01-01 00:00:00+00"),
        ("timestamptz", "'294276-12-31 23:59:59.999999+00'", "294276-12-31"),
        ("timestamp", "'4713-01-01 00:00:00 BC'", "4713-01-01 00:00:00 BC"),
        ("date", "'infinity'", "infinity"),
        ("date", "'5874897-12-31'", "5874897-12-31"),
        ("date", "'0001-12-31 BC'", "0001-12-31 BC"),
        ("int4[]", "'{{1,2},{3,4}}'", "{{1,2},{3,4}}"),
        ("int4[]", "'[0:1]={1,2}'", "[0:1]={1,2}"),
        ("text[]", "'{{a}}'", "{{a}}"),
        ("numeric(6,2)[]", "'{NaN}'", "{NaN}"),
        ("date[]", "'{infinity}'", "{infinity}"),
        ("timestamptz[]", "'{infinity}'", "{infinity}"),
    ],
)
def test_a_value_that_the_type_cannot_hold_is_refused_by_name(database: str, type_: str, literal: str, shown: str) -> None:
    with pytest.raises(ValueRefused) as error:
        value_read(database, type_, literal)
    assert "table 'things' of source 'shop': column 'v'" in error.value.tried
    assert f"{shown}" in str(error.value.value)
    assert "row id=2" in str(error.value.value)
    assert value_read(database, type_, literal, "string")[1].startswith(shown)


@pytest.mark.parametrize(
    ("type_", "literal", "declared", "value"),
    [
        ("int4", "7", "int64", 7),
        ("int8", "-2147483648", "int32", -(2**31)),
        ("int8", "7", "decimal(5,2)", Decimal("7.00")),
        ("real", "0.5", "float64", 0.5),
        ("numeric", "1.5", "decimal(10,3)", Decimal("1.500")),
        ("numeric(6,2)", "1.50", "decimal(38,10)", Decimal("1.5000000000")),
        ("numeric", "-9223372036854775808.0", "int64", -(2**63)),
        ("date", "'2025-01-01'", "timestamp", datetime(2025, 1, 1, tzinfo=UTC)),
        ("jsonb", "'[1]'", "string", "[1]"),
        ("bytea", "'\\x00ff'", "string", "\\x00ff"),
        ("int4[]", "'{1,2}'", "string", "{1,2}"),
        ("int4[]", "'[0:1]={1,2}'", "string", "[0:1]={1,2}"),
        ("text", "'naïve'", "binary", "naïve".encode()),
        ("money", "'12.00'", "int64", 12),
    ],
)
def test_a_declared_type_that_holds_the_value_is_given(
    database: str, type_: str, literal: str, declared: str, value: object
) -> None:
    assert value_read(database, type_, literal, declared) == (declared, value)


@pytest.mark.parametrize(
    ("type_", "literal", "declared"),
    [
        ("int8", "2147483648", "int32"),
        ("int8", "1000", "decimal(3,0)"),
        ("numeric", "1.25", "decimal(10,1)"),
        ("numeric", "'NaN'", "decimal(10,1)"),
        ("numeric", "'Infinity'", "decimal(10,1)"),
        ("numeric", "1.5", "int64"),
        ("numeric", "'NaN'", "int64"),
        ("numeric", "9223372036854775808", "int64"),
        ("money", "'12.01'", "int64"),
        ("money", "'1000'", "decimal(5,2)"),
    ],
)
def test_a_value_that_the_declared_type_would_round_is_refused(database: str, type_: str, literal: str, declared: str) -> None:
    with pytest.raises(ValueRefused, match="row id=2"):
        value_read(database, type_, literal, declared)


@pytest.mark.parametrize(
    ("type_", "declared"),
    [("text", "int64"), ("float8", "int64"), ("float8", "decimal(10,2)"), ("int8", "float64"), ("timestamptz", "date"),
     ("int4[]", "list<string>"), ("bool", "int32"), ("text", "timestamp")],
)  # fmt: skip
def test_a_declared_type_that_the_column_cannot_give_is_a_mismatch(database: str, type_: str, declared: str) -> None:
    with pytest.raises(SourceMismatch, match="column 'v', declared as") as error:
        value_read(database, type_, "null", declared)
    assert "string" in str(error.value.allowed)


def test_descriptions_come_from_comments_unless_declared(postgres_database: str) -> None:
    execute(
        postgres_database,
        "create table things (id int primary key, a text, b text)",
        "comment on column things.a is 'from the source'",
        "comment on column things.b is 'from the source'",
    )
    table = things(Column("b", "string", "from the declaration"))
    schema = open_source(Source("shop", "postgres", (table,)), postgres_database).schema(table)
    assert [field_doc(field) for field in schema] == ["", "from the source", "from the declaration"]


def test_names_that_need_quoting_are_read(postgres_database: str) -> None:
    relation, key, percent = "Or\"der's", 'the "Id"', "ünï ' %s {}"
    execute(
        postgres_database,
        'create schema "My Schema"',
        f'create table "My Schema".{quoted(relation)} ({quoted(key)} int primary key, "select" text, {quoted(percent)} int)',
        f"insert into \"My Schema\".{quoted(relation)} values (1, 'x', 2)",
    )
    table = Table("orders", "snapshot", (key,), relation=f"My Schema.{relation}")
    assert load(postgres_database, table).to_pylist() == [{key: 1, "select": "x", percent: 2}]


years = st.one_of(st.integers(-4700, 20_000), st.sampled_from([-1, 0, 1, 2, 1969, 1970, 9999, 10_000, 294_276]))
moments = st.tuples(years, st.integers(1, 12), st.integers(1, 28), st.integers(0, 86_400 * 10**6 - 1))
moment_lists = st.lists(moments | st.sampled_from(["infinity", "-infinity"]), max_size=6)


def moment_text(moment: Any) -> str:
    """Astronomical year, month, day and microsecond of the day as Postgres writes them; year 0 is 1 BC."""
    if isinstance(moment, str):
        return moment
    year, month, day, microsecond = moment
    seconds, rest = divmod(microsecond, 10**6)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:06}"
    return f"{year if year > 0 else 1 - year:04}-{month:02}-{day:02} {clock}{'' if year > 0 else ' BC'}"


@given(type_=st.sampled_from(["timestamptz", "timestamp", "timestamptz[]"]), found=moment_lists)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_moment_arrives_or_is_refused_by_name(database: str, type_: str, found: list[Any]) -> None:
    texts = [moment_text(moment) for moment in found]
    beyond = [text for moment, text in zip(found, texts, strict=True) if isinstance(moment, str) or not 1 <= moment[0] <= 9999]
    value = "array[v::timestamptz]" if type_.endswith("[]") else f"v::{type_}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("drop table if exists things")
        connection.execute(f"create table things (id int primary key, v {type_})".encode())
        query = f"insert into things select n, {value} from unnest(%s::text[]) with ordinality u(v, n)"
        connection.execute(query.encode(), (texts,))
    if beyond:
        with pytest.raises(ValueRefused, match="row id="):
            load(database, things())
        return
    read = [row["v"][0] if type_.endswith("[]") else row["v"] for row in load(database, things()).to_pylist()]
    assert [at.replace(tzinfo=None).isoformat(" ", "microseconds") for at in read] == texts


def test_a_scan_keeps_its_batches_small_whatever_the_rows_are(postgres_database: str) -> None:
    execute(
        postgres_database,
        "create table things (id int primary key, v text)",
        "insert into things select i, repeat(chr(65 + i % 26), 20000) from generate_series(1, 6000) i",
        "create table many (id int primary key)",
        "insert into many select generate_series(1, 150000)",
    )
    many = Table("many", "snapshot", ("id",))
    reader = open_source(Source("shop", "postgres", (things(), many)), postgres_database)
    with reader.snapshot() as snapshot:
        wide = list(snapshot.read(things()))
        narrow = list(snapshot.read(many))
    assert sum(batch.num_rows for batch in wide) == 6000
    assert max(batch.nbytes for batch in wide) < 64 * 2**20
    assert sum(batch.num_rows for batch in narrow) == 150_000
    assert max(batch.num_rows for batch in narrow) <= 65_536


def test_a_column_that_changed_since_the_schema_was_read_is_no_silent_cast(postgres_database: str) -> None:
    execute(postgres_database, "create table things (id int primary key, v int)", "insert into things values (1, 1)")
    reader = open_source(Source("shop", "postgres", (things(),)), postgres_database)
    assert reader.schema(things()).field("v").type == pa.int32()
    execute(postgres_database, "alter table things drop column v")
    with reader.snapshot() as snapshot, pytest.raises(SourceMismatch, match="v"):
        list(snapshot.read(things()))


def test_time_is_read_as_utc_by_the_window_too(postgres_database: str) -> None:
    execute(
        postgres_database,
        "create table a (id int primary key, at timestamp not null)",
        "create table b (id int primary key, at date not null)",
        "insert into a values (1, '2025-01-01 23:59:59.999999'), (2, '2025-01-02 00:00:00')",
        "insert into b values (1, '2025-01-01'), (2, '2025-01-02')",
    )
    tables = [Table(name, "append", ("id",), event_time="at", partition=days("at")) for name in ("a", "b")]
    reader = open_source(Source("shop", "postgres", tuple(tables)), postgres_database)
    reader.check(tables)
    noon = datetime(2025, 1, 1, 12, tzinfo=UTC)
    with reader.snapshot() as snapshot:
        for table in tables:
            days_read = [
                [row["id"] for batch in snapshot.read(table, Window.of_day(date(2025, 1, day))) for row in batch.to_pylist()]
                for day in (1, 2)
            ]
            assert days_read == [[1], [2]]
        by_noon = snapshot.read(tables[1], Window(noon, noon + timedelta(days=1)))
        assert [row["id"] for batch in by_noon for row in batch.to_pylist()] == [2]
        assert snapshot.extent(tables[1], "at") == (datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC))
