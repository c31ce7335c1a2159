"""An apply keeps to its memory whatever the table's size: what does not fit goes to the disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse.errors import ConfigurationError
from lakehouse.rows.duck import connect_duckdb
from lakehouse.settings import Settings
from lakehouse.spec import LogEntry, Partitioning, Table
from lakehouse.spec.partitioning import bucket, unpartitioned
from lakehouse.spec.types import arrow_field
from lakehouse.stores import open_store
from lakehouse.tables import open_tables
from tests.lakes import Lake, folder_lake_fixture, fresh_process  # noqa: F401
from tests.rawlogs import SOURCE, HandLog

FIELDS = {"id": "int64", "at": "timestamp", "text": "string"}
ROWS = 600_000
CHARACTERS = 1000
LIMIT = 128


def apply_and_measure(settings: Settings, table: Table, entries: Sequence[LogEntry], folder: str, peak: Path) -> None:
    """Apply the first entry, then the others; write down how far the latter raised the most memory that was ever held, in MiB."""
    tables = open_tables(settings, open_store(settings.store))
    tables.apply(SOURCE, table, entries[:1], folder)
    before = most_memory()
    tables.apply(SOURCE, table, entries, folder)
    peak.write_text(str(most_memory() - before))


def most_memory() -> int:
    """The most memory that this process ever held, in MiB; `getrusage` would count the parent's, too."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024


def large_log(lake: Lake, table: Table) -> HandLog:
    """A log of an empty batch and one that is more than four times the memory limit when it is decoded."""
    log = lake.log(table, FIELDS)
    log.write("upsert", [])
    schema = pa.schema([arrow_field(name, declared, doc="x") for name, declared in FIELDS.items()])
    query = (
        f"select i as id, timestamptz '2026-01-01 00:00:00+00' + interval 1 second * (i % {20 * 86400}) as at, "
        f"repeat(md5(i::varchar), {CHARACTERS // 32}) as text from range({ROWS}) as r(i)"
    )
    rows = connect_duckdb().execute(query).to_arrow_table()
    log.write_table("upsert", rows.cast(schema), files=4, rows_per_group=20_000)
    return log


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("partition", [unpartitioned(), bucket("id", 8)], ids=["whole", "bucket"])
def test_a_fold_larger_than_its_memory_spills(folder_lake: Lake, tmp_path: Path, partition: Partitioning) -> None:
    lake = folder_lake
    table = Table("texts", "upsert", ("id",), cursor="at", event_time="at", partition=partition)
    log = large_log(lake, table)
    settings = lake.settings.model_copy(update={"memory_limit_mb": LIMIT})
    working = fresh_process(apply_and_measure, settings, table, log.entries, log.folder, tmp_path / "peak")
    working.join(300)
    assert working.exitcode == 0
    assert lake.marker(table).rows == ROWS
    assert lake.marker(table).checksum == log.entries[1].manifest.checksum
    assert int((tmp_path / "peak").read_text()) < 3 * LIMIT < ROWS * CHARACTERS >> 20


def test_too_little_memory_is_told_with_the_setting_to_raise(folder_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    from lakehouse.tables.embedded import engine

    lake = folder_lake
    table = Table("texts", "upsert", ("id",), cursor="at", event_time="at")
    log = lake.log(table, FIELDS)
    schema = pa.schema([arrow_field(name, declared, doc="x") for name, declared in FIELDS.items()])
    rows = (
        connect_duckdb().execute("select i as id, now() as at, repeat('x', 100000) as text from range(500) r(i)").to_arrow_table()
    )
    log.write_table("upsert", rows.cast(schema))
    monkeypatch.setattr(engine, "borrowed_duckdb", lambda **_: connect_duckdb(threads=1, memory_limit_mb=3))
    with pytest.raises(ConfigurationError, match="LAKEHOUSE_MEMORY_LIMIT_MB"):
        lake.apply(log)
    assert lake.tables.state(SOURCE, table) is None
    monkeypatch.undo()
    lake.apply(log)
    assert lake.marker(table).rows == 500
