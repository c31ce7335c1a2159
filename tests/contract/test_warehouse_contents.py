"""What tells the content of published partitions, and their rows as a verification reads them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakehouse.pipeline.verify_copies import plain_schema
from lakehouse.rows.checksum import partition_checksums, total
from lakehouse.rows.digest import row_digests
from lakehouse.spec import Partitioning, RowChecksum, Table, days, identity, unpartitioned
from lakehouse.warehouse import Warehouse
from tests.contract.test_warehouse import (  # noqa: F401
    ALL_TYPES,
    EVENTS,
    TYPED_ROWS,
    Lake,
    clickhouse_warehouse,
    event,
    events,
    publish,
    warehouse,
    warehouse_settings,
)


def contents(warehouse: Warehouse, lake: Lake) -> dict[str, str]:  # noqa: F811
    found = warehouse.contents("shop", lake.table)
    assert found is not None
    return found


def checksums(warehouse: Warehouse, lake: Lake, partitions: list[str] | None = None) -> dict[str, RowChecksum]:  # noqa: F811
    """Rows and checksum of each partition, by the warehouse's name of it."""
    found: dict[str, dict[str, RowChecksum]] = {}
    for name, batch in warehouse.scan_by_partition("shop", lake.table, lake.schema, partitions):
        digests = row_digests(batch, plain_schema(batch))
        partition_checksums(batch, digests, lake.table.partition, found.setdefault(name, {}))
    assert all(len(parts) == 1 for parts in found.values())
    return {name: total(parts.values()) for name, parts in found.items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_what_tells_a_partition_s_content_changes_with_it_and_not_without(warehouse: Warehouse) -> None:  # noqa: F811
    lake = Lake(events(days("at")), EVENTS, [event(number, kind=f"kind {number % 2}") for number in (0, 0, 1, 1, 2, 2)])
    publish(warehouse, lake, 1)
    first = contents(warehouse, lake)
    assert set(first) == {"20260130", "20260131", "20260201"}
    lake.rows[0] = event(0, kind="another")
    publish(warehouse, lake, 2, ["at_day=2026-01-30"])
    second = contents(warehouse, lake)
    assert changed(first, second) == {"20260130"}, "the others are clones"
    for statement, partition in (
        ("alter table shop__events update value = 7 where at < '2026-01-31' settings mutations_sync = 2", "20260130"),
        ("alter table shop__events delete where id = 1 settings mutations_sync = 2", "20260131"),
        ("delete from shop__events where id = 2", "20260201"),
        ("insert into shop__events (id, at) values (99, '2026-01-30 01:00:00')", "20260130"),
        ("optimize table shop__events partition 20260130 final", "20260130"),
        ("alter table shop__events drop partition 20260131", "20260131"),
    ):
        before = contents(warehouse, lake)
        warehouse.query(statement)
        assert changed(before, contents(warehouse, lake)) <= {partition}, statement
        assert before != contents(warehouse, lake) or "delete where" not in statement
    before = contents(warehouse, lake)
    warehouse.query("alter table shop__events modify column kind Nullable(String) default 'x'")
    assert changed(before, contents(warehouse, lake)) == set(before), "old parts may give other values now"


def test_nothing_is_told_while_a_mutation_has_not_ended(warehouse: Warehouse) -> None:  # noqa: F811
    lake = Lake(events(days("at")), EVENTS, [event(number) for number in range(3)])
    publish(warehouse, lake, 1)
    warehouse.query("system stop merges shop__events")
    warehouse.query("alter table shop__events update value = 7 where true settings mutations_sync = 0")
    assert warehouse.contents("shop", lake.table) is None
    warehouse.query("system start merges shop__events")


@pytest.mark.parametrize("partition", [days("at"), identity("kind"), unpartitioned()])
def test_rows_come_with_their_partition_and_add_up_to_the_marker(
    warehouse: Warehouse,  # noqa: F811
    partition: Partitioning,
) -> None:
    kinds = ["Brno", "São Paulo", "", None]
    rows = [event(number % 4, id=number, kind=kinds[number % 4]) for number in range(400)]
    lake = Lake(events(partition), EVENTS, rows)
    publish(warehouse, lake, 1)
    found = checksums(warehouse, lake)
    assert (total(found.values()).rows, total(found.values()).hex) == (400, lake.marker(1).checksum)
    assert set(found) == set(contents(warehouse, lake))
    one = min(found)
    assert checksums(warehouse, lake, [one]) == {one: found[one]}


def test_rows_of_every_type_have_the_digests_that_they_went_with(warehouse: Warehouse) -> None:  # noqa: F811
    lake = Lake(Table("typed", mode="snapshot", key=("key",)), ALL_TYPES, TYPED_ROWS * 40)
    publish(warehouse, lake, 1)
    assert [part.hex for part in checksums(warehouse, lake).values()] == [lake.marker(1).checksum]


def test_an_empty_table_has_no_contents(warehouse: Warehouse) -> None:  # noqa: F811
    lake = Lake(events(days("at")), EVENTS, [])
    publish(warehouse, lake, 1)
    assert contents(warehouse, lake) == {}
    assert checksums(warehouse, lake) == {}


def test_rows_are_added_to_a_table_of_the_platform_s_own(warehouse: Warehouse) -> None:  # noqa: F811
    schema = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("what", pa.string())])
    rows = pa.table({"n": [1, 2], "what": ["a", None]}, schema=schema)
    view = "create view if not exists {database}.sums as select sum(n) as n from {database}.notes"
    for _ in range(2):
        warehouse.append_rows("notes", rows, ["n"], view)
    assert sorted(warehouse.query("select n from notes")["n"].to_pylist()) == [1, 1, 2, 2]
    assert warehouse.query("select n from sums")["n"].to_pylist() == [6]
