"""What the ClickHouse warehouse says when something is wrong with the server, the password or the table."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from pydantic import SecretStr

from lakehouse.errors import ConfigurationError, ServiceFailed, TerminalError, WarehouseUnavailable
from lakehouse.settings import CatalogSettings, Settings, WarehouseSettings
from lakehouse.spec import Marker, Table
from lakehouse.spec.types import arrow_field
from lakehouse.warehouse import Warehouse, open_warehouse
from lakehouse.warehouse.clickhouse.client import ClickHouseClient
from tests.clickhouse_server import PASSWORD, USER, clickhouse_server, free_port

TABLE = Table("events", mode="snapshot", key=("id",))


def edited(settings: WarehouseSettings, **changes: object) -> Warehouse:
    """A warehouse by settings that differ."""
    return open_warehouse(Settings.model_construct(warehouse=settings.model_copy(update=changes), catalog=CatalogSettings()))


def test_a_wrong_password_is_a_matter_of_configuration_and_is_not_shown(clickhouse_database: WarehouseSettings) -> None:
    with pytest.raises(ConfigurationError, match="LAKEHOUSE_WAREHOUSE__PASSWORD") as refused:
        edited(clickhouse_database, password=SecretStr("hunter2")).check()
    assert "hunter2" not in str(refused.value)


def test_a_server_that_is_not_there_is_said_with_its_address(clickhouse_database: WarehouseSettings) -> None:
    port = free_port()
    with pytest.raises(WarehouseUnavailable, match=f"http://127.0.0.1:{port} does not answer"):
        edited(clickhouse_database, host="127.0.0.1", port=port).check()


def test_an_address_that_was_not_given_is_said(clickhouse_database: WarehouseSettings) -> None:
    with pytest.raises(ConfigurationError, match="LAKEHOUSE_WAREHOUSE__HOST"):
        edited(clickhouse_database, host="").check()


def test_a_table_that_somebody_else_made_is_left_alone(clickhouse_database: WarehouseSettings) -> None:
    warehouse = edited(clickhouse_database)
    warehouse.query("create table shop__events (id Int64) engine = MergeTree order by id comment 'mine'")
    with pytest.raises(TerminalError, match="did not publish"):
        warehouse.state("shop", TABLE)


def test_publishing_without_the_postgres_that_holds_the_lock_changes_nothing(clickhouse_database: WarehouseSettings) -> None:
    import pyarrow as pa

    schema = pa.schema([arrow_field("id", "int64", nullable=False)])
    catalog = CatalogSettings(url=SecretStr(f"postgresql://nobody:x@127.0.0.1:{free_port()}/none"))
    warehouse = open_warehouse(Settings.model_construct(warehouse=clickhouse_database, catalog=catalog))
    with pytest.raises(ServiceFailed, match="Postgres does not answer"):
        warehouse.publish("shop", TABLE, schema, marker=Marker(1, 0, ""), version=1, partitions=None, scan=lambda _: iter([]))
    assert warehouse.query("select name from system.tables where database = currentDatabase()").num_rows == 0


def test_a_result_that_fails_late_does_not_pass_for_a_whole_one(clickhouse_database: WarehouseSettings) -> None:
    client = ClickHouseClient(clickhouse_database)
    batches = client.stream("select throwIf(number = 2000000, 'too far') from numbers(3000000)", "reading numbers")
    with pytest.raises(TerminalError, match="too far"):
        assert sum(batch.num_rows for batch in batches) < 3_000_000


def test_a_server_that_dies_in_the_middle_of_a_result_is_noticed(tmp_path: Path) -> None:
    with clickhouse_server(tmp_path / "db") as server:
        settings = WarehouseSettings(host="127.0.0.1", port=server.port, user=USER, password=SecretStr(PASSWORD))
        batches = ClickHouseClient(settings).stream("select number from numbers(100000000)", "reading numbers")
        assert next(batches).num_rows > 0
        server.end(signal.SIGKILL)
        with pytest.raises(WarehouseUnavailable):
            for _ in batches:
                pass
