"""Publishing to ClickHouse: the embedded server and a real one alike."""

from lakehouse.warehouse.clickhouse.warehouse import ClickHouseWarehouse

__all__ = ["ClickHouseWarehouse"]
