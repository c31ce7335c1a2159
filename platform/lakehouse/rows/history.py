"""The history of a raw log: which states each row of a table has been in, and from when to when. One query for DuckDB.

The rule: the history is what the table was after each entry of its log, by the rules of `lakehouse.rows.fold`. A row is in a new
state when its content after an entry, by digest, is not what it was after the entry before. So a row that comes again as it was,
or that comes late and loses to a newer version, begins nothing. A deletion, or a snapshot without the row, ends its state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa

from lakehouse.errors import DamagedData
from lakehouse.rows.duck import incoming, quoted
from lakehouse.spec import BatchKind, LogEntry, Table

PLACE = "_place"
"""The column that tells a row of a fold from all others."""
SEQUENCE, POSITION, DIGEST, SINCE = "_sequence", "_position", "_digest", "_since"
"""Of a version of a row: its entry, its place in that, its content (null: it was deleted), and since when it is current (of a
version that was before the entries, which has the sequence 0)."""

MOMENTS, VERSIONS, INTERVALS = "moments", "versions", "intervals"
"""The temporary tables of a history under way."""

_MOMENT = pa.schema(
    [(SEQUENCE, pa.int64()), ("_at", pa.timestamp("us", "UTC")), ("_whole", pa.bool_()), ("_next_whole", pa.int64())]
)
_ALLOWED: dict[str, set[BatchKind]] = {"upsert": {"upsert", "delete", "snapshot"}, "snapshot": {"snapshot"}}


@dataclass(frozen=True)
class Intervals:
    """The history of some rows on one DuckDB connection, whose temporary tables are its own.

    table: the one whose history it is. key: its key columns, with their DuckDB types, in order; cursor: the type of its cursor.
    """

    connection: duckdb.DuckDBPyConnection
    table: Table
    key: dict[str, str]
    cursor: str | None

    @property
    def narrow(self) -> dict[str, str]:
        """The columns of `versions` before the digest, with their DuckDB types."""
        found = {f"_key{index}": type_ for index, type_ in enumerate(self.key.values())}
        found |= {"_cursor": self.cursor or "timestamptz", SEQUENCE: "bigint", POSITION: "bigint", PLACE: "bigint"}
        return found | {SINCE: "timestamptz"}

    def version_sql(self, relation: str, *, sequence: int, place: str, position: str, since: str, deleted: bool = False) -> str:
        """The columns of `narrow` of a relation's rows. deleted: it has the key columns alone."""
        cursor = quoted(self.table.cursor) if self._by_cursor and self.table.cursor and not deleted else "null"
        values = [*(quoted(name) for name in self.key), cursor, str(sequence), position, place, since]
        columns = [f"{value}::{type_} as {name}" for value, (name, type_) in zip(values, self.narrow.items(), strict=True)]
        return f"select {', '.join(columns)}{'' if deleted else f', * exclude ({PLACE}, {POSITION})'} from {relation}"

    def begin(self, entries: Sequence[LogEntry]) -> None:
        """Make `versions`, which has no rows yet, and `moments` of the entries; these are dated."""
        columns = ", ".join(f"{name} {type_}" for name, type_ in self.narrow.items())
        self.connection.execute(f"create or replace temp table {VERSIONS} ({columns}, {DIGEST} ubigint)")
        self.connection.execute(
            f"create or replace temp table {MOMENTS} ({SEQUENCE} bigint, _at timestamptz, _whole boolean, _next_whole bigint)"
        )
        rows: list[tuple[int, datetime | None, bool, int | None]] = []
        following: int | None = None
        for entry in sorted(entries, key=lambda entry: entry.sequence, reverse=True):
            whole = entry.manifest.kind == "snapshot"
            rows.append((entry.sequence, entry.manifest.position.taken_at, whole, following))
            following = entry.sequence if whole else following
        rows.append((0, None, False, following))
        moments = pa.table(list(map(list, zip(*rows, strict=True))), schema=_MOMENT)
        with incoming(self.connection, "new_moments", moments.to_batches(), _MOMENT):
            self.connection.execute(f"insert into {MOMENTS} select * from new_moments")

    def end(self) -> None:
        """Make `intervals` of `versions`: of each state that the row at `_place` is in, from when to when.

        A row that was there before and that is still as it was has its interval as before.
        """
        self.connection.execute(f"create or replace temp table {INTERVALS} as {self._intervals_sql()}")

    @property
    def _by_cursor(self) -> bool:
        return self.table.mode == "upsert"

    def _intervals_sql(self) -> str:
        key = ", ".join(f"_key{index}" for index in range(len(self.key)))
        by_key = f"partition by {key} order by {SEQUENCE}"
        return f"""
        with observed as (
            select v.*, _whole, _next_whole, lead({SEQUENCE}) over ({by_key}) as _following
            from (
                select * from {VERSIONS}
                qualify row_number() over (partition by {key}, {SEQUENCE} order by _cursor desc nulls last, {POSITION} desc) = 1
            ) as v join {MOMENTS} using ({SEQUENCE})
        ), told as (
            select {key}, {SEQUENCE}, _cursor, {PLACE}, {DIGEST}, {SINCE}, _whole or {DIGEST} is null as _anew from observed
            union all
            select {key}, _next_whole, null, null, null, null, true from observed
            where {DIGEST} is not null and _next_whole is not null and (_following is null or _following > _next_whole)
        ), segmented as (
            select *, count(*) filter (_anew) over ({by_key} rows unbounded preceding) as _segment from told
        ), ranked as (
            select *, max(_cursor) over (
                partition by {key}, _segment order by {SEQUENCE} rows between unbounded preceding and 1 preceding
            ) as _newest from segmented
        ), changes as (
            select * from ranked where {DIGEST} is null or _newest is null or _cursor >= _newest
            qualify {DIGEST} is distinct from lag({DIGEST}) over ({by_key})
        ), states as (
            select *, lead({SEQUENCE}) over ({by_key}) as _until, lead({DIGEST} is null) over ({by_key}) as _gone from changes
        )
        select
            {PLACE}, {SINCE} is not null as _old, coalesce({SINCE}, began._at) as valid_from, ended._at as valid_to,
            _until is null as is_current, coalesce(_gone, false) as deleted
        from states
        join {MOMENTS} as began on began.{SEQUENCE} = states.{SEQUENCE}
        left join {MOMENTS} as ended on ended.{SEQUENCE} = _until
        where {DIGEST} is not null
        """


def refuse_other_kinds(table: Table, entries: Sequence[LogEntry]) -> None:
    """DamagedData when an entry's kind does not fit the mode of the table whose history it is."""
    for entry in entries:
        if entry.manifest.kind not in _ALLOWED[table.mode]:
            raise DamagedData(
                f"folding entry {entry.sequence} of table {table.name!r} (mode {table.mode}) into its history",
                value=entry.manifest.kind,
                allowed=", ".join(sorted(_ALLOWED[table.mode])),
                remedy="Declare the mode that the table had, or land it under another name.",
            )
