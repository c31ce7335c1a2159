"""Tables published to ClickHouse.

A publication is built beside the table that readers see and exchanged with it in one step (`EXCHANGE TABLES`, atomic in an Atomic
database). The new table begins as a clone, which shares the old one's files; only the partitions that changed are dropped there
and filled again. The marker is the new table's comment, so that rows and marker appear together.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

import pyarrow as pa

from lakehouse.errors import CommitConflict, DamagedData
from lakehouse.settings import Settings
from lakehouse.spec import Marker, Table
from lakehouse.spec.soft_delete import WITH_DELETED, published_name, stored_name
from lakehouse.warehouse.clickhouse.client import ClickHouseClient
from lakehouse.warehouse.clickhouse.contents import partition_contents, scan_partitions
from lakehouse.warehouse.clickhouse.layout import (
    ClickHouseColumn,
    Layout,
    column_type,
    layout_of,
    literal,
    partition_value,
    quoted,
)
from lakehouse.warehouse.clickhouse.lock import HeldLock, publisher_lock
from lakehouse.warehouse.clickhouse.rows import from_clickhouse, insert_schema, readable, select_list, to_clickhouse
from lakehouse.warehouse.clickhouse.standing import Standing, foreign, look, written_in
from lakehouse.warehouse.clickhouse.views import KEPT, NEXT, Views
from lakehouse.warehouse.publisher import Leftover, Published

logger = logging.getLogger(__name__)

STATISTICS = "lakehouse_statistics"
"""The table whose comment says from what the statistics were built."""
_UNLIMITED = {"max_table_size_to_drop": "0", "max_partition_size_to_drop": "0"}

Scan = Callable[[Sequence[str] | None], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class _Current:
    """The table that readers see, and what tells it from any other."""

    published: Published
    uuid: str
    keys: str
    columns: tuple[ClickHouseColumn, ...]


@dataclass(frozen=True)
class _Work:
    """One publication under way. name: of the table; next: of the one being built."""

    table: Table
    schema: pa.Schema
    layout: Layout
    marker: Marker
    version: int
    name: str
    next: str
    tried: str

    @property
    def comment(self) -> str:
        """The marker as the new table carries it."""
        content: dict[str, Any] = {**asdict(self.marker), "version": self.version, "keys": self.layout.keys}
        if self.table.hides:
            content["of"] = self.name.removesuffix(WITH_DELETED)
        return json.dumps({"lakehouse": content, "description": self.table.description}, ensure_ascii=False)


class ClickHouseWarehouse:
    """Implements `lakehouse.warehouse.publisher.Warehouse`. Connects when it is first used; may be shared by threads."""

    def __init__(self, settings: Settings) -> None:
        self._client = ClickHouseClient(settings.warehouse)
        self._catalog = settings.catalog
        self._database = settings.warehouse.database
        self._views = Views(self._client, self._database)

    def check(self) -> None:
        """Connect; ConfigurationError for a wrong password, WarehouseUnavailable when nothing answers."""
        self._client.rows("SELECT 1", "connecting to the warehouse")

    def state(self, source: str, table: Table) -> Published | None:
        """The published table, or None. TerminalError for a table of that name that the platform did not publish."""
        return self._views.state(source, table, self._views.look(source, table))

    def publish(
        self,
        source: str,
        table: Table,
        schema: pa.Schema,
        *,
        marker: Marker,
        version: int,
        partitions: Sequence[str] | None,
        scan: Scan,
        base: Published | None = None,
    ) -> Published:
        """See the seam. One publisher of a table works at a time; the others wait and find the table moved: CommitConflict.

        A lower sequence than the published one is accepted when `base` is what is published: the caller saw it, so the lake went
        back (a rollback). It is refused with CommitConflict when somebody published in between.
        """
        base = base or self.state(source, table)
        work = self._work(source, table, schema, marker, version)
        if base is None:
            self._client.run(f"CREATE DATABASE IF NOT EXISTS {quoted(self._database)}", work.tried, point="warehouse.database")
        with self._lock(source, table) as lock:
            self._drop_leftovers(source, table)
            found = self._views.look(source, table)
            _check_base(work, base, self._views.state(source, table, found))
            types = {column.name: column.type for column in work.layout.columns}
            found = self._views.arrange(source, table, lock, found, types=types)
            current = self._current(work.name, found.get(work.name))
            if current is None or (current.published.version, current.published.marker) != (version, marker):
                self._publish(work, current, partitions, scan, lock)
                found = self._views.arrange(source, table, lock)
            done = self._views.state(source, table, found)
        assert done is not None
        return done

    def republish(
        self,
        source: str,
        table: Table,
        schema: pa.Schema,
        *,
        marker: Marker,
        version: int,
        scan: Scan,
        than: Published | None,
    ) -> Published:
        """See the seam."""
        work = self._work(source, table, schema, marker, version)
        self._client.run(f"CREATE DATABASE IF NOT EXISTS {quoted(self._database)}", work.tried, point="warehouse.database")
        with self._lock(source, table) as lock:
            self._drop_leftovers(source, table)
            rows = self._views.rows_of(source, table)
            standing = look(self._client, self._database, work.name, rows)
            identity = standing[work.name].uuid if work.name in standing else None
            was = standing[rows].published if rows in standing else None
            if (was.version, was.marker) != (than.version, than.marker) if was and than else bool(was) != bool(than):
                raise _moved(work)
            self._copy_whole(work, identity, scan, lock, kept=f"{KEPT}{work.name}__{uuid.uuid4().hex[:12]}")
            found = self._views.arrange(source, table, lock, keep=True)
            self._drop_leftovers(source, table)
            done = self._views.state(source, table, found)
        assert done is not None
        return done

    def leftovers(self, source: str, table: Table) -> list[Leftover]:
        """See the seam; the age is by the server's clock."""
        return [replace(found, name=f"{self._database}.{found.name}") for found in self._leftovers(source, table)]

    def drop_leftovers(self, source: str, table: Table) -> None:
        """See the seam."""
        with self._lock(source, table):
            self._drop_leftovers(source, table)

    def drop(self, source: str, table: Table) -> None:
        """Remove a published table and what was left beside it; nothing happens when there is none."""
        with self._lock(source, table):
            self._drop_leftovers(source, table)
            rows = self._views.rows_of(source, table)
            for name in dict.fromkeys((published_name(source, table), rows)):
                self._drop(name)

    def marked(self, source: str, table: Table) -> int:
        """How many published rows `soft_delete` marks; 0 where nothing is published, or it has no such column yet."""
        rows = self._views.rows_of(source, table)
        marks = self._views.condition(rows, table.soft_delete) if table.soft_delete else None
        if marks is None:
            return 0
        tried = f"counting the rows of {source}.{table.name} that are marked as deleted"
        return int(self._client.rows(f"SELECT countIf({marks}) FROM {self._relation(rows)}", tried)[0][0])

    def scan(self, source: str, table: Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """All published rows, cast to `schema`, in batches of about 65,000."""
        sql = f"SELECT {select_list(schema)} FROM {self._relation(self._views.rows_of(source, table))}"
        for batch in self._client.stream(sql, f"reading {source}.{table.name} from the warehouse"):
            yield from_clickhouse(batch, schema)

    def contents(self, source: str, table: Table) -> dict[str, str] | None:
        """What tells the rows of each partition from any others, by `partition_id`; None when the parts do not tell all."""
        return partition_contents(self._client, self._database, self._views.rows_of(source, table))

    def scan_by_partition(
        self, source: str, table: Table, schema: pa.Schema, partitions: Collection[str] | None = None
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """The rows of the partitions of these ids, or of all; texts that repeat come as dictionaries."""
        tried = f"reading {source}.{table.name} from the warehouse"
        relation = self._relation(self._views.rows_of(source, table))
        yield from scan_partitions(self._client, relation, schema, partitions, tried)

    def append_rows(self, relation: str, rows: pa.Table, order: Sequence[str], view: str) -> None:
        """Add rows to a table of the platform's own; the table, and the view over it, are made when they are not there."""
        tried = f"writing to {self._database}.{relation}"
        columns = ", ".join(f"{quoted(field.name)} {column_type(field)}" for field in rows.schema)
        keys = ", ".join(quoted(name) for name in order)
        table = f"CREATE TABLE IF NOT EXISTS {self._relation(relation)} ({columns}) ENGINE = MergeTree ORDER BY ({keys})"
        self._client.run(f"CREATE DATABASE IF NOT EXISTS {quoted(self._database)}", tried, point="warehouse.database")
        for statement in (table, view.format(database=quoted(self._database))):
            self._client.run(statement, tried, point="warehouse.results")
        self._client.insert(self._relation(relation), rows.schema, rows.to_batches(), tried)

    def query(self, sql: str) -> pa.Table:
        """The result of a statement in memory; a table without columns for one that gives none."""
        statement = sql.strip().rstrip(";")
        batches = list(self._client.stream(statement, "running a query on the warehouse", database=self._database))
        return readable(pa.Table.from_batches(batches)) if batches else pa.table({})

    def read_statistics_marker(self) -> dict[str, int]:
        """The sequence of each table (`source.table`) that the statistics were last built from; empty at first."""
        comment = self._comment(STATISTICS)
        content: dict[str, int] = json.loads(comment) if comment else {}
        return content

    def write_statistics_marker(self, sequences: dict[str, int]) -> None:
        """Record what the statistics were built from, in place of what was recorded before."""
        tried = "recording what the statistics were built from"
        relation = self._relation(STATISTICS)
        self._client.run(f"CREATE DATABASE IF NOT EXISTS {quoted(self._database)}", tried, point="warehouse.database")
        self._client.run(
            f"CREATE TABLE IF NOT EXISTS {relation} (nothing UInt8) ENGINE = Null", tried, point="warehouse.own_table"
        )
        self._client.run(
            f"ALTER TABLE {relation} MODIFY COMMENT {literal(json.dumps(sequences, sort_keys=True))}",
            tried,
            point="warehouse.statistics_marker",
        )

    def _publish(
        self, work: _Work, current: _Current | None, partitions: Sequence[str] | None, scan: Scan, lock: HeldLock
    ) -> None:
        if current is not None and partitions is not None:
            changes = _changes(work, current)
            values = [partition_value(name, work.table, work.schema) for name in partitions]
            if changes == [] and not partitions and current.published.rows == work.marker.rows:
                lock.check()
                self._client.run(
                    f"ALTER TABLE {self._relation(work.name)} MODIFY COMMENT {literal(work.comment)}",
                    work.tried,
                    point="warehouse.comment",
                )
                return
            if changes is not None and None not in values:
                self._clone(work, changes)
                problem = self._fill(work, partitions, [value for value in values if value], scan)
                if problem is None:
                    self._exchange(work, current.uuid, lock)
                    return
                logger.warning("%s: %s; copying the whole table instead", work.tried, problem)
                self._drop(work.next)
        self._copy_whole(work, current.uuid if current else None, scan, lock)

    def _copy_whole(self, work: _Work, identity: str | None, scan: Scan, lock: HeldLock, kept: str = "") -> None:
        """Build the table from all rows and put it in the place of the one with that UUID."""
        self._client.run(work.layout.create(self._relation(work.next), work.comment), work.tried, point="warehouse.create")
        problem = self._fill(work, None, [], scan)
        if problem is not None:
            self._drop(work.next)
            raise DamagedData(
                work.tried,
                value=problem,
                allowed=f"{work.marker.rows} rows, as the lake's marker says",
                remedy="Run `lakehouse verify`, then `lakehouse repair` on the table that it names.",
            )
        self._exchange(work, identity, lock, kept)

    def _clone(self, work: _Work, changes: list[str]) -> None:
        relation = self._relation(work.next)
        self._client.run(f"CREATE TABLE {relation} CLONE AS {self._relation(work.name)}", work.tried, point="warehouse.clone")
        alterations = [*changes, f"MODIFY COMMENT {literal(work.comment)}"]
        self._client.run(f"ALTER TABLE {relation} {', '.join(alterations)}", work.tried, point="warehouse.alter")

    def _fill(self, work: _Work, partitions: Sequence[str] | None, values: list[str], scan: Scan) -> str | None:
        """Drop the named partitions of the new table and insert what `scan` gives; what is wrong with the result, or None."""
        relation = self._relation(work.next)
        for start in range(0, len(values), 100):
            clauses = ", ".join(f"DROP PARTITION {value}" for value in values[start : start + 100])
            self._client.run(f"ALTER TABLE {relation} {clauses}", work.tried, _UNLIMITED, point="warehouse.drop_partitions")
        kept = self._partition_rows(work)
        scanned = 0

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal scanned
            for batch in scan(partitions):
                scanned += batch.num_rows
                if batch.num_rows:
                    yield to_clickhouse(batch, work.schema)

        if partitions is None or partitions:
            self._client.insert(relation, insert_schema(work.schema), rows(), work.tried)
        found = self._partition_rows(work)
        total = sum(found.values())
        if total - sum(kept.values()) != scanned:
            return f"{scanned} rows were read from the lake, {total - sum(kept.values())} arrived"
        if moved := [name for name, count in kept.items() if found.get(name) != count]:
            return f"rows arrived in partitions that had not changed: {', '.join(sorted(moved)[:5])}"
        if total != work.marker.rows:
            return f"{total} rows instead of {work.marker.rows}"
        return None

    def _exchange(self, work: _Work, identity: str | None, lock: HeldLock, kept: str = "") -> None:
        """Put the new table in the old one's place; CommitConflict when the lock or the old table is not what it was.

        kept: the name under which an old table without a marker of ours is kept; one with a marker is dropped.
        """
        lock.check()
        here = look(self._client, self._database, work.name).get(work.name)
        if (here and here.uuid) != identity:
            raise _moved(work)
        name, new = self._relation(work.name), self._relation(work.next)
        if here is None:
            self._client.run(f"RENAME TABLE {new} TO {name}", work.tried, point="warehouse.rename")
            return
        if here.published is not None:
            self._client.run(f"EXCHANGE TABLES {name} AND {new}", work.tried, point="warehouse.exchange")
            self._drop(work.next)
            return
        # Named before the exchange: whoever dies in between leaves a table of ours under that name, and theirs is no leftover.
        self._client.run(f"RENAME TABLE {new} TO {self._relation(kept)}", work.tried, point="warehouse.keep")
        self._client.run(f"EXCHANGE TABLES {name} AND {self._relation(kept)}", work.tried, point="warehouse.exchange")

    def _work(self, source: str, table: Table, schema: pa.Schema, marker: Marker, version: int) -> _Work:
        name = stored_name(source, table)
        return _Work(
            table, schema, layout_of(table, schema), marker, version, name, f"{NEXT}{name}__{uuid.uuid4().hex[:12]}",
            f"publishing {source}.{table.name} to the warehouse",
        )  # fmt: skip

    def _current(self, name: str, here: Standing | None) -> _Current | None:
        if here is None:
            return None
        if here.published is None:
            raise foreign(self._database, name)
        columns = self._client.rows(
            "SELECT name, type, comment, default_kind = 'MATERIALIZED' FROM system.columns "
            f"WHERE database = {literal(self._database)} AND table = {literal(name)} ORDER BY position",
            f"looking at {self._database}.{name} in the warehouse",
        )
        shown = tuple(ClickHouseColumn(name_, type_, text, bool(hidden)) for name_, type_, text, hidden in columns)
        return _Current(here.published, here.uuid, here.keys, shown)

    def _comment(self, name: str) -> str:
        rows = self._client.rows(
            f"SELECT comment FROM system.tables WHERE database = {literal(self._database)} AND name = {literal(name)}",
            f"looking at {self._database}.{name} in the warehouse",
        )
        return str(rows[0][0]) if rows else ""

    def _partition_rows(self, work: _Work) -> dict[str, int]:
        rows = self._client.rows(
            f"SELECT partition_id, sum(rows) FROM system.parts WHERE active AND database = {literal(self._database)} "
            f"AND table = {literal(work.next)} GROUP BY partition_id",
            work.tried,
        )
        return {partition: int(count) for partition, count in rows}

    def _drop_leftovers(self, source: str, table: Table) -> None:
        for leftover in self._leftovers(source, table):
            self._drop(leftover.name)

    def _leftovers(self, source: str, table: Table) -> list[Leftover]:
        """Tables that were being built, and all rows under their own name where the table has them: left by a move.

        One that has the name of a kept table already has our marker still.
        """
        plain = published_name(source, table)
        full = f"{plain}{WITH_DELETED}"

        def named(prefix: str, name: str) -> str:
            return f"startsWith(name, {literal(f'{prefix}{name}__')}) AND length(name) = {len(prefix) + len(name) + 14}"

        conditions = [f"name IN ({literal(plain)}, {literal(full)})"]
        for name in (plain, full):
            conditions += [named(NEXT, name), f"{named(KEPT, name)} AND JSONHas(comment, 'lakehouse')"]
        rows = self._client.rows(
            "SELECT name, comment, ifNull(total_bytes, 0), dateDiff('second', metadata_modification_time, now()) "
            f"FROM system.tables WHERE database = {literal(self._database)} AND ({' OR '.join(conditions)})",
            f"looking for unfinished publications of {source}.{table.name}",
        )
        content = {name: written_in(comment) or {} for name, comment, _, _ in rows}
        moved = content.get(full, {}).get("of") == plain and "sequence" in content.get(plain, {})
        own = {plain} if moved else {plain, full}
        return [Leftover(name, int(size), timedelta(seconds=int(age))) for name, _, size, age in rows if name not in own]

    def _lock(self, source: str, table: Table) -> AbstractContextManager[HeldLock]:
        return publisher_lock(self._catalog, f"{self._client.address} {self._database}.{published_name(source, table)}")

    def _drop(self, name: str) -> None:
        self._client.run(
            f"DROP TABLE IF EXISTS {self._relation(name)}",
            f"dropping {self._database}.{name}",
            _UNLIMITED,
            point="warehouse.drop",
        )

    def _relation(self, name: str) -> str:
        return f"{quoted(self._database)}.{quoted(name)}"


def _changes(work: _Work, current: _Current) -> list[str] | None:
    """What to alter on a clone of the current table; None when it must be rebuilt."""
    if current.keys != work.layout.keys:
        return None
    return work.layout.changes_from(current.columns)


def _check_base(work: _Work, base: Published | None, found: Published | None) -> None:
    """CommitConflict when another publisher was faster, unless it has done what is to be done."""
    was = (base.version, base.marker) if base else None
    now = (found.version, found.marker) if found else None
    if now not in (was, (work.version, work.marker)):
        raise _moved(work)


def _moved(work: _Work) -> CommitConflict:
    return CommitConflict(
        work.tried,
        value="another publisher moved the table meanwhile",
        allowed="the publication that the changed partitions were compared with",
        remedy="Publish again: what is left to do is found afresh.",
    )
