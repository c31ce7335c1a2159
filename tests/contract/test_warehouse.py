"""What every warehouse must do. Another one joins by a line in WAREHOUSES and a fixture of its name."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from lakehouse.errors import CommitConflict, DamagedData, LakehouseError, SourceUnavailable
from lakehouse.rows.checksum import checksum_of
from lakehouse.rows.partition import partition_names
from lakehouse.settings import Settings, WarehouseSettings
from lakehouse.spec import Marker, Partitioning, Table, bucket, days, identity, months, unpartitioned
from lakehouse.spec.types import arrow_field
from lakehouse.warehouse import Warehouse, open_warehouse

WAREHOUSES = ["clickhouse"]
NOON = datetime(2026, 1, 30, 12, tzinfo=UTC)


@pytest.fixture(params=WAREHOUSES)
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    """An open warehouse with an empty database."""
    opened: Warehouse = request.getfixturevalue(f"{request.param}_warehouse")
    return opened


@pytest.fixture
def clickhouse_warehouse(warehouse_settings: Settings) -> Warehouse:
    """ClickHouse, through the embedded server."""
    return open_warehouse(warehouse_settings)


@pytest.fixture
def warehouse_settings(postgres: Settings, clickhouse_database: WarehouseSettings) -> Settings:
    """Settings that lead to a fresh database and to the Postgres that holds the publishers' locks."""
    return postgres.model_copy(update={"warehouse": clickhouse_database})


class Lake:
    """A lake table in memory: rows by partition, as the lake's scan gives them."""

    def __init__(self, table: Table, schema: pa.Schema, rows: list[dict[str, object]]) -> None:
        self.table = table
        self.schema = schema
        self.rows = rows
        self.scans: list[Sequence[str] | None] = []

    def scan(self, names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        """The rows of the named partitions."""
        self.scans.append(names)
        batch = pa.RecordBatch.from_pylist(self.rows, schema=self.schema)
        if names is not None:
            own = partition_names(batch, self.table.partition).to_pylist()
            batch = batch.take(pa.array([index for index, name in enumerate(own) if name in names], pa.int64()))
        yield from pa.Table.from_batches([batch]).to_batches(max_chunksize=2)

    def marker(self, sequence: int) -> Marker:
        """The marker that the lake would carry at that sequence."""
        batch = pa.RecordBatch.from_pylist(self.rows, schema=self.schema)
        checksum = checksum_of([batch], self.schema)
        return Marker(sequence, checksum.rows, checksum.hex)


EVENTS = pa.schema(
    [
        arrow_field("id", "int64", nullable=False, doc="Identifies the event."),
        arrow_field("at", "timestamp", doc="When it happened."),
        arrow_field("day", "date"),
        arrow_field("kind", "string"),
        arrow_field("good", "bool"),
        arrow_field("value", "int32"),
    ]
)


def event(number: int, **changes: object) -> dict[str, object]:
    """A row of EVENTS; `number` moves it by days."""
    at = NOON + timedelta(days=number)
    row: dict[str, object] = {"id": number, "at": at, "day": at.date(), "kind": f"kind {number % 3}", "good": number % 2 == 0}
    return {**row, "value": number, **changes}


def events(partition: Partitioning, mode: str = "snapshot") -> Table:
    """A declaration over EVENTS."""
    return Table("events", mode="snapshot", key=("id",), event_time="at", partition=partition)


def publish(warehouse: Warehouse, lake: Lake, sequence: int, partitions: Sequence[str] | None = None) -> None:
    """Publish what the lake holds."""
    marker = lake.marker(sequence)
    published = warehouse.publish(
        "shop", lake.table, lake.schema, marker=marker, version=sequence * 10, partitions=partitions, scan=lake.scan
    )
    assert (published.marker, published.version, published.rows) == (marker, sequence * 10, marker.rows)


def published_rows(warehouse: Warehouse, lake: Lake) -> list[dict[str, object]]:
    """What the warehouse holds, in the order of the key."""
    table = pa.Table.from_batches(warehouse.scan("shop", lake.table, lake.schema), schema=lake.schema)
    return sorted(table.to_pylist(), key=lambda row: str(row[lake.table.key[0]]).rjust(20))


def in_order(lake: Lake) -> list[dict[str, object]]:
    """What it should hold."""
    return sorted(lake.rows, key=lambda row: str(row[lake.table.key[0]]).rjust(20))


def test_a_table_that_was_never_published_has_no_state(warehouse: Warehouse) -> None:
    assert warehouse.state("shop", events(unpartitioned())) is None


def test_a_first_publication_shows_all_rows_and_the_marker(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(number) for number in range(5)])
    publish(warehouse, lake, 3)
    assert published_rows(warehouse, lake) == in_order(lake)
    state = warehouse.state("shop", lake.table)
    assert state is not None
    assert (state.marker, state.version, state.rows) == (lake.marker(3), 30, 5)
    assert state.bytes > 0


