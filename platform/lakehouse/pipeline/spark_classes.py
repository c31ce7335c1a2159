"""A process that folds a few rows with Spark, so that Java keeps the classes which that took. See `tables.spark.classes`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from lakehouse.raw.log import RawLog
from lakehouse.settings import Settings, SparkSettings, StoreSettings
from lakehouse.spec import Position, Table, bucket
from lakehouse.spec.types import arrow_field
from lakehouse.stores import open_store
from lakehouse.tables import open_tables
from lakehouse.tables.spark.classes import OPTIONS

SOURCE = "warm"
ROWS = 100
SCHEMA = pa.schema([arrow_field("id", "int64", nullable=False), arrow_field("at", "timestamp")])


def main(home: Path, jars: Path, options: str) -> None:
    """Fold twice, the second time onto what the first left, and wait until Java has ended.

    home: an empty folder. options: those of Java that make it keep its classes.
    """
    settings = Settings(
        home=home,
        engine="spark",
        store=StoreSettings(url=f"file://{home}/store"),
        spark=SparkSettings(jars=jars, conf={OPTIONS: options}),
    )
    store = open_store(settings.store)
    tables = open_tables(settings, store)
    table = Table("rows", "upsert", ("id",), cursor="at", event_time="at", partition=bucket("id", 2), format="delta")
    log = RawLog(store, SOURCE, table, scratch=home)
    for number in (1, 2):
        now = datetime.now(UTC)
        times = [now + timedelta(seconds=number)] * ROWS
        rows = pa.table({"id": list(range(ROWS)), "at": times}, schema=SCHEMA)
        written = log.write(rows.to_batches(), rows.schema)
        manifest = log.manifest(
            written, kind="upsert", window=None, closed=True, schema=rows.schema, position=Position(now, now, True)
        )
        log.claim(manifest)
        tables.apply(SOURCE, table, log.entries(), log.folder)
    _end()


def _end() -> None:
    """End Java as Spark would at the end of the process, and wait: it writes its archive then."""
    from pyspark import SparkContext

    context = SparkContext._active_spark_context  # the only way to the process that Spark has started
    gateway = context._gateway if context is not None else None
    if context is None or gateway is None:
        return
    context.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
