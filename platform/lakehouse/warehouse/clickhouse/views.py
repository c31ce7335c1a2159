"""What readers see of a table that hides rows: a view under its name, over all its rows under another one.

The published table and the view take each other's place by `EXCHANGE TABLES`, so readers see all rows or those that are left,
never none. Which name holds the rows is told by what stands there, not by the declaration: it may have changed since.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import replace

from lakehouse.spec import Table
from lakehouse.spec.soft_delete import ALL_ROWS, WITH_DELETED, published_name, reading_without, stored_name
from lakehouse.warehouse.clickhouse.client import ClickHouseClient
from lakehouse.warehouse.clickhouse.layout import literal, quoted
from lakehouse.warehouse.clickhouse.lock import HeldLock
from lakehouse.warehouse.clickhouse.standing import Standing, foreign, look
from lakehouse.warehouse.publisher import OUTDATED, Published

NEXT = "__next__"
"""Begins the name of a table or view that is being built; declared names begin with a letter."""
KEPT = "__kept__"
"""Begins the name under which a table that was not ours is kept when a repair takes its place."""


class Views:
    """The views of one database, and which table is under each."""

    def __init__(self, client: ClickHouseClient, database: str) -> None:
        self._client = client
        self._database = database

    def look(self, source: str, table: Table) -> Mapping[str, Standing]:
        """What stands under the table's names."""
        return self._look(*_names(source, table))

    def state(self, source: str, table: Table, found: Mapping[str, Standing]) -> Published | None:
        """What is published, and what readers see of it; None where nothing is. TerminalError for a table that is not ours."""
        plain, full = _names(source, table)
        name = _rows_in(found, source, table)
        if name not in found:
            return None
        published = found[name].published
        if published is None:
            raise foreign(self._database, name)
        return replace(published, reading=ALL_ROWS if name == plain else self._reading(full, found.get(plain)))

    def rows_of(self, source: str, table: Table) -> str:
        """The name that holds all rows of a table today; where none does, the one that will."""
        return _rows_in(self.look(source, table), source, table)

    def _reading(self, full: str, here: Standing | None) -> str:
        """What readers see through what stands under the table's name, where the table `full` holds the rows."""
        view = here.view if here else None
        if view is None or view["statement"] != _digest(self._statement(full, view["hides"])):
            return OUTDATED
        return reading_without(view["hides"])

    def condition(self, rows: str, column: str) -> str | None:
        """When the column marks a row, as an expression; None where there is no such column, or no type that marks."""
        return _marks(column, self._columns(rows).get(column, ("", ""))[0])

    def arrange(
        self,
        source: str,
        table: Table,
        lock: HeldLock,
        found: Mapping[str, Standing] | None = None,
        *,
        types: Mapping[str, str] | None = None,
        keep: bool = False,
    ) -> Mapping[str, Standing]:
        """Let readers see what the declaration says of the rows that are published; nothing happens where they do.

        found: what stands under the table's names, for who has just looked; returned is what stands there afterwards. types: what
        columns become with the next exchange, so that the view holds their values before and after it. keep: whether a table that
        is not ours gives way to the view, under a name that begins with `__kept__`. A failure leaves readers with what they saw,
        and tables that the next publication removes.
        """
        tried = f"publishing {source}.{table.name} to the warehouse"
        plain, full = _names(source, table)
        found = self._look(plain, full) if found is None else found
        here = found.get(plain)
        if here is not None and here.view is None and not here.published and not keep:
            raise foreign(self._database, plain)
        if table.hides is None:
            if here is None or here.view is None or full not in found:
                return found
            self._show_all(plain, full, tried, lock)
            return self._look(plain, full)
        if here is not None and here.published and full not in found:
            self._clone(plain, full, tried, of=plain)
            found = self._look(plain, full)
        if full not in found:
            return found
        if found[full].of != plain:
            raise foreign(self._database, full)
        statement = self._statement(full, table.hides, types)
        if here is None or here.view is None or here.view.get("statement") != _digest(statement):
            self._show(plain, table.hides, statement, table.description, tried, lock, here)
            return self._look(plain, full)
        return found

    def _show(
        self, plain: str, hides: str, statement: str, description: str, tried: str, lock: HeldLock, here: Standing | None
    ) -> None:
        """Put the view in the place of what is there."""
        content = {"lakehouse": {"view": {"hides": hides, "statement": _digest(statement)}}, "description": description}
        comment = f" COMMENT {literal(json.dumps(content, ensure_ascii=False))}"
        columns, _, query = statement.partition("\n")
        aside = plain
        if here is not None and here.view is None:
            aside = f"{NEXT if here.published else KEPT}{plain}__{uuid.uuid4().hex[:12]}"
        lock.check()
        create = "CREATE OR REPLACE VIEW" if here is not None and here.view is not None else "CREATE VIEW"
        # An empty place, or an older view, is taken in this one step; a table gives its place up in the next one.
        self._client.run(f"{create} {self._relation(aside)} {columns} AS {query}{comment}", tried, point="warehouse.view")
        if aside == plain:
            return
        exchange = f"EXCHANGE TABLES {self._relation(plain)} AND {self._relation(aside)}"
        self._client.run(exchange, tried, point="warehouse.exchange")
        if aside.startswith(NEXT):
            self._drop(aside, tried)

    def _show_all(self, plain: str, full: str, tried: str, lock: HeldLock) -> None:
        """Put all rows in the view's place, under the table's own name."""
        next_ = f"{NEXT}{plain}__{uuid.uuid4().hex[:12]}"
        self._clone(full, next_, tried, of=None)
        lock.check()
        exchange = f"EXCHANGE TABLES {self._relation(plain)} AND {self._relation(next_)}"
        self._client.run(exchange, tried, point="warehouse.exchange")
        self._drop(next_, tried)
        self._drop(full, tried)

    def _clone(self, name: str, target: str, tried: str, *, of: str | None) -> None:
        """The same rows under another name; they share their files. of: the table whose rows these are, under another name."""
        next_ = target if target.startswith(NEXT) else f"{NEXT}{target}__{uuid.uuid4().hex[:12]}"
        [(comment,)] = self._client.rows(
            f"SELECT comment FROM system.tables WHERE database = {literal(self._database)} AND name = {literal(name)}", tried
        )
        content = json.loads(comment)
        content["lakehouse"] = {key: value for key, value in content["lakehouse"].items() if key != "of"}
        content["lakehouse"] |= {} if of is None else {"of": of}
        relation = self._relation(next_)
        self._client.run(f"CREATE TABLE {relation} CLONE AS {self._relation(name)}", tried, point="warehouse.clone")
        altered = f"ALTER TABLE {relation} MODIFY COMMENT {literal(json.dumps(content, ensure_ascii=False))}"
        self._client.run(altered, tried, point="warehouse.alter")
        if next_ != target:
            self._client.run(f"RENAME TABLE {relation} TO {self._relation(target)}", tried, point="warehouse.rename")

    def _drop(self, name: str, tried: str) -> None:
        unlimited = {"max_table_size_to_drop": "0", "max_partition_size_to_drop": "0"}
        self._client.run(f"DROP TABLE IF EXISTS {self._relation(name)}", tried, unlimited, point="warehouse.drop")

    def _statement(self, full: str, hides: str, types: Mapping[str, str] | None = None) -> str:
        """The view's columns, then what it selects, in two lines."""
        columns, other = self._columns(full), types or {}
        marks = _marks(hides, columns.get(hides, ("", ""))[0])
        defined = ", ".join(
            f"{quoted(name)} {other.get(name, type_)}{f' COMMENT {literal(text)}' if text else ''}"
            for name, (type_, text) in columns.items()
        )
        chosen = ", ".join(map(quoted, columns))
        left = "" if marks is None else f" WHERE NOT {marks}"
        return f"({defined})\nSELECT {chosen} FROM {self._relation(full)}{left}"

    def _columns(self, name: str) -> dict[str, tuple[str, str]]:
        """Type and comment of the columns that `SELECT *` has."""
        rows = self._client.rows(
            f"SELECT name, type, comment FROM system.columns WHERE database = {literal(self._database)} "
            f"AND table = {literal(name)} AND default_kind != 'MATERIALIZED' ORDER BY position",
            f"looking at {self._database}.{name} in the warehouse",
        )
        return {str(column): (str(type_), str(text)) for column, type_, text in rows}

    def _look(self, *names: str) -> Mapping[str, Standing]:
        return look(self._client, self._database, *names)

    def _relation(self, name: str) -> str:
        return f"{quoted(self._database)}.{quoted(name)}"


def _names(source: str, table: Table) -> tuple[str, str]:
    plain = published_name(source, table)
    return plain, f"{plain}{WITH_DELETED}"


def _rows_in(found: Mapping[str, Standing], source: str, table: Table) -> str:
    """The name that holds all rows; where none does, the one that will."""
    plain, full = _names(source, table)
    if plain in found and found[plain].view is None:
        return plain
    return full if plain in found or full in found else stored_name(source, table)


def _marks(column: str, type_: str) -> str | None:
    """When a column of ClickHouse's type marks a row."""
    plain = type_.removeprefix("Nullable(")
    if plain.startswith("Bool"):
        return f"ifNull({quoted(column)}, false)"
    return f"isNotNull({quoted(column)})" if plain.startswith(("DateTime64", "Date32")) else None


def _digest(statement: str) -> str:
    return hashlib.sha256(statement.encode()).hexdigest()[:16]