def test_an_empty_table_can_be_published(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [])
    publish(warehouse, lake, 1)
    assert published_rows(warehouse, lake) == []


NESTED = (
    "struct<n:int64,x:float64,s:float32,d:decimal(38,9),t:timestamp,day:date,b:binary,text:string,ok:bool,tags:list<string>,"
    "in:struct<a:int32>>"
)
NOTHING_IN_IT = dict.fromkeys(["n", "x", "s", "d", "t", "day", "b", "text", "ok", "tags", "in"])
ALL_TYPES = pa.schema(
    [
        arrow_field("key", "string", nullable=False),
        arrow_field("bool", "bool"),
        arrow_field("int32", "int32"),
        arrow_field("int64", "int64"),
        arrow_field("float32", "float32"),
        arrow_field("float64", "float64"),
        arrow_field("decimal", "decimal(38,9)"),
        arrow_field("small", "decimal(5,2)"),
        arrow_field("string", "string"),
        arrow_field("json", "json"),
        arrow_field("binary", "binary"),
        arrow_field("date", "date"),
        arrow_field("timestamp", "timestamp"),
        arrow_field("texts", "list<string>"),
        arrow_field("times", "list<timestamp>"),
        arrow_field("prices", "list<decimal(10,2)>"),
        arrow_field("matrix", "list<list<int64>>"),
        arrow_field("object", NESTED),
        arrow_field("objects", "list<struct<a:int64,b:list<string>>>"),
        arrow_field("required", "int32", nullable=False),
    ]
)
TYPED_ROWS: list[dict[str, object]] = [
    {
        "key": "full", "bool": True, "int32": -(2**31), "int64": 2**63 - 1, "float32": 0.5, "float64": 0.1,
        "decimal": Decimal("99999999999999999999999999999.999999999"), "small": Decimal("-999.99"),
        "string": "naïve 🦆 'quoted' \\ \t\n\0 end", "json": '{"a": [1, 2.50, null], "b": "ü"}', "binary": b"\xff\x00\xfe",
        "date": date(2026, 2, 28), "timestamp": datetime(2026, 1, 31, 23, 59, 59, 999999, UTC),
        "texts": ["a", "", None], "times": [datetime(1969, 12, 31, 23, 59, 59, 1, UTC)], "prices": [Decimal("0.10"), None],
        "matrix": [[1, None], []],
        "object": {
            "n": 2**63 - 1, "x": math.inf, "s": 0.25, "d": Decimal("12345678901234567890.123456789"),
            "t": datetime(2026, 1, 31, 23, 59, 59, 999999, UTC), "day": date(1, 1, 1), "b": b"\xff\x00",
            "text": "naïve 🦆 'quoted' \\ \t\n\0", "ok": True, "tags": ["a", None, ""], "in": {"a": None},
        },
        "objects": [{"a": 1, "b": []}, None, {"a": None, "b": None}], "required": 0,
    },
    {
        "key": "empty", "bool": False, "int32": 0, "int64": -(2**63), "float32": -0.0, "float64": 1e300,
        "decimal": Decimal("0.000000001"), "small": Decimal("0.00"), "string": "", "json": "{}", "binary": b"",
        "date": date(1931, 3, 4), "timestamp": datetime(1931, 3, 4, 5, 6, 7, 8, UTC),
        "texts": [], "times": [], "prices": [], "matrix": [],
        "object": {**NOTHING_IN_IT, "x": -0.0, "t": datetime(1, 1, 1, tzinfo=UTC)}, "objects": [], "required": 1,
    },
    {"key": "null", **dict.fromkeys(ALL_TYPES.names[1:-1]), "required": -1},
]  # fmt: skip


