"""What a read takes of memory, from the source to raw files: the same for any number of rows, a bound for the largest values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pymongo
import pytest

from lakehouse import Column, Source, Table
from lakehouse.raw.writer import empty_digest, write_files
from lakehouse.sources import open_source
from lakehouse.spec.declaration import Kind
from tests.lakes import fresh_process, processes_done

THINGS = Table("things", "snapshot", ("id",))
DOCUMENTS = Table("things", "snapshot", ("id",), columns=(Column("id", "int32", path="_id"), Column("big", "binary")))
LARGEST = 16 * 2**20 - 200

GROWTH = 64
"""MiB by which two readings differ: readers of two ranges meet at other moments. The rows that are more take 100 in Arrow."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
Peak = Callable[[Kind, str, Table, int], int]


def land(kind: Kind, url: str, table: Table, rows: int, folder: Path) -> None:
    """Read a table into raw files, and write down the most memory that this process ever held, in MiB."""
    reader = open_source(Source("shop", kind, (table,)), url)
    schema, found = reader.schema(table), 0
    with reader.snapshot() as snapshot:
        for file in write_files(snapshot.read(table), schema, folder, "batch", empty_digest(schema)):
            found += file.rows
            file.path.unlink()
    assert found == rows
    (folder / "peak").write_text(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


@pytest.fixture
def peak(tmp_path: Path) -> Peak:
    """The most MiB that a process of its own holds which reads a table."""

    def measured(kind: Kind, url: str, table: Table, rows: int) -> int:
        working = fresh_process(land, kind, url, table, rows, tmp_path)
        processes_done([working])
        return int((tmp_path / "peak").read_text()) // 1024

    return measured


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_memory_does_not_grow_with_the_rows_of_a_table(postgres_database: str, peak: Peak) -> None:
    found = []
    for rows in (800_000, 3_200_000):
        execute(
            postgres_database,
            "drop table if exists things",
            "create unlogged table things (id int primary key, at timestamptz not null, amount numeric(12,2), note text)",
            f"insert into things select i, now(), i * 0.01, 'note ' || i from generate_series(1, {rows}) i",
        )
        found.append(peak("postgres", postgres_database, THINGS, rows))
    assert found[1] < found[0] + GROWTH
    assert found[1] < 300


def test_texts_of_a_hundred_megabytes_take_a_stated_bound(postgres_database: str, peak: Peak) -> None:
    execute(
        postgres_database,
        "create table things (id int primary key, v text)",
        f"insert into things select i, repeat(chr(64 + i), {100 * 2**20}) from generate_series(1, 3) i",
    )
    found = peak("postgres", postgres_database, THINGS, 3)
    assert found < 1100


def test_documents_of_sixteen_megabytes_take_a_stated_bound(mongo_database: str, peak: Peak) -> None:
    with pymongo.MongoClient[dict[str, Any]](mongo_database) as client:
        for number in range(10):
            client.get_default_database()["things"].insert_one({"_id": number, "big": bytes([number]) * LARGEST})
    found = peak("mongodb", mongo_database, DOCUMENTS, 10)
    assert found < 650
