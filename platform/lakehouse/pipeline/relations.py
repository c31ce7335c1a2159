"""Rows on their way into a table, held against other rows: whether a value is unique in it, and whether another table has it.

Other rows are those that the logs make (`held_rows`). Rows that this reading replaces do not count: of an `append` table those of
its window, of an `upsert` table those with a key that it brings, of a `snapshot` all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Protocol

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import DeclarationError
from lakehouse.pipeline.column_types import landed_types
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.held import held_rows
from lakehouse.raw import duckdb_types
from lakehouse.rows.duck import connect_duckdb, incoming, quoted
from lakehouse.rows.expected import NAMED, Unmet, check_expectations, named_rows
from lakehouse.rows.fold import window_sql
from lakehouse.spec import Expect, LogEntry, Source, Table, Window
from lakehouse.spec.expectations import RELATIONS, Rule
from lakehouse.spec.references import Reference, reference_of, references
from lakehouse.spec.types import arrow_type, declared_type
from lakehouse.tables.evolution import wider_type

LeaveOut = Callable[[pa.RecordBatch, Expect], None]
"""Is given rows that do not pass, as they would have landed, and the expectation that they do not meet."""


class Relations(Protocol):
    """What one reading of rows is held against."""

    @property
    def unmet(self) -> tuple[Unmet, ...]:
        """Expectations that rows which have passed do not meet, once all have."""
        ...

    def passing(self, batches: Iterable[pa.RecordBatch], leave_out: LeaveOut) -> Iterator[pa.RecordBatch]:
        """The same batches, but for rows that are left out."""
        ...


class OtherRows:
    """What the other rows of a table, and those of the tables it refers to, say of the readings of one landing.

    Opened when it is first asked, and to be closed. Not for several threads at once.
    """

    def __init__(self, deployment: Deployment, source: Source, table: Table, schema: pa.Schema) -> None:
        """schema: of the table, as the source has it now."""
        self._deployment = deployment
        self._source = source
        self._table = table
        self._schema = schema
        self.source_keys: Callable[[], Iterator[pa.RecordBatch]] | None = None
        """Gives the keys that the source has, for a table whose deleted rows are found by its key sweep, which comes later."""
        self._open: duckdb.DuckDBPyConnection | None = None
        self._loaded: set[str] = set()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """Where other rows are kept: it spills to the disk."""
        if self._open is None:
            settings = self._deployment.settings
            self._open = connect_duckdb(threads=1, memory_limit_mb=settings.memory_limit_mb, temp_directory=settings.home / "tmp")
        return self._open

    def close(self) -> None:
        """Forget what was loaded."""
        if self._open is not None:
            self._open.close()
            self._open = None
            self._loaded.clear()

    def missing(self, number: int, expected: Expect, values: pa.Array) -> pa.BooleanArray:
        """True for each value that the table which `expected` names has not; never null."""
        there = f"there_{number}"
        if there not in self._loaded:
            self._load_target(expected, there)
            self._loaded.add(there)
        asked = pc.unique(values.drop_null())
        schema = pa.schema([pa.field("value", asked.type)])
        batches = [pa.RecordBatch.from_arrays([asked], schema=schema)]
        query = f"select value from asked where not exists (select 1 from {there} t where t.value = asked.value)"
        with incoming(self.connection, "asked", batches, schema):
            gone = self.connection.execute(query).to_arrow_table().column(0).combine_chunks().cast(asked.type)
        return pc.and_(pc.is_valid(values), pc.is_in(values, gone))

    def forget_deleted(self, held: str) -> None:
        """Take the rows out of `held` that the source has deleted, where the key sweep will find them."""
        if self.source_keys is None:
            return
        keys = pa.schema([self._schema.field(name) for name in self._table.key])
        chosen = (batch.select(list(self._table.key)).cast(keys) for batch in self.source_keys())
        match = " and ".join(f"{held}.{quoted(name)} is not distinct from k.{quoted(name)}" for name in self._table.key)
        with incoming(self.connection, "source_keys", chosen, keys):
            self.connection.execute("create or replace temp table known_keys as from source_keys")
        self.connection.execute(f"delete from {held} where not exists (select 1 from known_keys k where {match})")

    def begin(self, into: str, columns: Sequence[str], entries: Sequence[LogEntry]) -> None:
        """Make the table `into`, empty, of columns of the table: of a type that holds what the source has and what was landed."""
        landed = landed_types(entries)
        now = {name: declared_type(self._schema.field(name)) for name in columns}
        both = pa.schema([(name, arrow_type(wider_type(landed.get(name, type_), type_) or type_)) for name, type_ in now.items()])
        typed = zip(columns, duckdb_types(self.connection, both), strict=True)
        self.connection.execute(
            f"create or replace temp table {into} ({', '.join(f'{quoted(n)} {type_}' for n, type_ in typed)})"
        )

    def load_own(self, into: str, columns: Sequence[str], entries: Sequence[LogEntry]) -> None:
        """Make the table `into` of columns of the table's rows, unless it is there; empty for a `snapshot`: all are replaced."""
        if into in self._loaded:
            return
        self.begin(into, columns, entries)
        if self._table.mode != "snapshot":
            chosen = ", ".join(map(quoted, columns))
            with held_rows(self._deployment, self._source, self._table, columns, entries, self.connection) as rows:
                self.connection.execute(f"insert into {into} select {chosen} from {rows}")
        self._loaded.add(into)

    def _load_target(self, expected: Expect, into: str) -> None:
        target = self._target(expected)
        entries, column = self._log_of(target), quoted(target.column)
        with held_rows(self._deployment, target.source, target.table, [target.column], entries, self.connection) as rows:
            query = f"select distinct {column} as value from {rows} where {column} is not null"
            self.connection.execute(f"create or replace temp table {into} as {query}")

    def _target(self, expected: Expect) -> Reference:
        return reference_of(self._deployment.sources, self._source, self._table, expected)

    def _log_of(self, target: Reference) -> list[LogEntry]:
        return self._deployment.log(target.source, target.table).entries()


