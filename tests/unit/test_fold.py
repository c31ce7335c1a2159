"""The fold of a log, held against a plain model of its rules, and the law that a fold can be continued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.errors import DamagedData
from lakehouse.rows.duck import connect_duckdb
from lakehouse.rows.fold import POSITION, FoldEntry, fold_sql, window_sql
from lakehouse.spec import BatchKind, Table, Window, days
from lakehouse.spec.types import arrow_field

Row = dict[str, Any]
FEW = settings(max_examples=60, deadline=None)
START = datetime(2026, 1, 31, tzinfo=UTC)
SCHEMA = pa.schema(
    [
        arrow_field("id", "int64"),
        arrow_field("part", "string"),
        arrow_field("at", "timestamp"),
        arrow_field("value", "int64"),
        arrow_field("added", "string"),
    ]
)
EVENTS = Table("events", "append", ("id",), event_time="at", partition=days("at"))
ITEMS = Table("items", "upsert", ("id", "part"), cursor="at")
PLACES = Table("places", "snapshot", ("id",))
TIMES = st.integers(0, 71).map(lambda hours: START + timedelta(hours=hours))
KEYS = {"id": st.none() | st.integers(1, 2), "part": st.none() | st.just("a")}
REST = {"value": st.none() | st.integers(0, 9), "added": st.none() | st.sampled_from(["x", "y"])}


@dataclass(frozen=True)
class Entry:
    """One entry of a log in plain Python. columns: those that the batch came with."""

    kind: BatchKind
    window: Window | None
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = tuple(SCHEMA.names)


def holds(window: Window, moment: datetime | None) -> bool:
    if moment is None:
        return window.low is None and window.high is None
    return (window.low is None or moment >= window.low) and (window.high is None or moment < window.high)


def model_replace(entries: Sequence[Entry]) -> list[Row]:
    rows: list[Row] = []
    for entry in entries:
        assert entry.window is not None
        rows = [row for row in rows if not holds(entry.window, row["at"])]
        rows += entry.rows
    return rows


def model_upsert(entries: Sequence[Entry]) -> list[Row]:
    alive: dict[tuple[Any, ...], list[Row]] = {}
    for entry in entries:
        for row in entry.rows:
            key = tuple(row[name] for name in ITEMS.key)
            if entry.kind == "delete":
                alive.pop(key, None)
            else:
                alive.setdefault(key, []).append(row)
    before = START - timedelta(days=999)
    newest = []
    for versions in alive.values():
        best = versions[0]
        for version in versions[1:]:
            if (version["at"] or before) >= (best["at"] or before):
                best = version
        newest.append(best)
    return newest


def model(table: Table, entries: Sequence[Entry]) -> list[Row]:
    begins = max((index for index, entry in enumerate(entries) if entry.kind == "snapshot"), default=None)
    if begins is not None and table.mode != "snapshot":
        kind: BatchKind = "upsert" if table.mode == "upsert" else "replace"
        entries = [replace(entries[begins], kind=kind, window=Window(None, None)), *entries[begins + 1 :]]
    if table.mode == "append":
        return model_replace(entries)
    if table.mode == "upsert":
        return model_upsert(entries)
    return list(entries[-1].rows) if entries else []


def rows_with(*, at: st.SearchStrategy[Any], columns: Sequence[str], max_size: int = 6) -> st.SearchStrategy[tuple[Row, ...]]:
    present = {**KEYS, "at": at, **REST}
    row = st.fixed_dictionaries({name: present[name] if name in columns else st.none() for name in SCHEMA.names})
    return st.lists(row, max_size=max_size).map(tuple)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    low, high = sorted((draw(TIMES), draw(TIMES)))
    plain = draw(st.sampled_from([Window.of_day((START + timedelta(days=n)).date()) for n in range(3)]))
    return draw(st.sampled_from([plain, plain, Window(low, high), Window(None, high), Window(low, None), Window(None, None)]))


@st.composite
def replacements(draw: st.DrawFn) -> Entry:
    window = draw(windows())
    columns = draw(st.sampled_from([tuple(SCHEMA.names), ("id", "part", "at", "value")]))
    rows = draw(rows_with(at=TIMES, columns=columns))
    return Entry("replace", window, tuple(row for row in rows if holds(window, row["at"])), columns)


@st.composite
def changes(draw: st.DrawFn) -> Entry:
    kind: BatchKind = draw(st.sampled_from(["upsert", "upsert", "delete"]))
    columns = ITEMS.key if kind == "delete" else draw(st.sampled_from([tuple(SCHEMA.names), ("id", "part", "at", "value")]))
    return Entry(kind, None, draw(rows_with(at=st.none() | TIMES, columns=columns)), columns)


@st.composite
def snapshots(draw: st.DrawFn) -> Entry:
    columns = draw(st.sampled_from([tuple(SCHEMA.names), ("id", "at")]))
    return Entry("snapshot", None, draw(rows_with(at=TIMES, columns=columns)), columns)


LOGS = st.one_of(
    st.tuples(st.just(EVENTS), st.lists(replacements(), max_size=6)),
    st.tuples(st.just(ITEMS), st.lists(changes(), max_size=6)),
    st.tuples(st.just(EVENTS), st.lists(replacements() | snapshots(), max_size=6)),
    st.tuples(st.just(ITEMS), st.lists(changes() | snapshots(), max_size=6)),
    st.tuples(st.just(PLACES), st.lists(snapshots(), max_size=3)),
)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with connect_duckdb() as connection:
        yield connection


def registered(connection: duckdb.DuckDBPyConnection, name: str, rows: Sequence[Row], columns: Sequence[str]) -> str:
    schema = pa.schema([SCHEMA.field(column) for column in columns])
    table = pa.Table.from_pylist([{column: row[column] for column in columns} for row in rows], schema=schema)
    connection.register(name, table.append_column(POSITION, pa.array(range(len(rows)), pa.int64())))
    return name


def folded(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    entries: Sequence[Entry],
    *,
    base: Sequence[Row] | None = None,
    first: int = 1,
    backwards: bool = False,
) -> list[Row]:
    parts = [
        FoldEntry(n, entry.kind, entry.window, registered(connection, f"entry_{n}", entry.rows, entry.columns), entry.columns)
        for n, entry in enumerate(entries, first)
    ]
    relation = None if base is None else registered(connection, "base", base, SCHEMA.names)
    sql = fold_sql(table, SCHEMA, relation, parts[::-1] if backwards else parts)
    found = connection.execute(sql)
    assert [column[0] for column in found.description] == SCHEMA.names
    return [dict(zip(SCHEMA.names, row, strict=True)) for row in found.fetchall()]


def counted(rows: Sequence[Row]) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(row[name] for name in SCHEMA.names) for row in rows)


@FEW
@given(LOGS)
def test_a_fold_follows_the_rules(connection: duckdb.DuckDBPyConnection, log: tuple[Table, list[Entry]]) -> None:
    table, entries = log
    assert counted(folded(connection, table, entries)) == counted(model(table, entries))


@FEW
@given(LOGS, st.integers(0, 6))
def test_a_fold_can_be_continued_from_any_point(
    connection: duckdb.DuckDBPyConnection, log: tuple[Table, list[Entry]], cut: int
) -> None:
    table, entries = log
    base = folded(connection, table, entries[:cut])
    rest = folded(connection, table, entries[cut:], base=base, first=cut + 1)
    assert counted(rest) == counted(model(table, entries))


@FEW
@given(LOGS)
def test_entries_may_be_given_in_any_order(connection: duckdb.DuckDBPyConnection, log: tuple[Table, list[Entry]]) -> None:
    table, entries = log
    assert counted(folded(connection, table, entries, backwards=True)) == counted(model(table, entries))


@FEW
@given(LOGS)
def test_a_batch_that_is_landed_twice_changes_nothing(
    connection: duckdb.DuckDBPyConnection, log: tuple[Table, list[Entry]]
) -> None:
    table, entries = log
    assert counted(folded(connection, table, [*entries, *entries[-1:]])) == counted(model(table, entries))


@FEW
@given(st.lists(changes(), max_size=6))
def test_a_key_stands_once_at_most(connection: duckdb.DuckDBPyConnection, entries: list[Entry]) -> None:
    keys = [(row["id"], row["part"]) for row in folded(connection, ITEMS, entries)]
    assert len(keys) == len(set(keys))


def item(value: int, *, hours: int | None = 0, id_: int | None = 1) -> Row:
    at = None if hours is None else START + timedelta(hours=hours)
    return {"id": id_, "part": "a", "at": at, "value": value, "added": None}


def upsert(*rows: Row) -> Entry:
    return Entry("upsert", None, rows)


def delete(*rows: Row) -> Entry:
    return Entry("delete", None, rows, ITEMS.key)


@pytest.mark.parametrize(
    ("entries", "values"),
    [
        pytest.param([upsert(item(1, hours=2), item(2, hours=1))], [1], id="the newest by cursor in one batch"),
        pytest.param([upsert(item(1, hours=1), item(2, hours=1))], [2], id="the last in the batch when the cursors are equal"),
        pytest.param([upsert(item(1, hours=1)), upsert(item(2, hours=1))], [2], id="the last batch when the cursors are equal"),
        pytest.param([upsert(item(1, hours=2)), upsert(item(2, hours=1))], [1], id="an older version that came late loses"),
        pytest.param([upsert(item(1)), upsert(item(2, hours=None))], [1], id="no cursor is older than any"),
        pytest.param([upsert(item(1)), delete(item(0))], [], id="a deleted key is gone"),
        pytest.param([upsert(item(1, hours=9)), delete(item(0)), upsert(item(2, hours=1))], [2], id="inserted again"),
        pytest.param([delete(item(0)), upsert(item(1)), delete(item(0))], [], id="deleted twice"),
        pytest.param([delete(item(0)), upsert(item(1))], [1], id="a delete before any version"),
        pytest.param([upsert(item(1)), delete(item(0, id_=2))], [1], id="a delete of another key"),
        pytest.param([upsert(item(1, id_=None)), delete(item(0, id_=None))], [], id="a null in the key is a value"),
    ],
)
def test_of_one_key_stands(connection: duckdb.DuckDBPyConnection, entries: list[Entry], values: list[int]) -> None:
    assert [row["value"] for row in folded(connection, ITEMS, entries)] == values
    assert [row["value"] for row in model(ITEMS, entries)] == values


def test_an_empty_replacement_empties_its_window_alone(connection: duckdb.DuckDBPyConnection) -> None:
    day = [Window.of_day((START + timedelta(days=n)).date()) for n in range(2)]
    entries = [
        Entry("replace", day[0], (item(1, hours=0), item(2, hours=23))),
        Entry("replace", day[1], (item(3, hours=24),)),
        Entry("replace", day[0], ()),
    ]
    assert [row["value"] for row in folded(connection, EVENTS, entries)] == [3]


def test_a_row_without_an_event_time_is_in_no_window(connection: duckdb.DuckDBPyConnection) -> None:
    base = [item(1, hours=None), item(2, hours=1)]
    entries = [Entry("replace", Window.of_day(START.date()), (item(3),))]
    assert sorted(row["value"] for row in folded(connection, EVENTS, entries, base=base)) == [1, 3]


@pytest.mark.parametrize("table", [EVENTS, ITEMS, PLACES], ids=lambda table: table.mode)
def test_no_entries_leave_what_there_was(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    assert folded(connection, table, []) == []
    assert counted(folded(connection, table, [], base=[item(1), item(2, hours=None)])) == counted([item(1), item(2, hours=None)])


@pytest.mark.parametrize("table", [EVENTS, ITEMS, PLACES], ids=lambda table: table.mode)
def test_an_entry_that_does_not_fit_the_mode_is_refused(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    fitting = {"append": {"replace"}, "upsert": {"upsert", "delete"}, "snapshot": set()}[table.mode]
    for kind in set(get_args(BatchKind)) - fitting - {"snapshot"}:
        with pytest.raises(DamagedData, match=f"entry 1 of table '{table.name}'"):
            folded(connection, table, [Entry(kind, Window(None, None), ())])


@FEW
@given(windows(), TIMES)
def test_a_window_in_sql_is_the_window(connection: duckdb.DuckDBPyConnection, window: Window, moment: datetime) -> None:
    for offset in (timedelta(0), timedelta(microseconds=-1), timedelta(microseconds=1)):
        query = f'select {window_sql("a t", window)} from (select $1::timestamptz as "a t")'
        found = connection.execute(query, [moment + offset]).fetchall()
        assert found == [(holds(window, moment + offset),)]


def test_a_table_may_have_odd_column_names(connection: duckdb.DuckDBPyConnection) -> None:
    table = replace(ITEMS, key=('the "key"',), cursor="select")
    schema = pa.schema([arrow_field('the "key"', "int64"), arrow_field("select", "timestamp")])
    batch = pa.Table.from_pylist([{'the "key"': 1, "select": START}], schema=schema)
    connection.register("odd", batch.append_column(POSITION, pa.array([0], pa.int64())))
    connection.register("odd_keys", batch.select([0]))
    upserted = FoldEntry(1, "upsert", None, "odd", schema.names)
    assert connection.execute(fold_sql(table, schema, None, [upserted])).fetchall() == [(1, START)]
    deleted = FoldEntry(2, "delete", None, "odd_keys", schema.names[:1])
    assert connection.execute(fold_sql(table, schema, None, [upserted, deleted])).fetchall() == []
