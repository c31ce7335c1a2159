"""Every kind of relation and column is read whole, whatever its name, width, size and encoding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from lakehouse import Column, Source, Table
from lakehouse.errors import SourceMismatch, ValueRefused
from lakehouse.rows.duck import quoted
from lakehouse.settings import Settings
from lakehouse.sources import open_source
from lakehouse.sources.postgres import PostgresReader, oversize, scan
from tests.conftest import fresh_name

THINGS = Table("things", "snapshot", ("id",))


def execute(url: str, *statements: str, encoding: str = "utf8") -> None:
    with psycopg.connect(url, autocommit=True, client_encoding=encoding) as connection:
        for statement in statements:
            connection.execute(statement.encode(encoding))


def reader_of(url: str, *tables: Table) -> PostgresReader:
    reader = open_source(Source("shop", "postgres", tables or (THINGS,)), url)
    assert isinstance(reader, PostgresReader)
    return reader


def batches_of(url: str, table: Table = THINGS) -> list[pa.RecordBatch]:
    reader = reader_of(url, table)
    reader.check([table])
    with reader.snapshot() as snapshot:
        return list(snapshot.read(table))


def rows_of(url: str, table: Table = THINGS) -> list[dict[str, Any]]:
    found = [row for batch in batches_of(url, table) for row in batch.to_pylist()]
    return sorted(found, key=lambda row: str(row[table.key[0]]))


def conditions_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The conditions of all scans from now on."""
    seen: list[str] = []
    read = scan.SnapshotScanner._read

    def remembered(scanner: scan.SnapshotScanner, what: scan.Scan, condition: str, dropped: Any) -> Iterator[pa.RecordBatch]:
        seen.append(condition)
        return read(scanner, what, condition, dropped)

    monkeypatch.setattr(scan.SnapshotScanner, "_read", remembered)
    return seen


def test_generated_and_identity_columns_are_columns(postgres_database: str) -> None:
    execute(
        postgres_database,
        "create table things (id int generated always as identity primary key, a int, "
        "b int generated always as (a * 2) stored, c int generated always as (a * 3) virtual, gone int)",
        "insert into things (a, gone) values (1, 9), (2, 9)",
        "alter table things drop column gone, add column d text default 'later'",
    )
    assert rows_of(postgres_database) == [
        {"id": 1, "a": 1, "b": 2, "c": 3, "d": "later"},
        {"id": 2, "a": 2, "b": 4, "c": 6, "d": "later"},
    ]