def _family(declared: str) -> str:
    return "number" if declared.startswith(("int", "decimal(")) else declared


class Held:
    """One reading held against the rows that the logs make now."""

    def __init__(
        self, others: OtherRows, table: Table, window: Window | None, entries: Sequence[LogEntry], rules: Collection[Rule]
    ) -> None:
        """entries: of the table's own log. rules: those that are looked at; `unique` lets all rows pass."""
        self._others = others
        self._table = table
        self._window = window
        self._entries = entries
        self._references = list(enumerate(references(table))) if "references" in rules else []
        self._unique = list(enumerate(e for e in table.expect if e.rule == "unique")) if "unique" in rules else []
        self._found: dict[Expect, Unmet] = {}
        self._complete = False

    @property
    def unmet(self) -> tuple[Unmet, ...]:
        if self._complete:
            for number, expected in self._unique:
                self._find_repeated(number, expected)
            self._complete = False
        return tuple(unmet for unmet in self._found.values() if unmet.rows)

    def passing(self, batches: Iterable[pa.RecordBatch], leave_out: LeaveOut) -> Iterator[pa.RecordBatch]:
        for number, expected in self._unique:
            self._others.begin(f"reading_{number}", self._columns(expected), self._entries)
        for whole in batches:
            batch = whole
            for number, expected in self._references:
                gone = self._others.missing(number, expected, batch.column(expected.column))
                if not gone.true_count:
                    continue
                if expected.otherwise == "quarantine":
                    leave_out(batch.filter(gone), expected)
                    batch = batch.filter(pc.invert(gone))
                else:
                    self._add(expected, gone.true_count, tuple(named_rows(batch.filter(gone), self._table.key)))
            for number, expected in self._unique:
                self._note(number, expected, batch)
            yield batch
        self._complete = True

    def _columns(self, expected: Expect) -> list[str]:
        time = [self._table.event_time] if self._table.mode == "append" and self._table.event_time else []
        return list(dict.fromkeys([*expected.columns, *self._table.key, *time]))

    def _add(self, expected: Expect, rows: int, named: tuple[str, ...]) -> None:
        known = self._found.get(expected, Unmet(expected, 0, ()))
        self._found[expected] = known + Unmet(expected, rows, named)

    def _note(self, number: int, expected: Expect, batch: pa.RecordBatch) -> None:
        rows = batch.select(self._columns(expected))
        for name in expected.columns:
            rows = rows.filter(pc.is_valid(rows.column(name)))
        connection = self._others.connection
        with incoming(connection, "noted", [rows], rows.schema):
            connection.execute(f"insert into reading_{number} select * from noted")

    def _find_repeated(self, number: int, expected: Expect) -> None:
        """Note the rows of the reading whose values another row has; then take them over, for the next window of this landing."""
        connection, table = self._others.connection, self._table
        held, reading = f"held_{number}", f"reading_{number}"
        self._others.load_own(held, self._columns(expected), self._entries)
        columns, key = (", ".join(map(quoted, names)) for names in (expected.columns, table.key))
        if table.mode == "append" and table.event_time is not None and self._window is not None:
            connection.execute(f"delete from {held} where {window_sql(table.event_time, self._window)}")
        elif table.mode == "upsert":
            match = " and ".join(f"{held}.{quoted(name)} is not distinct from r.{quoted(name)}" for name in table.key)
            connection.execute(f"delete from {held} where exists (select 1 from {reading} r where {match})")
        rows = f"count(distinct ({key}))" if table.mode == "upsert" else "count(*)"
        known = f"select {columns} from {held} semi join {reading} using ({columns})"
        if connection.execute(f"{known} limit 1").fetchall():
            self._others.forget_deleted(held)
        twice = f"select {columns} from {reading} group by all having {rows} > 1 union {known}"
        found = f"from {reading} where ({columns}) in ({twice})"
        (counted,) = connection.execute(f"select count(*) {found}").fetchall()
        if counted[0]:
            first = connection.execute(f"select distinct {key} {found} order by all limit {NAMED}").to_arrow_table()
            named = [text for batch in first.to_batches() for text in named_rows(batch, table.key)]
            self._add(expected, int(counted[0]), tuple(named))
        connection.execute(f"insert into {held} from {reading}")