def test_every_type_comes_back_as_it_went(warehouse: Warehouse) -> None:
    lake = Lake(Table("typed", mode="snapshot", key=("key",)), ALL_TYPES, TYPED_ROWS)
    publish(warehouse, lake, 1)
    assert published_rows(warehouse, lake) == in_order(lake)
    batches = list(warehouse.scan("shop", lake.table, lake.schema))
    assert {batch.schema for batch in batches} == {ALL_TYPES}
    copied = checksum_of(batches, ALL_TYPES)
    assert Marker(1, copied.rows, copied.hex) == lake.marker(1)


def test_a_null_in_a_key_is_refused_and_not_replaced(warehouse: Warehouse) -> None:
    schema = pa.schema([arrow_field("id", "int64"), arrow_field("value", "int64")])
    lake = Lake(Table("keys", mode="snapshot", key=("id",)), schema, [{"id": 0, "value": 1}, {"id": None, "value": 2}])
    with pytest.raises(LakehouseError, match="NULL"):
        publish(warehouse, lake, 1)
    assert warehouse.state("shop", lake.table) is None


@pytest.mark.parametrize(
    ("partition", "name"),
    [
        (days("at"), "at_day=2026-02-01"),
        (months("at"), "at_month=2026-02"),
        (bucket("id", 4), "id_bucket=3"),
        (bucket("kind", 4), "kind_bucket=1"),
        (identity("kind"), "kind=kind 1"),
        (identity("value"), "value=-2"),
        (identity("day"), "day=2026-02-01"),
        (identity("good"), "good=true"),
        (unpartitioned(), "all"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.transform,
)
def test_only_named_partitions_are_read_and_replaced(warehouse: Warehouse, partition: Partitioning, name: str) -> None:
    lake = Lake(events(partition), EVENTS, [event(number) for number in range(-3, 40)])
    publish(warehouse, lake, 1)
    batch = pa.RecordBatch.from_pylist(lake.rows, schema=EVENTS)
    own = partition_names(batch, partition).to_pylist()
    assert name in own
    untouched = [row for row, partition_name in zip(lake.rows, own, strict=True) if partition_name != name]
    changed = [row for row, partition_name in zip(lake.rows, own, strict=True) if partition_name == name]
    change: dict[str, object] = {"kind": "changed"} if partition.column == "value" else {"value": -1}
    lake.rows = [*untouched, *({**row, **change} for row in changed[1:])]
    lake.scans.clear()
    publish(warehouse, lake, 2, [name])
    assert lake.scans == [[name]]
    assert published_rows(warehouse, lake) == in_order(lake)


@pytest.mark.parametrize(
    ("partition", "column"),
    [
        (days("at"), "at"),
        (months("at"), "at"),
        (bucket("value", 4), "value"),
        (identity("day"), "day"),
        (identity("kind"), "kind"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.transform,
)
def test_the_null_partition_is_replaced_like_any_other(warehouse: Warehouse, partition: Partitioning, column: str) -> None:
    without = {column: None}
    lake = Lake(events(partition), EVENTS, [event(0), event(1), event(2, **without), event(3, **without)])
    publish(warehouse, lake, 1)
    lake.rows = [event(0), event(1), event(2, **without, good=None)]
    name = partition_names(pa.RecordBatch.from_pylist(lake.rows, schema=EVENTS), partition).to_pylist()[-1]
    assert name.endswith("=null")
    publish(warehouse, lake, 2, [name])
    assert published_rows(warehouse, lake) == in_order(lake)


def test_the_text_null_is_not_taken_for_a_null(warehouse: Warehouse) -> None:
    lake = Lake(events(identity("kind")), EVENTS, [event(0, kind="null"), event(1, kind=None), event(2)])
    publish(warehouse, lake, 1)
    lake.rows = [event(0, kind="null", value=7), event(1, kind=None, value=8), event(2)]
    publish(warehouse, lake, 2, ["kind=null"])
    assert published_rows(warehouse, lake) == in_order(lake)


def test_a_named_partition_without_rows_is_dropped(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0), event(1)])
    publish(warehouse, lake, 1)
    lake.rows = [event(0)]
    publish(warehouse, lake, 2, ["at_day=2026-01-31", "at_day=2026-12-31"])
    assert published_rows(warehouse, lake) == [event(0)]


def test_a_new_partition_appears(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0)])
    publish(warehouse, lake, 1)
    lake.rows.append(event(5))
    publish(warehouse, lake, 2, ["at_day=2026-02-04"])
    assert published_rows(warehouse, lake) == in_order(lake)


