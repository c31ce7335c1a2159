"""A table that is folded anew under another declaration: other partitions, other types; what was there stays readable."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from lakehouse import faults
from lakehouse.errors import CommitConflict, DamagedData, SchemaChanged, WrongUse
from lakehouse.settings import Settings, StoreSettings
from lakehouse.spec import REBUILDS, Partitioning, RowChecksum, Table
from lakehouse.spec.partitioning import bucket, days, identity, months, unpartitioned
from lakehouse.tables.delta.opening import open_table
from lakehouse.tables.engine import Applied
from tests.lakes import (  # noqa: F401
    LAKES,
    Lake,
    delta_lake_fixture,
    evolving_lake_fixture,
    make_lake,
    overtaken,
    process,
    processes_done,
    sorted_rows,
)
from tests.rawlogs import SOURCE, HandLog, Row, day

ITEMS = Table("items", "upsert", ("id",), cursor="changed", event_time="changed", partition=bucket("id", 2))
FIELDS = {"id": "int64", "changed": "timestamp", "price": "decimal(6,2)", "note": "string"}

WHOEVER_FOLDS = pytest.mark.parametrize("lake", LAKES, indirect=True)
"""Of commits alone: who folds makes no difference to them."""


def item(number: int, changed: int = 1, **more: object) -> Row:
    """One version of an item."""
    return {"id": number, "changed": day(changed), "price": Decimal("9.50"), "note": str(number), **more}


@pytest.fixture
def log(lake: Lake) -> HandLog:
    """Six items in two commits, one of them changed and one deleted."""
    log = lake.log(ITEMS, FIELDS, ("id", "changed"))
    log.write("upsert", [item(number, 1 + number) for number in range(6)])
    lake.apply(log)
    log.write("upsert", [item(1, 9, note="again")])
    log.write("delete", [{"id": 5}], columns=["id"])
    lake.apply(log)
    return log


EXPECTED = [item(0, 1), item(1, 9, note="again"), item(2, 3), item(3, 4), item(4, 5)]


def rebuilt(lake: Lake, log: HandLog, expected: RowChecksum | None = None) -> Applied:
    """The log folded anew, as its table is declared now."""
    return lake.tables.rebuild(SOURCE, log.table, log.entries, log.folder, expected=expected)


def land_anew(log: HandLog, fields: dict[str, str], rows: Sequence[Row]) -> None:
    """An entry as a rebuild lands it: all rows, in other types."""
    log.fields = fields
    entry = log.write("snapshot", rows)
    position = replace(entry.manifest.position, detail={REBUILDS: "types"})
    log.entries[-1] = replace(entry, manifest=replace(entry.manifest, position=position))


PARTITIONS = (bucket("id", 5), bucket("note", 2), days("changed"), months("changed"), identity("note"), unpartitioned())


@pytest.mark.parametrize(
    ("lake", "partition"),
    [*itertools.product(LAKES, PARTITIONS), ("spark-delta-s3", days("changed")), ("spark-iceberg-folder", bucket("note", 2))],
    ids=str,
    indirect=["lake"],
)
def test_a_table_gets_another_partitioning_and_all_that_is_done_to_it_goes_on(
    lake: Lake, log: HandLog, partition: Partitioning
) -> None:
    before = lake.state(ITEMS)
    old = lake.tables.partitions(SOURCE, ITEMS)
    log.table = replace(log.table, partition=partition)
    with pytest.raises(SchemaChanged, match="lakehouse rebuild"):
        lake.apply(log)
    assert lake.tables.partitioning(SOURCE, log.table) == ITEMS.partition
    rebuilt(lake, log)
    lake.check(log, EXPECTED)
    assert lake.marker(log.table) == before.current.marker
    assert lake.tables.partitioning(SOURCE, log.table) == partition
    assert lake.tables.partitions(SOURCE, log.table, version=before.current.version) == old
    assert sorted_rows(lake.rows(log.table, version=before.current.version)) == sorted_rows(EXPECTED)
    first = lake.tables.history(SOURCE, log.table)[0]
    assert len(lake.rows(log.table, version=first.version)) == 6
    assert lake.tables.changed_partitions(SOURCE, log.table, first.marker.sequence) is None
    with pytest.raises(WrongUse, match="from before a rebuild"):
        lake.tables.rollback(SOURCE, log.table, before.current.version)
    at = lake.marker(log.table).sequence
    log.write("upsert", [item(2, 20, note="later"), item(7, 8)])
    lake.apply(log)
    lake.check(log, [*EXPECTED[:2], item(2, 20, note="later"), *EXPECTED[3:], item(7, 8)])
    changed = lake.tables.changed_partitions(SOURCE, log.table, at)
    assert changed is not None
    assert set(changed) & set(lake.tables.partitions(SOURCE, log.table))
    if at != before.current.marker.sequence:
        return
    lake.tables.compact(SOURCE, log.table, list(lake.tables.partitions(SOURCE, log.table)))
    assert len(lake.rows(log.table)) == 6


@WHOEVER_FOLDS
def test_a_table_goes_back_to_the_partitioning_that_it_had(lake: Lake, log: HandLog) -> None:
    for partition in (days("changed"), ITEMS.partition, days("changed")):
        log.table = replace(log.table, partition=partition)
        rebuilt(lake, log)
        lake.check(log, EXPECTED)
        assert lake.tables.partitioning(SOURCE, log.table) == partition


def test_an_entry_that_begins_the_table_anew_gives_columns_any_type(lake: Lake, log: HandLog) -> None:
    before = lake.state(ITEMS).current
    fields = {"id": "string", "changed": "timestamp", "price": "int32", "extra": "json"}
    rows = [{"id": row["id"], "changed": row["changed"], "price": 9, "extra": "{}"} for row in EXPECTED]
    rows = [{**row, "id": str(row["id"])} for row in rows]
    land_anew(log, fields, rows)
    lake.apply(log)
    lake.check(log, rows)
    assert lake.state(ITEMS).schema.names == list(fields)
    assert sorted_rows(lake.rows(ITEMS, version=before.version)) == sorted_rows(EXPECTED)
    assert lake.tables.partitions(SOURCE, ITEMS, version=before.version).keys() == {"id_bucket=0", "id_bucket=1"}
    log.write("upsert", [{**rows[0], "changed": day(21), "price": 7}])
    lake.apply(log)
    lake.check(log, [{**rows[0], "changed": day(21), "price": 7}, *rows[1:]])
    rebuilt(lake, log)
    lake.check(log, [{**rows[0], "changed": day(21), "price": 7}, *rows[1:]])


@WHOEVER_FOLDS
def test_who_goes_back_to_before_other_types_comes_to_them_again(lake: Lake, log: HandLog) -> None:
    before = lake.state(ITEMS).current
    rows = [{**row, "price": int(row["price"] * 100)} for row in EXPECTED]
    land_anew(log, {**FIELDS, "price": "int64"}, rows)
    lake.apply(log)
    lake.tables.rollback(SOURCE, ITEMS, before.version)
    lake.check(log, EXPECTED, sequence=before.marker.sequence)
    lake.apply(log)
    lake.check(log, rows)


@WHOEVER_FOLDS
def test_a_fold_that_is_not_what_was_expected_changes_nothing_and_leaves_no_file(lake: Lake, log: HandLog) -> None:
    before, files = lake.state(ITEMS).current, lake.files(ITEMS)
    with pytest.raises(DamagedData, match="as another reading of the log has it"):
        rebuilt(lake, log, RowChecksum(5, 1))
    assert lake.state(ITEMS).current == before
    assert lake.files(ITEMS) == files
    marker = before.marker
    rebuilt(lake, log, RowChecksum(marker.rows, int(marker.checksum, 16)))
    lake.check(log, EXPECTED)


@WHOEVER_FOLDS
def test_a_rebuild_that_another_commit_overtakes_loses(lake: Lake, log: HandLog) -> None:
    log.write("upsert", [item(8, 8)])
    table, log.table = log.table, replace(log.table, partition=days("changed"))

    def other() -> None:
        lake.tables.apply(SOURCE, table, log.entries, log.folder)

    with pytest.raises(CommitConflict):
        overtaken(other, lambda: rebuilt(lake, log))
    assert lake.tables.partitioning(SOURCE, table) == ITEMS.partition
    rebuilt(lake, log)
    lake.check(log, [*EXPECTED, item(8, 8)])
    assert lake.tables.partitioning(SOURCE, table) == days("changed")


@WHOEVER_FOLDS
def test_a_run_that_a_rebuild_overtakes_loses_and_finds_what_is_left(lake: Lake, log: HandLog) -> None:
    log.write("upsert", [item(8, 8)])
    anew = replace(log.table, partition=days("changed"))
    earlier = log.entries[:-1]
    with pytest.raises(CommitConflict):
        overtaken(lambda: lake.tables.rebuild(SOURCE, anew, earlier, log.folder), lambda: lake.apply(log))
    log.table = anew
    lake.check(log, EXPECTED, sequence=3)
    lake.apply(log)
    lake.check(log, [*EXPECTED, item(8, 8)])


@WHOEVER_FOLDS
def test_a_rebuild_whose_answer_was_lost_knows_that_it_went_through(lake: Lake, log: HandLog) -> None:
    log.table = replace(log.table, partition=days("changed"))
    faults.arm("lake.commit:after:error")
    rebuilt(lake, log)
    lake.check(log, EXPECTED)


def read_by_spark(settings: Settings, version: int, told: Path) -> None:
    """What another reader finds in an Iceberg table of the lake now, and in one of its versions."""
    from lakehouse.tables.spark.session import open_session

    session, name = open_session(settings), f"`{settings.catalog.name}`.{SOURCE}.items"
    texts = ["", f" version as of {version}"]
    found = [session.sql(f"select id, note from {name}{text} order by changed, id").collect() for text in texts]
    told.write_text(json.dumps([[[row.id, row.note] for row in rows] for rows in found]))


def test_others_read_an_iceberg_table_whose_partition_column_got_another_type(
    s3_store: StoreSettings, postgres_database: str, tmp_path: Path
) -> None:
    lake = make_lake(tmp_path / "home", s3_store, postgres_database, spark={"shuffle_partitions": 2})
    log = lake.log(ITEMS, FIELDS, ("id", "changed"))
    log.write("upsert", EXPECTED)
    lake.apply(log)
    before = lake.state(ITEMS).current.version
    land_anew(log, {**FIELDS, "id": "string"}, [{**row, "id": f"n{row['id']}"} for row in EXPECTED])
    lake.apply(log)
    log.write("upsert", [{**item(7, 30), "id": "n7"}])
    lake.apply(log)
    reader = process(read_by_spark, lake.settings, before, tmp_path / "told")
    processes_done([reader])
    now, then = json.loads((tmp_path / "told").read_text())
    assert sorted(then) == sorted([row["id"], row["note"]] for row in EXPECTED)
    assert sorted(now) == sorted([*([f"n{row['id']}", row["note"]] for row in EXPECTED), ["n7", "7"]])


def test_others_read_a_delta_table_that_was_rebuilt_and_its_versions(delta_lake: Lake) -> None:
    log = delta_lake.log(ITEMS, FIELDS, ("id", "changed"))
    log.write("upsert", EXPECTED)
    delta_lake.apply(log)
    log.table = replace(log.table, partition=days("changed"))
    land_anew(log, {**FIELDS, "price": "int32"}, [{**row, "price": 9} for row in EXPECTED])
    rebuilt(delta_lake, log)
    for version, prices, column in ((0, {Decimal("9.50")}, "id_bucket"), (1, {9}, "changed_day")):
        delta = open_table(delta_lake.tables.root(SOURCE, log.table), delta_lake.settings.store, version)
        assert delta is not None
        assert delta.metadata().partition_columns == [column]
        rows = delta.to_pyarrow_table().to_pylist()
        assert {row["id"] for row in rows} == {row["id"] for row in EXPECTED}
        assert {row["price"] for row in rows} == prices


@WHOEVER_FOLDS
def test_a_scan_that_began_before_a_rebuild_goes_on(lake: Lake, log: HandLog) -> None:
    scan = lake.tables.scan(SOURCE, ITEMS)
    rows = next(scan).to_pylist()
    log.table = replace(log.table, partition=days("changed"))
    land_anew(log, {**FIELDS, "price": "int32"}, [{**row, "price": 9} for row in EXPECTED])
    rebuilt(lake, log)
    rows += [row for batch in scan for row in batch.to_pylist()]
    assert sorted_rows(rows) == sorted_rows(EXPECTED)