def test_a_partitioned_table_is_read_by_ranges_of_pages_of_all_its_partitions(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never analysed, one partition of partitions, one with its columns in another order, one empty."""
    monkeypatch.setattr(scan, "_PAGES_PER_RANGE", 8)
    monkeypatch.setattr(scan, "_LEAST_PAGES", 2)
    execute(
        postgres_database,
        "create table things (id int not null, v text, primary key (id)) partition by range (id)",
        "create table one partition of things for values from (0) to (1000)",
        "create table more partition of things for values from (1000) to (10000) partition by range (id)",
        "create table two partition of more for values from (1000) to (4000)",
        "create table three (v text, id int not null)",
        "alter table more attach partition three for values from (4000) to (5000)",
        "create table none partition of things for values from (10000) to (10001)",
        "insert into things select i, repeat(md5(i::text), 3) from generate_series(0, 4999) i",
    )
    conditions = conditions_of(monkeypatch)
    assert [row["id"] for row in sorted(rows_of(postgres_database), key=lambda row: int(row["id"]))] == list(range(5000))
    assert len(conditions) > 10
    assert all("ctid" in condition for condition in conditions)


def test_a_role_that_may_read_the_parent_alone_reads_its_partitions(postgres_database: str) -> None:
    name = fresh_name()
    execute(
        postgres_database,
        "create table things (id int primary key, mine bool) partition by hash (id)",
        "create table p0 partition of things for values with (modulus 2, remainder 0)",
        "create table p1 partition of things for values with (modulus 2, remainder 1)",
        "insert into things select i, i % 10 = 0 from generate_series(1, 100) i",
        f"create role {name} login password 'plain'",
        f"grant select on things to {name}",
        "alter table things enable row level security",
        f"create policy own on things to {name} using (mine)",
    )
    at = postgres_database.rpartition("@")[2]
    try:
        rows = rows_of(f"postgresql://{name}:plain@{at}")
        assert sorted(row["id"] for row in rows) == list(range(10, 101, 10))
    finally:
        execute(postgres_database, f"drop owned by {name}", f"drop role {name}")


def test_an_inherited_table_comes_with_its_children_and_a_longer_child_is_cut_too(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_PAGES_PER_RANGE", 8)
    monkeypatch.setattr(scan, "_LEAST_PAGES", 2)
    execute(
        postgres_database,
        "create table things (id int primary key, v text)",
        "create table child (extra int, primary key (id)) inherits (things)",
        "insert into things values (1, 'parent')",
        "insert into child (id, v) select i, repeat(md5(i::text), 3) from generate_series(2, 3000) i",
    )
    conditions = conditions_of(monkeypatch)
    assert len(rows_of(postgres_database)) == 3000
    assert len(conditions) > 10


def test_views_materialized_views_and_foreign_tables_are_read(postgres_database: str, postgres: Settings) -> None:
    at = psycopg.conninfo.conninfo_to_dict(postgres_database)
    execute(
        postgres_database,
        "create table things (id int primary key, v text)",
        "insert into things select i, 'v' || i from generate_series(1, 1000) i",
        "create view seen as select id, upper(v) as v from things where id <= 500",
        "create materialized view kept as select id, v from things",
        "create unique index on kept (id)",
        "create extension postgres_fdw",
        "create server itself foreign data wrapper postgres_fdw "
        f"options (host '{at['host']}', port '{at['port']}', dbname '{at['dbname']}')",
        f"create user mapping for current_user server itself options (user '{at['user']}', password '{at['password']}')",
        "create foreign table far (id int not null, v text) server itself options (table_name 'things')",
        "create table mixed (id int not null, v text) partition by range (id)",
        "create table near partition of mixed for values from (0) to (1)",
        "create foreign table farther partition of mixed for values from (1) to (2000) "
        "server itself options (table_name 'things')",
        "insert into near values (0, 'v0')",
    )
    counts = {"seen": 500, "kept": 1000, "far": 1000}
    for name, count in counts.items():
        assert len(rows_of(postgres_database, Table(name, "snapshot", ("id",)))) == count
    mixed = Table("mixed", "snapshot", ("id",))
    with reader_of(postgres_database, mixed).snapshot() as snapshot:
        assert sum(batch.num_rows for batch in snapshot.read(mixed)) == 1001


@pytest.mark.parametrize("name", ["Capital", "two words", 'quo"te', "it's", "select", "naïve 東京 🦆", "a;b--c",
                                  "per%cent {brace}", "back\\slash", "n" * 63, "$1", "dot.ted"])  # fmt: skip
def test_any_name_of_a_column_and_of_a_table_is_read(postgres_database: str, name: str) -> None:
    relation = name.replace(".", "_")
    execute(
        postgres_database,
        f"create table {quoted(relation)} (id int, {quoted(name)} text, primary key (id, {quoted(name)}))",
        f"insert into {quoted(relation)} values (1, 'x')",
    )
    table = Table("things", "snapshot", ("id", name), relation=relation)
    assert rows_of(postgres_database, table) == [{"id": 1, name: "x"}]


def test_a_table_of_1600_columns_is_read(postgres_database: str) -> None:
    columns = ", ".join(f"c{i} numeric(5,2)" for i in range(1, 1600))
    execute(
        postgres_database,
        f"create table things (id int primary key, {columns})",
        "insert into things (id, c7, c1599) values (1, 1.5, 2.5)",
    )
    [row] = rows_of(postgres_database)
    assert len(row) == 1600
    assert {name: str(value) for name, value in row.items() if value is not None} == {"id": "1", "c7": "1.50", "c1599": "2.50"}


def test_a_table_without_columns_has_no_key_and_is_refused(postgres_database: str) -> None:
    execute(postgres_database, "create table things ()", "insert into things default values")
    with pytest.raises(SourceMismatch, match="key names column 'id'") as error:
        reader_of(postgres_database).check([THINGS])
    assert error.value.allowed is not None
    assert "none" in error.value.allowed


def test_texts_of_a_hundred_megabytes_arrive_whole_and_one_at_a_time(postgres_database: str) -> None:
    size = 100 * 2**20
    execute(
        postgres_database,
        "create table things (id int primary key, v text)",
        f"insert into things select i, repeat(chr(64 + i), {size}) from generate_series(1, 2) i",
        "insert into things select i, 'short' from generate_series(3, 1000) i",
    )
    found = {}
    reader = reader_of(postgres_database)
    with reader.snapshot() as snapshot:
        for batch in snapshot.read(THINGS):
            assert batch.nbytes < 1.1 * size
            for row in batch.to_pylist():
                found[row["id"]] = hashlib.sha256(row["v"].encode()).hexdigest()
    assert len(found) == 1000
    for number in (1, 2):
        assert found[number] == hashlib.sha256(chr(64 + number).encode() * size).hexdigest()


@pytest.mark.parametrize("window", [False, True], ids=["whole", "partitioned"])
def test_large_rows_are_read_apart_and_every_row_once(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch, window: bool
) -> None:
    monkeypatch.setattr(oversize, "TOGETHER_BYTES", 2**20)
    partitioned = " partition by hash (id)" if window else ""
    execute(postgres_database, f"create table things (id int primary key, v bytea, j jsonb){partitioned}")
    if window:
        execute(
            postgres_database,
            *(f"create table p{i} partition of things for values with (modulus 3, remainder {i})" for i in range(3)),
        )
    execute(
        postgres_database,
        *(
            f"alter table {name} alter v set storage external, alter j set storage external"
            for name in (("p0", "p1", "p2") if window else ("things",))
        ),
        "insert into things select i, convert_to(repeat(md5(i::text), case when i % 3 = 0 then 10000 else 10 end), 'UTF8'), "
        "case when i % 7 = 0 then to_jsonb(repeat('x', 200000)) end from generate_series(1, 300) i",
    )
    conditions = conditions_of(monkeypatch)
    batches = batches_of(postgres_database)
    assert sorted(number for batch in batches for number in batch.column("id").to_pylist()) == list(range(1, 301))
    assert max(batch.nbytes for batch in batches) < 2 * 2**20
    assert len([condition for condition in conditions if "any(" in condition]) > 10


def in_encoding(postgres: Settings, encoding: str) -> Iterator[str]:
    catalog, name = postgres.catalog.url.get_secret_value(), fresh_name()
    execute(catalog, f"create database {name} encoding '{encoding}' locale_provider libc locale 'C' template template0")
    yield catalog.rpartition("/")[0] + f"/{name}"
    execute(catalog, f"drop database {name} with (force)")


@pytest.fixture
def latin1(postgres: Settings) -> Iterator[str]:
    yield from in_encoding(postgres, "LATIN1")


@pytest.fixture
def sql_ascii(postgres: Settings) -> Iterator[str]:
    yield from in_encoding(postgres, "SQL_ASCII")


def test_a_database_in_latin1_is_read_as_unicode(latin1: str) -> None:
    execute(
        latin1, "create table things (id int primary key, v text)", "insert into things values (1, 'naïve ÿ')", encoding="latin1"
    )
    assert rows_of(latin1) == [{"id": 1, "v": "naïve ÿ"}]
    assert rows_of(latin1, Table("things", "snapshot", ("id",), columns=(Column("v", "binary"),))) == [
        {"id": 1, "v": "naïve ÿ".encode("latin1")}
    ]


def put_bytes(url: str, values: Sequence[bytes]) -> None:
    with psycopg.connect(url, autocommit=True, client_encoding="SQL_ASCII") as connection:
        connection.execute("create table things (id int primary key, w text, v text)")
        for number, value in enumerate(values, start=1):
            connection.execute(b"insert into things values (%d, 'plain', '%s')" % (number, value))


def test_a_database_in_sql_ascii_is_read_where_it_holds_unicode(sql_ascii: str) -> None:
    put_bytes(sql_ascii, ["naïve 東京".encode(), b"plain"])
    assert [row["v"] for row in rows_of(sql_ascii)] == ["naïve 東京", "plain"]


def test_bytes_that_are_no_unicode_are_refused_by_name_and_kept_where_declared_as_binary(sql_ascii: str) -> None:
    put_bytes(sql_ascii, [b"fine", b"na\xefve", "naïve".encode(), b"\xff"])
    with pytest.raises(ValueRefused) as error:
        rows_of(sql_ascii)
    assert "column 'v'" in error.value.tried
    assert error.value.value == r"b'na\xefve' in row id=2; b'\xff' in row id=4"
    table = Table("things", "snapshot", ("id",), columns=(Column("v", "binary"),))
    assert [row["v"] for row in rows_of(sql_ascii, table)] == [b"fine", b"na\xefve", "naïve".encode(), b"\xff"]
