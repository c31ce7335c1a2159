"""Which tables Dagster's storage has, for those who copy it without knowing Dagster."""

from __future__ import annotations

from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
from dagster_postgres import DagsterPostgresStorage

from lakehouse.pipeline.backup_database import StorageTables
from lakehouse.settings import Settings

_LIVE = {"daemon_heartbeats"}
"""What is only true of processes that run: not copied."""
_BOOKKEEPING = {"secondary_indexes", "instance_info", "kvs", "concurrency_limits"}
"""What a storage writes when it is made, and a daemon at its start."""


def storage_tables(settings: Settings) -> StorageTables:
    """Dagster's tables in the deployment's database, those that others refer to first."""
    models = (RunStorageSqlMetadata, SqlEventLogStorageMetadata, ScheduleStorageSqlMetadata)
    names = dict.fromkeys(table.name for model in models for table in model.sorted_tables if table.name not in _LIVE)
    url = settings.dagster.url.get_secret_value()
    return StorageTables(url, tuple(names), frozenset(_BOOKKEEPING), lambda: _make(url))


def _make(url: str) -> None:
    """Let Dagster make its tables, where it has not yet."""
    DagsterPostgresStorage(url)
