"""An apply keeps to its memory whatever the table's size: what does not fit goes to the disk."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse.errors import ConfigurationError
from lakehouse.rows.duck import connect_duckdb
from lakehouse.settings import Settings
from lakehouse.spec import LogEntry, Partitioning, Table
from lakehouse.spec.partitioning import bucket, days, unpartitioned
from lakehouse.spec.types import arrow_field
from lakehouse.stores import open_store
from lakehouse.tables import open_tables
from tests.lakes import Lake, folder_lake_fixture, process  # noqa: F401
from tests.rawlogs import SOURCE, HandLog

FIELDS = {"id": "int64", "at": "timestamp", "text": "string"}
ROWS = 400_000
CHARACTERS = 1000
LIMIT = 128
CODE = 330
"""MiB of a process that has imported pyarrow, DuckDB and pyiceberg and done a small apply, with some room."""


def apply_and_measure(settings: Settings, table: Table, entries: Sequence[LogEntry], folder: str, peak: Path) -> None:
    """Apply, and write down the most memory that the process ever had, in MiB."""
    open_tables(settings, open_store(settings.store)).apply(SOURCE, table, entries, folder)
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    peak.write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit))


def large_log(lake: Lake, table: Table) -> HandLog:
    """A log whose one batch is about three times the memory limit when it is decoded."""
    log = lake.log(table, FIELDS)
    schema = pa.schema([arrow_field(name, declared, doc="x") for name, declared in FIELDS.items()])
    query = (
        f"select i as id, timestamptz '2026-01-01 00:00:00+00' + interval 1 second * (i % {20 * 86400}) as at, "
        f"repeat(md5(i::varchar), {CHARACTERS // 32}) as text from range({ROWS}) as r(i)"
    )
    rows = connect_duckdb().execute(query).to_arrow_table()
    log.write_table("upsert", rows.cast(schema), files=4, rows_per_group=20_000)
    return log


@pytest.mark.parametrize("partition", [unpartitioned(), bucket("id", 8), days("at")], ids=["whole", "bucket", "day"])
def test_a_fold_larger_than_its_memory_spills(folder_lake: Lake, tmp_path: Path, partition: Partitioning) -> None:
    lake = folder_lake
    table = Table("texts", "upsert", ("id",), cursor="at", event_time="at", partition=partition)
    log = large_log(lake, table)
    settings = lake.settings.model_copy(update={"memory_limit_mb": LIMIT})
    working = process(apply_and_measure, settings, table, log.entries, log.folder, tmp_path / "peak")
    working.join(300)
    assert working.exitcode == 0
    assert lake.marker(table).rows == ROWS
    assert lake.marker(table).checksum == log.entries[0].manifest.checksum
    assert int((tmp_path / "peak").read_text()) < CODE + LIMIT < ROWS * CHARACTERS >> 20


def test_too_little_memory_is_told_with_the_setting_to_raise(folder_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from lakehouse.tables.iceberg import applying

    lake = folder_lake
    table = Table("texts", "upsert", ("id",), cursor="at", event_time="at")
    log = lake.log(table, FIELDS)
    schema = pa.schema([arrow_field(name, declared, doc="x") for name, declared in FIELDS.items()])
    rows = (
        connect_duckdb().execute("select i as id, now() as at, repeat('x', 100000) as text from range(500) r(i)").to_arrow_table()
    )
    log.write_table("upsert", rows.cast(schema))
    monkeypatch.setattr(applying, "connect_duckdb", lambda **_: connect_duckdb(threads=1, memory_limit_mb=8))
    with pytest.raises(ConfigurationError, match="LAKEHOUSE_MEMORY_LIMIT_MB"):
        lake.apply(log)
    assert lake.tables.state(SOURCE, table) is None
    monkeypatch.undo()
    lake.apply(log)
    assert lake.marker(table).rows == 500
