"""What readers see of a table that hides rows: a view under its name, over all its rows under another one.

The published table and the view take each other's place by `EXCHANGE TABLES`, so readers see all rows or those that are left,
never none. Which name holds the rows is told by what stands there, not by the declaration: it may have changed since.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lakehouse.errors import TerminalError
from lakehouse.spec import Table
from lakehouse.spec.soft_delete import ALL_ROWS, WITH_DELETED, published_name, reading_without, stored_name
from lakehouse.warehouse.clickhouse.client import ClickHouseClient
from lakehouse.warehouse.clickhouse.layout import literal, quoted
from lakehouse.warehouse.clickhouse.lock import HeldLock
from lakehouse.warehouse.publisher import OUTDATED

NEXT = "__next__"
"""Begins the name of a table or view that is being built; declared names begin with a letter."""
KEPT = "__kept__"
"""Begins the name under which a table that was not ours is kept when a repair takes its place."""


@dataclass(frozen=True)
class _Found:
    """What stands under a name. content: what we wrote into its comment; None where it is not ours."""

    engine: str
    content: dict[str, Any] | None

    @property
    def view(self) -> dict[str, str] | None:
        """Of a view of ours, what it hides and the digest of its statement."""
        return self.content.get("view") if self.content and self.engine == "View" else None

    @property
    def is_rows(self) -> bool:
        return self.content is not None and "sequence" in self.content


class Views:
    """The views of one database, and which table is under each."""

    def __init__(self, client: ClickHouseClient, database: str) -> None:
        self._client = client
        self._database = database

    def rows_of(self, source: str, table: Table) -> str:
        """The name that holds all rows of a table today; where none does, the one that will."""
        plain, full = _names(source, table)
        found = self._look(plain, full)
        if plain in found and found[plain].view is None:
            return plain
        return full if plain in found or full in found else stored_name(source, table)

    def reading(self, source: str, table: Table, rows: str) -> str:
        """What readers see, where the table `rows` holds the rows."""
        plain, full = _names(source, table)
        if rows == plain:
            return ALL_ROWS
        view = self._view(plain)
        if view is None or view["statement"] != _digest(self._statement(full, view["hides"])):
            return OUTDATED
        return reading_without(view["hides"])

    def condition(self, rows: str, column: str) -> str | None:
        """When the column marks a row, as an expression; None where there is no such column, or no type that marks."""
        return _marks(column, self._columns(rows).get(column, ("", ""))[0])

    def leftover(self, source: str, table: Table) -> str | None:
        """All rows under their own name, where the table has them under its own: left by a move that did not end."""
        plain, full = _names(source, table)
        found = self._look(plain, full)
        ours = full in found and (found[full].content or {}).get("of") == plain
        return full if ours and plain in found and found[plain].is_rows else None

    def arrange(
        self, source: str, table: Table, lock: HeldLock, *, types: Mapping[str, str] | None = None, keep: bool = False
    ) -> None:
        """Let readers see what the declaration says of the rows that are published; nothing happens where they do.

        types: what columns become with the next exchange, so that the view holds their values before and after it. keep: whether
        a table that is not ours gives way to the view, under a name that begins with `__kept__`. A failure leaves readers with
        what they saw, and tables that the next publication removes.
        """
        tried = f"publishing {source}.{table.name} to the warehouse"
        plain, full = _names(source, table)
        found = self._look(plain, full)
        here = found.get(plain)
        if here is not None and here.view is None and not here.is_rows and not keep:
            raise foreign(f"looking at {self._database}.{plain} in the warehouse")
        if table.hides is None:
            if here is not None and here.view is not None and full in found:
                self._show_all(plain, full, tried, lock)
            return
        if here is not None and here.is_rows and full not in found:
            self._clone(plain, full, tried, of=plain)
            found = self._look(plain, full)
        if full not in found:
            return
        if (found[full].content or {}).get("of") != plain:
            raise foreign(f"looking at {self._database}.{full} in the warehouse")
        statement = self._statement(full, table.hides, types)
        if here is None or here.view is None or here.view.get("statement") != _digest(statement):
            self._show(plain, table.hides, statement, table.description, tried, lock, here)

    def _show(
        self, plain: str, hides: str, statement: str, description: str, tried: str, lock: HeldLock, here: _Found | None
    ) -> None:
        """Put the view in the place of what is there."""
        content = {"lakehouse": {"view": {"hides": hides, "statement": _digest(statement)}}, "description": description}
        comment = f" COMMENT {literal(json.dumps(content, ensure_ascii=False))}"
        columns, _, query = statement.partition("\n")
        aside = plain
        if here is not None and here.view is None:
            aside = f"{NEXT if here.is_rows else KEPT}{plain}__{uuid.uuid4().hex[:12]}"
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

    def _view(self, name: str) -> dict[str, str] | None:
        found = self._look(name).get(name)
        return found.view if found else None

    def _look(self, *names: str) -> dict[str, _Found]:
        listed = ", ".join(map(literal, names))
        rows = self._client.rows(
            f"SELECT name, engine, comment FROM system.tables WHERE database = {literal(self._database)} AND name IN ({listed})",
            f"looking at {self._database}.{names[0]} in the warehouse",
        )
        return {str(name): _Found(str(engine), written_in(str(comment))) for name, engine, comment in rows}

    def _relation(self, name: str) -> str:
        return f"{quoted(self._database)}.{quoted(name)}"


def written_in(comment: str) -> dict[str, Any] | None:
    """What we wrote into the comment of a table or a view; None where we did not."""
    try:
        content = json.loads(comment)["lakehouse"]
    except (ValueError, KeyError, TypeError):
        return None
    return content if isinstance(content, dict) else None


def _names(source: str, table: Table) -> tuple[str, str]:
    plain = published_name(source, table)
    return plain, f"{plain}{WITH_DELETED}"


def _marks(column: str, type_: str) -> str | None:
    """When a column of ClickHouse's type marks a row."""
    plain = type_.removeprefix("Nullable(")
    if plain.startswith("Bool"):
        return f"ifNull({quoted(column)}, false)"
    return f"isNotNull({quoted(column)})" if plain.startswith(("DateTime64", "Date32")) else None


def _digest(statement: str) -> str:
    return hashlib.sha256(statement.encode()).hexdigest()[:16]


def foreign(tried: str) -> TerminalError:
    """The error of finding a table that is not ours where ours should be."""
    return TerminalError(
        tried,
        value="a table of this name that the platform did not publish",
        allowed="no table, or one that the platform published",
        remedy="Rename or drop it, or set LAKEHOUSE_WAREHOUSE__DATABASE to another database.",
    )
