"""A publisher that is killed while readers begin or end to see marked rows: they see all of them or those that are left."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse import faults
from lakehouse.errors import TerminalError
from lakehouse.settings import Settings, WarehouseSettings
from lakehouse.spec import Marker, Table
from lakehouse.spec.types import arrow_field
from lakehouse.warehouse import Warehouse, open_warehouse
from tests.conftest import fresh_name
from tests.crash.forks import FORKS
from tests.crash.passage import points_in

ID, GONE = arrow_field("id", "int64", nullable=False), arrow_field("gone", "bool")
OLD, NEW = pa.schema([ID, GONE]), pa.schema([ID, GONE, arrow_field("note", "string")])
SHOWN = Table("notes", mode="snapshot", key=("id",))
HIDDEN = replace(SHOWN, soft_delete="gone")
ALL, LEFT = {0, 1, 2, 3}, {0, 2}

BEFORE: dict[str, tuple[Table, ...]] = {"first": (), "hidden": (SHOWN,), "shown": (HIDDEN,), "widened": (HIDDEN,)}
"""What was published before, by what happens then."""


def publish(warehouse: Warehouse, table: Table, sequence: int, schema: pa.Schema = OLD) -> None:
    """Publish four rows of which two are marked."""
    rows = [{"id": number, "gone": number % 2 == 1} for number in range(4)]
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    warehouse.publish(
        "shop",
        table,
        schema,
        marker=Marker(sequence, 4, ""),
        version=sequence,
        partitions=None if sequence == 1 else [],
        scan=lambda names: iter([batch] if names is None else []),
    )


def then(warehouse: Warehouse, what: str) -> None:
    """What a publisher does that may be killed."""
    if what == "widened":
        publish(warehouse, HIDDEN, 2, NEW)
    else:
        publish(warehouse, SHOWN if what == "shown" else HIDDEN, 1)


def publisher(settings: Settings, what: str, fault: str, seen: Path) -> None:
    """The same in a process of its own."""
    os.setpgid(0, 0)
    if fault:
        faults.arm(fault)
    else:
        faults.watch(lambda point, moment: print(point, moment, file=seen.open("a")))
    then(open_warehouse(settings), what)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", list(BEFORE))
def test_a_publisher_that_is_killed_anywhere_leaves_readers_whole_and_the_next_one_goes_on(
    postgres: Settings, clickhouse_database: WarehouseSettings, tmp_path: Path, what: str
) -> None:
    def fresh() -> Settings:
        warehouse = clickhouse_database.model_copy(update={"database": fresh_name()})
        settings = postgres.model_copy(update={"warehouse": warehouse})
        for table in BEFORE[what]:
            publish(open_warehouse(settings), table, 1)
        return settings

    def run(settings: Settings, fault: str = "") -> int | None:
        process = FORKS.Process(target=publisher, args=(settings, what, fault, tmp_path / "seen"))
        process.start()
        process.join()
        return process.exitcode

    settings = fresh()
    assert run(settings) == 0
    points = [passed for passed in points_in(tmp_path / "seen") if passed.moment == "after"]
    assert {passed.point for passed in points} & {"warehouse.view", "warehouse.exchange"}
    for passed in points:
        settings = fresh()
        warehouse = open_warehouse(settings)
        assert run(settings, passed.fault("kill")) == -signal.SIGKILL, passed
        there = "select name from system.tables where database = currentDatabase() order by name"
        names = warehouse.query(there)["name"].to_pylist() if passed.point != "warehouse.database" or BEFORE[what] else []
        if what != "first":
            assert set(warehouse.query("select id from shop__notes")["id"].to_pylist()) in (ALL, LEFT), (passed, names)
        then(warehouse, what)
        names = warehouse.query(there)["name"].to_pylist()
        assert names == (["shop__notes"] if what == "shown" else ["shop__notes", "shop__notes__with_deleted"]), passed
        shown = ALL if what == "shown" else LEFT
        assert set(warehouse.query("select id from shop__notes")["id"].to_pylist()) == shown
        assert ("note" in warehouse.query("select * from shop__notes").column_names) == (what == "widened")
        table = SHOWN if what == "shown" else HIDDEN
        state = warehouse.state("shop", table)
        assert state is not None
        assert (state.rows, state.reading) == (4, table.reading)
        warehouse.query(f"drop database {settings.warehouse.database}")


def test_readers_see_whole_values_at_every_moment_in_which_a_column_becomes_wider(
    postgres: Settings, clickhouse_database: WarehouseSettings
) -> None:
    warehouse = open_warehouse(postgres.model_copy(update={"warehouse": clickhouse_database}))
    seen: set[int] = set()

    def publish_one(sequence: int, type_: str, value: int) -> None:
        schema = pa.schema([ID, GONE, arrow_field("value", type_)])
        batch = pa.RecordBatch.from_pylist([{"id": 1, "gone": False, "value": value}], schema=schema)
        marker = Marker(sequence, 1, "")
        warehouse.publish("shop", HIDDEN, schema, marker=marker, version=sequence, partitions=None, scan=lambda _: iter([batch]))

    publish_one(1, "int32", 7)
    faults.watch(lambda *_: seen.update(warehouse.query("select value from shop__notes")["value"].to_pylist()))
    try:
        publish_one(2, "int64", 5_000_000_000)
    finally:
        faults.watch(None)
    assert seen == {7, 5_000_000_000}


def test_a_table_of_somebody_else_under_the_name_of_all_rows_is_left_alone(
    postgres: Settings, clickhouse_database: WarehouseSettings
) -> None:
    warehouse = open_warehouse(postgres.model_copy(update={"warehouse": clickhouse_database}))
    publish(warehouse, SHOWN, 1)
    warehouse.query("create table shop__notes__with_deleted (mine UInt8) engine = MergeTree order by mine")
    with pytest.raises(TerminalError, match="shop__notes__with_deleted"):
        publish(warehouse, HIDDEN, 1)
    assert set(warehouse.query("select id from shop__notes")["id"].to_pylist()) == ALL
    assert warehouse.query("select * from shop__notes__with_deleted").column_names in ([], ["mine"])
