"""A publisher that dies in the middle: readers see the old table, the next publisher goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse.settings import Settings, WarehouseSettings
from lakehouse.spec import Marker, Table
from lakehouse.spec.types import arrow_field
from lakehouse.warehouse import open_warehouse

SCHEMA = pa.schema([arrow_field("id", "int64", nullable=False), arrow_field("value", "int64")])
TABLE = Table("numbers", mode="snapshot", key=("id",))

PUBLISHER = """
import sys
from lakehouse.settings import load_settings
from lakehouse.spec import Marker
from lakehouse.warehouse import open_warehouse
from tests.recovery.test_clickhouse_publisher_killed import SCHEMA, TABLE, batch

def scan(names):
    yield batch(50000, 2)
    print("half", flush=True)
    sys.stdin.read()

warehouse = open_warehouse(load_settings())
warehouse.publish("shop", TABLE, SCHEMA, marker=Marker(2, 100000, ""), version=2, partitions=None, scan=scan)
"""


def batch(rows: int, value: int) -> pa.RecordBatch:
    """`rows` rows with one value."""
    return pa.record_batch([pa.array(range(rows)), pa.array([value] * rows)], schema=SCHEMA)


def environment(settings: Settings) -> dict[str, str]:
    """The variables by which another process finds the same servers."""
    warehouse = settings.warehouse
    return {
        **os.environ,
        "LAKEHOUSE_CATALOG__URL": settings.catalog.url.get_secret_value(),
        "LAKEHOUSE_WAREHOUSE__HOST": warehouse.host,
        "LAKEHOUSE_WAREHOUSE__PORT": str(warehouse.port),
        "LAKEHOUSE_WAREHOUSE__USER": warehouse.user,
        "LAKEHOUSE_WAREHOUSE__PASSWORD": warehouse.password.get_secret_value(),
        "LAKEHOUSE_WAREHOUSE__DATABASE": warehouse.database,
    }


@pytest.fixture
def settings_of_both(postgres: Settings, clickhouse_database: WarehouseSettings) -> Settings:
    """Postgres for the lock, a fresh database for the tables."""
    return postgres.model_copy(update={"warehouse": clickhouse_database})


def test_a_publisher_that_is_killed_leaves_the_old_table_and_frees_its_lock(settings_of_both: Settings) -> None:
    warehouse = open_warehouse(settings_of_both)
    warehouse.publish(
        "shop", TABLE, SCHEMA, marker=Marker(1, 10, ""), version=1, partitions=None, scan=lambda _: iter([batch(10, 1)])
    )
    publisher = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER],
        cwd=Path(__file__).parents[2],
        env=environment(settings_of_both),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert publisher.stdout is not None
    assert publisher.stdout.readline() == b"half\n"
    publisher.send_signal(signal.SIGKILL)
    publisher.wait()
    for stream in (publisher.stdin, publisher.stdout):
        assert stream is not None
        stream.close()
    found = warehouse.query("select count() as rows, max(value) as value from shop__numbers").to_pylist()
    assert found == [{"rows": 10, "value": 1}]
    done = warehouse.publish(
        "shop", TABLE, SCHEMA, marker=Marker(3, 20, ""), version=3, partitions=None, scan=lambda _: iter([batch(20, 3)])
    )
    assert (done.marker.sequence, done.rows) == (3, 20)
    tables = warehouse.query("select name from system.tables where database = currentDatabase()")["name"].to_pylist()
    assert tables == ["shop__numbers"]
