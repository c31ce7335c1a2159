"""Which rows a refused value is in: found on the same snapshot, after a scan has met one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from lakehouse.errors import ValueRefused
from lakehouse.rows.duck import quoted
from lakehouse.sources.postgres.catalog import Relation
from lakehouse.sources.postgres.columns import ReadColumn
from lakehouse.sources.postgres.connect import Connection, reading
from lakehouse.spec import Table
from lakehouse.spec.types import declared_type

NAMED = 5
"""So many rows are named."""

_ALLOWED = {
    "timestamp": "finite times of the years 1 to 9999",
    "date": "finite dates of the years 1 to 9999",
}


def allowed(column: ReadColumn) -> str:
    """What a column takes, in words."""
    return _ALLOWED.get(declared_type(column.field), f"what {declared_type(column.field)} holds exactly")


def refusal(
    connection: Connection, table: Table, relation: Relation, columns: Sequence[ReadColumn], within: str, tried: str
) -> ValueRefused:
    """A value that a column refuses, and the keys of the first rows that have one."""
    keys = ", ".join(f"{quoted(name)}::text" for name in table.key)
    for column in columns:
        if column.refused is None:
            continue
        name = column.field.name
        query = (
            f"select {quoted(name)}::text, {keys} from {relation.sql} "
            f"where ({within}) and {column.refused} order by {keys} limit {NAMED}"
        )
        with reading(tried):
            rows = connection.execute(query.encode()).fetchall()
        if rows:
            found = "; ".join(f"{row[0]} in {_named(table.key, row[1:])}" for row in rows)
            return ValueRefused(
                f"{tried}: column {name!r}",
                value=found,
                allowed=allowed(column),
                remedy=f'Correct the rows, or declare Column("{name}", "string") to keep its text.',
            )
    return ValueRefused(tried, value="a value that its type cannot hold", remedy="Declare the table's columns as string.")


def unreadable(
    connection: Connection, table: Table, relation: Relation, columns: Sequence[ReadColumn], within: str, tried: str, said: str
) -> ValueRefused:
    """The texts that are not UTF-8 in a database of encoding SQL_ASCII; elsewhere what the server said, without the rows.

    Such a database keeps whatever bytes it was given, and only its client can tell what they are.
    """
    with reading(tried):
        connection.execute("set client_encoding to 'SQL_ASCII'")
        encoding = connection.execute("select getdatabaseencoding()::text").fetchone()
    if encoding is not None and _text(encoding[0]) == "SQL_ASCII":
        for column in columns:
            if pa.types.is_string(column.field.type):
                found = "; ".join(_undecodable(connection, table, relation, column, within, tried))
                if found:
                    return _not_text(tried, column.field.name, found)
    return _not_text(tried, None, said)


def _undecodable(
    connection: Connection, table: Table, relation: Relation, column: ReadColumn, within: str, tried: str
) -> Iterator[str]:
    keys = ", ".join(f"{quoted(name)}::text" for name in table.key)
    query = f"select {column.value}, {keys} from {relation.sql} where {within} order by {keys}"
    left = NAMED
    with reading(tried), connection.cursor("unreadable") as cursor:
        cursor.execute(query.encode())
        for value, *key in cursor:
            if left and value is not None and _text(value) is None:
                left -= 1
                yield f"{value[:60]!r} in {_named(table.key, [_text(part) or repr(part) for part in key])}"


def _text(value: bytes | str) -> str | None:
    """The text of what the server sent; None when it is not UTF-8."""
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _not_text(tried: str, column: str | None, found: str) -> ValueRefused:
    return ValueRefused(
        tried if column is None else f"{tried}: column {column!r}",
        value=found,
        allowed="text that is UTF-8, or that the server can convert to it",
        remedy=f'Correct the rows, or declare Column("{column or "…"}", "binary") to keep its bytes.',
    )


def _named(names: Sequence[str], values: Sequence[object]) -> str:
    return "row " + ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
