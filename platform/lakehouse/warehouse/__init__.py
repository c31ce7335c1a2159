"""Warehouses: publish lake tables, read them back, query."""

from __future__ import annotations

from lakehouse.settings import Settings
from lakehouse.warehouse.publisher import Published, Warehouse

__all__ = ["Published", "Warehouse", "open_warehouse"]


def open_warehouse(settings: Settings) -> Warehouse:
    """The deployment's warehouse; it connects when it is first used."""
    from lakehouse.warehouse.clickhouse import ClickHouseWarehouse

    return ClickHouseWarehouse(settings)
