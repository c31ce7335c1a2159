"""Delta tables on real stores: what other tools find there, what of theirs is built upon, and a log that is damaged."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from deltalake import DeltaTable, TableFeatures, write_deltalake

from lakehouse.errors import DamagedData, SchemaChanged, Unsupported
from lakehouse.spec import Table
from lakehouse.spec.partitioning import bucket, days, identity
from lakehouse.tables.delta.opening import open_table, storage_options
from lakehouse.tables.delta.tables import CHECKPOINT_EVERY
from tests.lakes import Lake, delta_lake_fixture  # noqa: F401
from tests.rawlogs import SOURCE, HandLog, Row, day, day_window

USERS = Table("users", "upsert", ("id",), cursor="at", event_time="at", partition=bucket("id", 3), description="Who calls.")
LOGS = Table("api_logs", "append", ("id",), event_time="at", partition=days("at"))
FIELDS = {"id": "int64", "at": "timestamp", "tags": "list<string>", "extra": "json"}


@pytest.fixture(name="lake")
def the_lake(delta_lake: Lake) -> Lake:
    return delta_lake


def filled(lake: Lake, table: Table = USERS, entries: int = 1) -> HandLog:
    """A table of twenty rows, after some versions."""
    log = lake.log(table, FIELDS, ("id",))
    for number in range(1, entries + 1):
        log.write("upsert", [user(key, number) for key in range(20)])
        lake.apply(log)
    return log


def user(key: int, number: int = 1) -> Row:
    return {"id": key, "at": day(number), "tags": [str(key)], "extra": None}


def foreign(lake: Lake, table: Table = USERS) -> DeltaTable:
    """The table as delta-rs by itself opens it."""
    found = open_table(lake.tables.root(SOURCE, table), lake.settings.store)
    assert found is not None
    return found


def test_another_tool_reads_the_same_rows_types_and_descriptions(lake: Lake) -> None:
    log = filled(lake)
    log.write("upsert", [{**user(3), "extra": "{}"}])
    lake.apply(log)
    table = foreign(lake)
    rows = table.to_pyarrow_table().select(list(FIELDS)).sort_by("id").to_pylist()
    assert rows == [{**user(key), "extra": "{}" if key == 3 else None} for key in range(20)]
    told = json.loads(table.schema().to_json())["fields"]
    assert [(field["name"], field["type"], field["nullable"]) for field in told][:2] == [
        ("id", "long", False),
        ("at", "timestamp", True),
    ]
    assert told[0]["metadata"]["comment"] == "The id."
    assert told[4]["name"] == "id_bucket" == table.metadata().partition_columns[0]
    assert (table.metadata().description, table.metadata().configuration["lakehouse.table"]) == ("Who calls.", "users")
    assert (table.protocol().min_reader_version, table.protocol().min_writer_version) == (1, 2)
    only = table.to_pyarrow_dataset(file_pruning_predicate=[("id_bucket", "=", "0")]).to_table()
    assert 0 < only.num_rows < 20


def test_bounds_of_the_files_tell_what_is_in_them(lake: Lake) -> None:
    log = lake.log(LOGS, FIELDS, ("id", "at"))
    for number in (1, 2):
        log.write("replace", [user(number, number)], window=day_window(number))
    lake.apply(log)
    files = pa.table(foreign(lake, LOGS).get_add_actions(flatten=True)).sort_by("min.id").to_pylist()
    assert [(file["min.id"], file["max.id"], file["num_records"], file["null_count.extra"]) for file in files] == [
        (1, 1, 1, 1),
        (2, 2, 1, 1),
    ]
    assert [file["partition.at_day"] for file in files] == ["2026-01-01", "2026-01-02"]
    for number, file in enumerate(files, start=1):
        assert file["min.at"] <= day(number) <= file["max.at"]


def test_an_empty_text_and_no_value_are_different_partitions_for_other_tools_too(lake: Lake) -> None:
    table = Table("people", "upsert", ("id",), cursor="at", partition=identity("extra"))
    log = lake.log(table, FIELDS, ("id",))
    log.write("upsert", [{**user(1), "extra": ""}, {**user(2), "extra": None}, {**user(3), "extra": "null"}])
    lake.apply(log)
    rows = foreign(lake, table).to_pyarrow_table().sort_by("id")
    assert rows["extra"].to_pylist() == ["", None, "null"]
    assert rows["extra_identity"].to_pylist() == ["%", None, "%6Eull"]


def test_a_commit_without_a_marker_by_another_tool_is_told_not_built_upon(lake: Lake) -> None:
    log = filled(lake)
    version = lake.state(USERS).current.version
    table = foreign(lake)
    row = pa.Table.from_pylist([{**user(99), "id_bucket": "0"}], schema=table.to_pyarrow_table().schema)
    write_deltalake(table, row, mode="append")
    log.write("upsert", [user(21)])
    with pytest.raises(DamagedData, match=r"lakehouse rollback shop\.users"):
        lake.apply(log)
    assert [known.version for known in lake.tables.history(SOURCE, USERS)] == [version]
    lake.tables.rollback(SOURCE, USERS, version)
    lake.apply(log)
    lake.check(log, [user(key) for key in [*range(20), 21]])


def test_a_compaction_by_another_tool_keeps_the_marker_and_is_built_upon(lake: Lake) -> None:
    table = Table("users", "upsert", ("id",), cursor="at", partition=bucket("id", 2))
    log = filled(lake, table, 2)
    before = lake.marker(table)
    foreign(lake, table).optimize.z_order(["id"])
    assert lake.state(table).current.version == 2
    assert lake.marker(table) == before
    assert [known.marker.sequence for known in lake.tables.history(SOURCE, table)] == [1, 2, 2]
    log.write("upsert", [user(21)])
    lake.apply(log)
    lake.check(log, [*(user(key, 2) for key in range(20)), user(21)])


def test_a_table_that_another_tool_upgraded_is_refused_with_what_it_would_take(lake: Lake) -> None:
    log = filled(lake)
    foreign(lake).alter.add_feature([TableFeatures.DeletionVectors], True)
    log.write("upsert", [user(21)])
    with pytest.raises(Unsupported, match="reader 3"):
        lake.apply(log)


def test_a_name_that_delta_s_readers_refuse_is_refused_before_anything_is_written(lake: Lake) -> None:
    for fields, said in (({**FIELDS, "two words": "string"}, "two words"), ({**FIELDS, "id_bucket": "string"}, "id_bucket")):
        log = lake.log(USERS, fields, ("id",))
        log.write("upsert", [{**user(1), list(fields)[-1]: "x"}])
        with pytest.raises(Unsupported, match=said) as raised:
            lake.apply(log)
        assert "format='iceberg'" in str(raised.value)
        assert lake.files(USERS) == {}


def test_a_table_that_is_declared_with_another_partitioning_stops(lake: Lake) -> None:
    log = filled(lake)
    for other in (bucket("id", 4), days("at")):
        table = Table("users", "upsert", ("id",), cursor="at", event_time="at", partition=other)
        with pytest.raises(SchemaChanged, match="partitioned by id_bucket"):
            lake.tables.apply(SOURCE, table, log.entries, log.folder)


def test_the_state_is_written_as_a_checkpoint_now_and_then_and_nothing_depends_on_older_commits(lake: Lake) -> None:
    log = filled(lake, entries=CHECKPOINT_EVERY + 3)
    folder = f"{lake.tables.root(SOURCE, USERS)}/_delta_log"
    names = [info.path.rpartition("/")[2] for info in lake.store.list(folder)]
    assert f"{CHECKPOINT_EVERY:020d}.checkpoint.parquet" in names
    for version in range(CHECKPOINT_EVERY + 1):
        lake.store.delete(f"{folder}/{version:020d}.json")
    lake.check(log, [user(key, CHECKPOINT_EVERY + 3) for key in range(20)])
    assert [known.marker.sequence for known in lake.tables.history(SOURCE, USERS)] == [
        CHECKPOINT_EVERY + number for number in (2, 3)
    ]
    log.write("upsert", [user(21)])
    lake.apply(log)
    lake.check(log, [*(user(key, CHECKPOINT_EVERY + 3) for key in range(20)), user(21)])


@pytest.mark.parametrize("damage", [b"", b'{"comm', b"null\n"])
def test_a_damaged_commit_is_named_and_the_table_goes_back_to_the_one_before(lake: Lake, damage: bytes) -> None:
    log = filled(lake, entries=3)
    path = f"{lake.tables.root(SOURCE, USERS)}/_delta_log/{2:020d}.json"
    lake.store.put(path, damage)
    with pytest.raises(DamagedData, match="lakehouse repair"):
        lake.marker(USERS)
    restored = lake.tables.restore(SOURCE, USERS)
    assert restored is not None
    assert restored.endswith(f"{1:020d}.json")
    assert lake.marker(USERS).sequence == 2
    lake.apply(log)
    lake.check(log, [user(key, 3) for key in range(20)])
    assert lake.tables.restore(SOURCE, USERS) is None


def test_a_damaged_checkpoint_costs_no_commit(lake: Lake) -> None:
    log = filled(lake, entries=CHECKPOINT_EVERY + 2)
    path = f"{lake.tables.root(SOURCE, USERS)}/_delta_log/{CHECKPOINT_EVERY:020d}.checkpoint.parquet"
    lake.store.put(path, lake.store.get(path)[:50])
    with pytest.raises(DamagedData, match="lakehouse repair"):
        lake.marker(USERS)
    lake.tables.restore(SOURCE, USERS)
    lake.check(log, [user(key, CHECKPOINT_EVERY + 2) for key in range(20)])


def test_keys_of_the_store_reach_delta_rs_and_no_others(lake: Lake) -> None:
    options, keys = storage_options(lake.settings.store), lake.settings.store
    if lake.store.url.startswith("file://"):
        assert options == {}
    else:
        assert keys.access_key is not None
        assert keys.secret_key is not None
        assert options["AWS_ACCESS_KEY_ID"] == keys.access_key.get_secret_value()
        assert options["AWS_SECRET_ACCESS_KEY"] == keys.secret_key.get_secret_value()