def test_a_timestamp_of_another_age_keeps_its_own_partition(warehouse: Warehouse) -> None:
    old, older = event(0, at=datetime(1850, 1, 1, tzinfo=UTC)), event(1, at=datetime(1849, 1, 1, tzinfo=UTC))
    lake = Lake(events(days("at")), EVENTS, [old, older])
    publish(warehouse, lake, 1)
    lake.rows = [{**old, "value": 5}, older]
    publish(warehouse, lake, 2, ["at_day=1850-01-01"])
    assert published_rows(warehouse, lake) == in_order(lake)


def test_a_version_that_changed_no_partition_only_moves_the_marker(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0)])
    publish(warehouse, lake, 1)
    lake.scans.clear()
    publish(warehouse, lake, 2, [])
    assert lake.scans == []
    assert published_rows(warehouse, lake) == [event(0)]


def test_publishing_the_same_version_again_reads_nothing(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0)])
    publish(warehouse, lake, 1)
    lake.scans.clear()
    publish(warehouse, lake, 1)
    assert lake.scans == []


def test_a_new_column_is_added_without_copying_old_partitions(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0), event(1)])
    publish(warehouse, lake, 1)
    lake.schema = EVENTS.append(arrow_field("note", "string")).append(arrow_field("tags", "list<string>"))
    lake.rows = [event(0, note=None, tags=None), event(1, note="new", tags=["a"])]
    lake.scans.clear()
    publish(warehouse, lake, 2, ["at_day=2026-01-31"])
    assert lake.scans == [["at_day=2026-01-31"]]
    assert published_rows(warehouse, lake) == in_order(lake)


@pytest.mark.parametrize(
    "schema",
    [
        EVENTS.set(5, arrow_field("value", "int64")),
        EVENTS.remove(5),
        EVENTS.append(arrow_field("required", "int64", nullable=False)),
    ],
    ids=["a wider type", "a column less", "a required column"],
)
def test_another_change_of_the_schema_copies_the_whole_table(warehouse: Warehouse, schema: pa.Schema) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0), event(1)])
    publish(warehouse, lake, 1)
    lake.schema = schema
    lake.rows = [{name: row.get(name, 9) for name in schema.names} for row in lake.rows]
    publish(warehouse, lake, 2, ["at_day=2026-01-31"])
    assert lake.scans[-1] is None
    assert published_rows(warehouse, lake) == in_order(lake)


def test_another_partitioning_copies_the_whole_table(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0), event(1)])
    publish(warehouse, lake, 1)
    lake.table = events(months("at"))
    publish(warehouse, lake, 2, ["at_month=2026-01"])
    assert lake.scans[-1] is None
    assert published_rows(warehouse, lake) == in_order(lake)


def test_rows_that_are_not_as_many_as_the_marker_says_are_refused(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0)])
    publish(warehouse, lake, 1)
    with pytest.raises(DamagedData, match="1 rows instead of 2"):
        warehouse.publish(
            "shop", lake.table, EVENTS, marker=Marker(2, 2, "00"), version=20, partitions=["at_day=2026-01-30"], scan=lake.scan
        )
    state = warehouse.state("shop", lake.table)
    assert state is not None
    assert state.marker == lake.marker(1)
    assert published_rows(warehouse, lake) == [event(0)]


def test_a_copy_that_was_damaged_is_made_anew(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0), event(1)])
    publish(warehouse, lake, 1)
    warehouse.query("alter table shop__events drop partition 20260130")
    lake.rows.append(event(2))
    publish(warehouse, lake, 2, ["at_day=2026-02-01"])
    assert lake.scans[-1] is None
    assert published_rows(warehouse, lake) == in_order(lake)


def test_a_lake_that_goes_away_in_the_middle_leaves_the_old_table(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(number) for number in range(10)])
    publish(warehouse, lake, 1)

    def broken(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        yield next(lake.scan(names))
        raise SourceUnavailable("reading the lake", remedy="Try again.")

    with pytest.raises(SourceUnavailable, match="reading the lake"):
        warehouse.publish("shop", lake.table, EVENTS, marker=Marker(2, 10, ""), version=20, partitions=None, scan=broken)
    assert published_rows(warehouse, lake) == in_order(lake)
    publish(warehouse, lake, 2)
    assert published_rows(warehouse, lake) == in_order(lake)


def test_partitions_compared_with_an_older_publication_are_refused(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0)])
    publish(warehouse, lake, 1)
    seen = warehouse.state("shop", lake.table)
    publish(warehouse, lake, 2)
    with pytest.raises(CommitConflict, match="another publisher"):
        warehouse.publish("shop", lake.table, EVENTS, marker=lake.marker(3), version=30, partitions=[], scan=lake.scan, base=seen)


