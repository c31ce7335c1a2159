"""Batches that come into DuckDB from outside, and databases that are used again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from lakehouse.rows import duck
from lakehouse.rows.duck import borrowed_duckdb, connect_duckdb, incoming

SCHEMA = pa.schema([("id", pa.int64())])


class Lost(Exception):
    """What a source raises when its connection is gone."""


def batches(before_the_loss: int) -> Iterator[pa.RecordBatch]:
    for number in range(before_the_loss):
        yield pa.record_batch({"id": [number] * 10_000}, SCHEMA)
    raise Lost


def test_an_error_of_the_batches_leaves_as_itself() -> None:
    connection = connect_duckdb(threads=1)
    with pytest.raises(Lost), incoming(connection, "arriving", batches(1), SCHEMA):
        connection.execute("select count(*) from arriving").fetchall()


@pytest.fixture
def nothing_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duck, "_idle", {})


def idle() -> list[int]:
    """The databases that nobody works with."""
    return [id(database) for databases in duck._idle.values() for database in databases]


def test_a_database_is_used_again_and_nothing_of_earlier_work_is_in_it(nothing_idle: None, tmp_path: Path) -> None:
    with borrowed_duckdb(memory_limit_mb=64, temp_directory=tmp_path / "a") as connection:
        connection.execute("create temp table things as select 1 as n")
        connection.execute("create temp view seen as from things")
        connection.register("given", pa.table({"n": [1]}))
        connection.execute("set timezone = 'Asia/Tokyo'")
    (first,) = idle()
    with borrowed_duckdb(memory_limit_mb=128, temp_directory=tmp_path / "b") as connection:
        assert idle() == []
        for name in ("things", "seen", "given"):
            with pytest.raises(duckdb.CatalogException):
                connection.execute(f"from {name}")
        names = ("TimeZone", "memory_limit", "temp_directory")
        settings = connection.execute(f"select {', '.join(f'current_setting({name!r})' for name in names)}").fetchone()
        assert settings == ("UTC", "128.0 MiB", str(tmp_path / "b"))
    assert idle() == [first]


def test_two_that_borrow_at_once_have_a_database_each(nothing_idle: None, tmp_path: Path) -> None:
    with (
        borrowed_duckdb(memory_limit_mb=64, temp_directory=tmp_path) as one,
        borrowed_duckdb(memory_limit_mb=64, temp_directory=tmp_path) as other,
    ):
        one.execute("create table things as select 1 as n")
        with pytest.raises(duckdb.CatalogException):
            other.execute("from things")
    assert len(idle()) == 2


def test_a_database_whose_work_failed_is_not_used_again(nothing_idle: None, tmp_path: Path) -> None:
    with pytest.raises(duckdb.CatalogException), borrowed_duckdb(memory_limit_mb=64, temp_directory=tmp_path) as connection:
        connection.execute("from nowhere")
    assert idle() == []


def test_a_database_that_has_spilled_is_not_used_for_another_folder(nothing_idle: None, tmp_path: Path) -> None:
    spilling = "select count(*) from (select distinct i, repeat('x', 100) || i as t from range(1_500_000) r(i))"
    used = []
    for folder in ("a", "b"):
        with borrowed_duckdb(memory_limit_mb=64, temp_directory=tmp_path / folder) as connection:
            assert connection.execute(spilling).fetchall() == [(1_500_000,)]
            assert connection.execute("select current_setting('temp_directory')").fetchall() == [(str(tmp_path / folder),)]
        used += [database for databases in duck._idle.values() for database in databases]
    first, second = used
    assert first is not second


def test_a_forked_process_makes_a_database_of_its_own(nothing_idle: None, tmp_path: Path) -> None:
    with borrowed_duckdb(memory_limit_mb=64, temp_directory=tmp_path):
        pass
    assert len(idle()) == 1
    child = os.fork()
    if child == 0:
        with borrowed_duckdb(memory_limit_mb=64, temp_directory=tmp_path) as connection:
            os._exit(connection.execute("select 7").fetchall()[0][0])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(idle()) == 1
