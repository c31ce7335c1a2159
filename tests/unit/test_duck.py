"""Batches that come into DuckDB from outside."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from lakehouse.rows.duck import connect_duckdb, incoming

SCHEMA = pa.schema([("id", pa.int64())])


class Lost(Exception):
    """What a source raises when its connection is gone."""


def batches(before_the_loss: int) -> Iterator[pa.RecordBatch]:
    for number in range(before_the_loss):
        yield pa.record_batch({"id": [number] * 10_000}, SCHEMA)
    raise Lost


def test_an_error_of_the_batches_leaves_as_itself() -> None:
    duckdb = connect_duckdb(threads=1)
    with pytest.raises(Lost), incoming(duckdb, "arriving", batches(1), SCHEMA):
        duckdb.execute("select count(*) from arriving").fetchall()