def test_a_lake_that_was_rolled_back_takes_its_publication_with_it(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(0)])
    publish(warehouse, lake, 1)
    lake.rows = [event(0), event(1)]
    publish(warehouse, lake, 2, ["at_day=2026-01-31"])
    lake.rows = [event(0)]
    publish(warehouse, lake, 1, ["at_day=2026-01-31"])
    assert published_rows(warehouse, lake) == [event(0)]


def test_a_reader_never_sees_a_hole_a_mixture_or_a_double(warehouse: Warehouse) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(number % 4, id=number, value=0) for number in range(400)])
    publish(warehouse, lake, 1)
    names = sorted(set(partition_names(pa.RecordBatch.from_pylist(lake.rows, schema=EVENTS), lake.table.partition).to_pylist()))
    stop = threading.Event()
    seen: set[tuple[int, int, int]] = set()

    def read() -> None:
        while not stop.is_set():
            row = warehouse.query("select count() c, min(value) a, max(value) b from shop__events").to_pylist()[0]
            seen.add((row["c"], row["a"], row["b"]))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for sequence in range(2, 12):
        lake.rows = [{**row, "value": sequence} for row in lake.rows]
        publish(warehouse, lake, sequence, names if sequence % 2 else None)
    stop.set()
    for reader in readers:
        reader.join()
    assert {count for count, _, _ in seen} == {400}
    assert all(low == high for _, low, high in seen)
    assert len(seen) > 1


def test_publishers_at_the_same_time_take_turns(warehouse: Warehouse, warehouse_settings: Settings) -> None:
    lake = Lake(events(days("at")), EVENTS, [event(number) for number in range(50)])
    outcomes: list[str] = []

    def one(sequence: int) -> None:
        own = open_warehouse(warehouse_settings)
        copy = Lake(lake.table, EVENTS, [{**row, "value": sequence} for row in lake.rows])
        try:
            publish(own, copy, sequence)
            outcomes.append("published")
        except CommitConflict:
            outcomes.append("conflict")

    publishers = [threading.Thread(target=one, args=(sequence,)) for sequence in range(1, 5)]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    assert len(outcomes) == 4
    assert "published" in outcomes
    state = warehouse.state("shop", lake.table)
    assert state is not None
    rows = published_rows(warehouse, lake)
    assert {row["value"] for row in rows} == {state.marker.sequence}
    assert len(rows) == 50


def test_dropping_removes_the_table_and_may_be_repeated(warehouse: Warehouse) -> None:
    lake = Lake(events(unpartitioned()), EVENTS, [event(0)])
    publish(warehouse, lake, 1)
    warehouse.drop("shop", lake.table)
    assert warehouse.state("shop", lake.table) is None
    warehouse.drop("shop", lake.table)


def test_tables_of_like_names_are_told_apart(warehouse: Warehouse) -> None:
    tables = [replace(events(unpartitioned()), name=name) for name in ("a", "a__b", "a_b", "next__a")]
    lakes = [Lake(table, EVENTS, [event(number)]) for number, table in enumerate(tables)]
    for sequence in (1, 2):
        for lake in lakes:
            publish(warehouse, lake, sequence)
    assert [published_rows(warehouse, lake) for lake in lakes] == [lake.rows for lake in lakes]


def test_what_the_statistics_were_built_from_is_kept(warehouse: Warehouse, warehouse_settings: Settings) -> None:
    assert warehouse.read_statistics_marker() == {}
    warehouse.write_statistics_marker({"shop.events": 3, "shop.o'neill": 4})
    warehouse.write_statistics_marker({"shop.events": 5})
    assert open_warehouse(warehouse_settings).read_statistics_marker() == {"shop.events": 5}


def test_a_query_gives_its_rows_or_the_servers_own_message(warehouse: Warehouse) -> None:
    assert warehouse.query("select 1 as a, 'x' as b;").to_pylist() == [{"a": 1, "b": "x"}]
    with pytest.raises(LakehouseError, match="nothing_here"):
        warehouse.query("select * from nothing_here")
