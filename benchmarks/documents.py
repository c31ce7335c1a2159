"""One way to read a collection, in a process of its own: `python -m benchmarks.documents WAY URL`.
`load URL COUNT` fills the collection first.

Prints, as its last line, `{"rows": n, "seconds": s, "cpu_seconds": c}`. `drain` throws the replies away (rows: their bytes);
`typed` writes eight typed columns and the whole document as raw Parquet, with their checksum; `nested` a list and a struct as
well.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymongo

import lakehouse.sources.mongodb  # noqa: F401  # opening a source imports it; no tool's imports are counted
from benchmarks import mixed
from lakehouse.raw.writer import empty_digest, write_files
from lakehouse.sources import open_source
from lakehouse.spec import Column, Source, Table

TYPED = (
    Column("_id", "string", nullable=False),
    Column("created_at", "timestamp"),
    Column("user", "string"),
    Column("kind", "string"),
    Column("count", "int64"),
    Column("score", "float64"),
    Column("active", "bool"),
    Column("city", "string", path="profile.city"),
)
NESTED = (*TYPED, Column("profile", "struct<city: string, age: int32>"), Column("tags", "list<string>"))


def drain(url: str) -> int:
    """Bytes from the socket, and nothing else."""
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        found = client.get_default_database()["documents"].find_raw_batches({}, batch_size=8_000)
        return sum(len(reply) for reply in found)


def typed(url: str) -> int:
    """Typed columns and the whole document, as a batch of the raw log has them."""
    return _written(url, TYPED)


def nested(url: str) -> int:
    """The same, with a list and a struct."""
    return _written(url, NESTED)


def _written(url: str, columns: tuple[Column, ...]) -> int:
    table = Table("documents", "snapshot", ("_id",), columns=columns)
    reader = open_source(Source("bench", "mongodb", (table,)), url)
    schema = reader.schema(table)
    with tempfile.TemporaryDirectory() as folder, reader.snapshot() as snapshot:
        rows = 0
        for file in write_files(snapshot.read(table), schema, Path(folder), "batch", empty_digest(schema)):
            rows += file.rows
            file.path.unlink()
        return rows


WAYS: dict[str, Callable[[str], int]] = {"drain": drain, "typed": typed, "nested": nested}


def load(url: str, count: int) -> int:
    """Fill the collection."""
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        collection = client.get_default_database()["documents"]
        collection.create_index("created_at")
        found = mixed.documents(count)
        while batch := list(itertools.islice(found, 10_000)):
            collection.insert_many(batch, ordered=False)
    return count


def main() -> None:
    """Do what the arguments say, and print what it cost."""
    way, url = sys.argv[1:3]
    if way == "load":
        load(url, int(sys.argv[3]))
        return
    began, cpu = time.monotonic(), time.process_time()
    rows = WAYS[way](url)
    print(json.dumps({"rows": rows, "seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
