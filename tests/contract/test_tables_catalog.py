"""The Iceberg catalog on a real Postgres: refusals, and what other tools find there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyiceberg.table.snapshots import Operation

from lakehouse.errors import ConfigurationError
from lakehouse.settings import StoreSettings
from lakehouse.spec import Table
from lakehouse.spec.partitioning import bucket, days
from lakehouse.tables.iceberg.commit import _OneSnapshot
from tests.lakes import Lake, iceberg_lake_fixture, make_lake  # noqa: F401
from tests.rawlogs import SOURCE, day, day_window

USERS = Table("users", "upsert", ("id",), cursor="at", event_time="at", partition=bucket("id", 3), description="Who calls.")
LOGS = Table("api_logs", "append", ("id",), event_time="at", partition=days("at"))
FIELDS = {"id": "int64", "at": "timestamp", "tags": "list<string>", "extra": "json"}


def test_a_wrong_password_and_a_missing_database_are_configuration_errors(postgres_database: str, tmp_path: Path) -> None:
    store = StoreSettings(url=tmp_path.as_uri())
    before, _, after = postgres_database.partition("@")
    wrong = f"{before.rpartition(':')[0]}:not-the-password@{after}"
    with pytest.raises(ConfigurationError) as raised:
        make_lake(tmp_path, store, wrong).tables.state(SOURCE, USERS)
    assert "LAKEHOUSE_CATALOG__URL" in str(raised.value)
    assert "not-the-password" not in str(raised.value)
    with pytest.raises(ConfigurationError, match="does not exist"):
        make_lake(tmp_path, store, f"{postgres_database}_no").tables.state(SOURCE, USERS)


def test_another_tool_reads_the_same_rows_ids_and_descriptions(iceberg_lake: Lake) -> None:
    """pyiceberg by itself, with nothing of ours but the addresses, as Spark or DuckDB would."""
    from pyiceberg.catalog.sql import SqlCatalog

    from lakehouse.tables.iceberg.catalog import file_io_properties

    lake = iceberg_lake
    log = lake.log(USERS, FIELDS, ("id",))
    rows = [{"id": key, "at": day(1), "tags": [str(key)], "extra": None} for key in range(20)]
    log.write("upsert", rows)
    lake.apply(log)
    log.write("upsert", [{**rows[3], "extra": "{}"}])
    lake.apply(log)
    url = lake.settings.catalog.url.get_secret_value().replace("postgresql://", "postgresql+psycopg2://")
    catalog = SqlCatalog("lakehouse", uri=url, **file_io_properties(lake.settings.store))
    table = catalog.load_table((SOURCE, "users"))
    assert table.scan().count() == 20
    assert table.scan("id == 3").to_arrow().to_pylist() == [{**rows[3], "extra": "{}"}]
    assert [field.doc for field in table.schema().fields] == [f"The {name}." for name in FIELDS]
    assert table.schema().identifier_field_names() == {"id"}
    assert (table.properties["comment"], table.properties["lakehouse.table"]) == ("Who calls.", "users")
    assert str(table.spec().fields[0].transform) == "bucket[3]"
    assert table.format_version == 2
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary["total-records"] == "20"
    assert sum(task.file.record_count for task in table.scan("id == 3").plan_files()) < 20, "bounds prune no file"


def test_a_commit_without_a_marker_by_another_tool_is_told_not_built_upon(iceberg_lake: Lake) -> None:
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog

    from lakehouse.errors import DamagedData
    from lakehouse.tables.iceberg.catalog import file_io_properties

    lake = iceberg_lake
    log = lake.log(USERS, FIELDS, ("id",))
    log.write("upsert", [{"id": 1, "at": day(1)}])
    lake.apply(log)
    version = lake.state(USERS).current.version
    url = lake.settings.catalog.url.get_secret_value().replace("postgresql://", "postgresql+psycopg2://")
    catalog = SqlCatalog("lakehouse", uri=url, **file_io_properties(lake.settings.store))
    foreign = pa.Table.from_pylist([{"id": 9, "at": day(1), "tags": None, "extra": None}], schema=log.schema())
    catalog.load_table((SOURCE, "users")).append(foreign)
    log.write("upsert", [{"id": 2, "at": day(1)}])
    with pytest.raises(DamagedData, match=r"lakehouse rollback shop\.users"):
        lake.apply(log)
    assert [known.version for known in lake.tables.history(SOURCE, USERS)] == [version]
    lake.tables.rollback(SOURCE, USERS, version)
    lake.apply(log)
    lake.check(log, [{"id": 1, "at": day(1)}, {"id": 2, "at": day(1)}])


def test_a_manifest_is_judged_by_its_own_days_when_another_thread_judges_one_in_between(iceberg_lake: Lake) -> None:
    """pyiceberg's evaluator notes the manifest at hand in itself, and a commit asks it from several threads at once."""
    from pyiceberg.catalog.sql import SqlCatalog

    from lakehouse.tables.iceberg.catalog import file_io_properties

    lake = iceberg_lake
    log = lake.log(LOGS, FIELDS, ("id", "at"))
    for number in (1, 2, 3):
        log.write("replace", [{"id": number, "at": day(number), "tags": [], "extra": None}], window=day_window(number))
        lake.apply(log)
    url = lake.settings.catalog.url.get_secret_value().replace("postgresql://", "postgresql+psycopg2://")
    handle = SqlCatalog("lakehouse", uri=url, **file_io_properties(lake.settings.store)).load_table((SOURCE, "api_logs"))
    producer = _OneSnapshot(operation=Operation.OVERWRITE, transaction=handle.transaction(), io=handle.io)
    for task in handle.scan().plan_files():
        if "at_day=2026-01-03" not in task.file.file_path:
            producer.delete_data_file(task.file)
    producer._build_delete_files_partition_predicate()
    judge = producer._build_manifest_evaluator(handle.spec().spec_id)
    snapshot = handle.current_snapshot()
    assert snapshot is not None
    kept, *removed = snapshot.manifests(handle.io)
    assert [judge(manifest) for manifest in (kept, *removed)] == [False, True, True]

    class OvertakenFields(list[Any]):
        def __getitem__(self, at: Any) -> Any:
            assert judge(kept) is False
            return super().__getitem__(at)

    overtaken: list[Any] = [SimpleNamespace(partitions=OvertakenFields(manifest.partitions or ())) for manifest in removed]
    assert [judge(manifest) for manifest in overtaken] == [True, True]