class Recorded:
    """A reading that is held against what was found when its rows came: those that are in the quarantine do not pass again."""

    unmet: tuple[Unmet, ...] = ()

    def __init__(self, known: Callable[[pa.RecordBatch, Expect], pa.BooleanArray], table: Table) -> None:
        """known: true for each row that is in the quarantine for not meeting an expectation."""
        self._known = known
        self._expected = [expected for expected in references(table) if expected.otherwise == "quarantine"]

    def passing(self, batches: Iterable[pa.RecordBatch], leave_out: LeaveOut) -> Iterator[pa.RecordBatch]:
        for whole in batches:
            batch = whole
            for expected in self._expected:
                kept = self._known(batch, expected)
                if kept.true_count:
                    leave_out(batch.filter(kept), expected)
                    batch = batch.filter(pc.invert(kept))
            yield batch


def has_relations(table: Table) -> bool:
    """Whether a table expects something of its rows that other rows tell."""
    return any(expected.rule in RELATIONS for expected in table.expect)


def check_expected(deployment: Deployment, source: Source, table: Table, schema: pa.Schema) -> None:
    """Raise DeclarationError for an expectation of a column, here or in another table, that is not there or of another type.

    schema: of the table, as the source has it now.
    """
    check_expectations(source.name, table, schema)
    for expected in references(table):
        target = reference_of(deployment.sources, source, table, expected)
        landed = landed_types(deployment.log(target.source, target.table).entries())
        if not landed:
            continue
        own, other = declared_type(schema.field(expected.column)), landed.get(target.column)
        if other is None or _family(own) != _family(other):
            name = f"{target.source.name}.{target.table.name}"
            raise DeclarationError(
                f"expecting of {source.name}.{table.name} that {expected}",
                value=f"{own}, and {other or 'no such column'} in {name}",
                allowed=f"a column of {name} of the same type: {', '.join(f'{n} ({t})' for n, t in landed.items())}",
                remedy="Name another column, or declare both in one type.",
            )
