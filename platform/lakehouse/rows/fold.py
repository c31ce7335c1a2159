"""The fold of a raw log: what a table's rows are after some of its entries. One query for every engine that runs DuckDB.

The rules. `snapshot`: the last one is the table. `replace`: a row stands unless a later entry's window holds its event time.
`upsert` and `delete`: of each key the newest version stands (by cursor, then sequence, then position in the batch), unless a
later entry deleted the key; a delete and an upsert of one key are ordered by their sequences alone.

A `snapshot` in the log of a table of another mode is a new beginning: nothing before it counts, and its rows are folded as what
that mode brings (a replacement of all time, or rows by key). A repaired log has one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from lakehouse.errors import DamagedData
from lakehouse.rows.duck import literal, quoted
from lakehouse.spec import BatchKind, Table, Window

POSITION = "_position"
"""The column in which a batch's relation gives each row its place in the batch (a 64-bit integer, greater is later)."""


ALL_TIME = Window(None, None)


@dataclass(frozen=True)
class FoldEntry:
    """One log entry as a DuckDB relation.

    relation: SQL that can follow `from` (a table, a view, a parenthesised query), with `columns` and, for `upsert`, `_position`.
    columns: those of the table's that the batch came with; the others are null.
    """

    sequence: int
    kind: BatchKind
    window: Window | None
    relation: str
    columns: Collection[str]


def fold_sql(table: Table, schema: pa.Schema, base: str | None, entries: Sequence[FoldEntry]) -> str:
    """A DuckDB query for the rows of `table` after `entries`, in the order of `schema`.

    base: a relation with all columns of `schema`: the rows before the first entry (None: there were none).
    Raises DamagedData when an entry's kind does not fit the table's mode.
    """
    ordered = sorted(entries, key=lambda entry: entry.sequence)
    beginnings = [index for index, entry in enumerate(ordered) if entry.kind == "snapshot"]
    if beginnings and table.mode != "snapshot":
        ordered, base = _from_beginning(table, ordered[beginnings[-1] :]), None
    allowed = {"append": {"replace"}, "upsert": {"upsert", "delete"}, "snapshot": {"snapshot"}}[table.mode]
    for entry in ordered:
        if entry.kind not in allowed:
            raise DamagedData(
                f"folding entry {entry.sequence} of table {table.name!r} (mode {table.mode})",
                value=entry.kind,
                allowed=", ".join(sorted(allowed)),
                remedy="Declare the mode that the table had, or land it under another name.",
            )
    if not ordered:
        return _columns(schema, schema.names, base) if base else _nothing(schema)
    if table.mode == "snapshot":
        return _columns(schema, ordered[-1].columns, ordered[-1].relation)
    if table.mode == "append":
        return _fold_replace(table, schema, base, ordered)
    return _fold_upsert(table, schema, base, ordered)


def window_sql(column: str, window: Window) -> str:
    """A DuckDB condition: the timestamp column lies in the window."""
    parts = []
    if window.low is not None:
        parts.append(f"{quoted(column)} >= {literal(window.low.isoformat())}::timestamptz")
    if window.high is not None:
        parts.append(f"{quoted(column)} < {literal(window.high.isoformat())}::timestamptz")
    return "(" + " and ".join(parts or ["true"]) + ")"


def _from_beginning(table: Table, entries: Sequence[FoldEntry]) -> list[FoldEntry]:
    """Entries that begin with a snapshot, as the table's mode folds them."""
    first = replace(entries[0], kind="upsert") if table.mode == "upsert" else replace(entries[0], kind="replace", window=ALL_TIME)
    return [first, *entries[1:]]


def _columns(schema: pa.Schema, present: Collection[str], relation: str, extra: str = "") -> str:
    names = [quoted(name) if name in present else f"null as {quoted(name)}" for name in schema.names]
    return f"select {', '.join(names)}{extra} from {relation}"


def _nothing(schema: pa.Schema) -> str:
    return "select " + ", ".join(f"null as {quoted(name)}" for name in schema.names) + " where false"


def _fold_replace(table: Table, schema: pa.Schema, base: str | None, entries: Sequence[FoldEntry]) -> str:
    assert table.event_time is not None
    parts = []
    later: list[Window] = []
    sources = [*([(base, schema.names, None)] if base else []), *((e.relation, e.columns, e.window) for e in entries)]
    for relation, columns, window in reversed(sources):
        condition = " or ".join(window_sql(table.event_time, other) for other in dict.fromkeys(later))
        keep = f" where ({condition}) is not true" if condition else ""
        if window is None or window not in later:
            parts.append(_columns(schema, columns, str(relation)) + keep)
        if window is not None:
            later.append(window)
    return " union all ".join(reversed(parts))


def _fold_upsert(table: Table, schema: pa.Schema, base: str | None, entries: Sequence[FoldEntry]) -> str:
    key = ", ".join(quoted(name) for name in table.key)
    upserts = [_columns(schema, e.columns, e.relation, f", {e.sequence}::bigint as _sequence, {POSITION}::bigint as {POSITION}")
               for e in entries if e.kind == "upsert"]  # fmt: skip
    if base:
        upserts.insert(0, _columns(schema, schema.names, base, f", 0::bigint as _sequence, 0::bigint as {POSITION}"))
    deletes = [f"select {key}, {e.sequence}::bigint as _sequence from {e.relation}" for e in entries if e.kind == "delete"]
    if not upserts:
        return _nothing(schema)
    versions = "(" + " union all ".join(upserts) + ") as v"
    alive = f"select * from {versions}"
    if deletes:
        gone = f"(select {key}, max(_sequence) as _deleted from ({' union all '.join(deletes)}) group by all) as d"
        match = " and ".join(f"v.{quoted(name)} is not distinct from d.{quoted(name)}" for name in table.key)
        alive = f"select v.* from {versions} left join {gone} on {match} where _deleted is null or _sequence > _deleted"
    order = f"_sequence desc, {POSITION} desc" if len(upserts) > 1 else f"{POSITION} desc"
    if table.cursor is not None:
        order = f"{quoted(table.cursor)} desc nulls last, {order}"
    newest = f"select * from ({alive}) qualify row_number() over (partition by {key} order by {order}) = 1"
    return _columns(schema, schema.names, f"({newest})")
