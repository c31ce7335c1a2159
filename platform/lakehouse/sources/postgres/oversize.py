"""Large rows, read a few at a time.

DuckDB makes 2,048 rows at once, which is little for ordinary rows and too much for rows of a hundred megabytes. So the server
lists the rows above 16 kB, by sizes that it knows without reading the values, and they are read apart from the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lakehouse.rows.duck import quoted
from lakehouse.sources.postgres.catalog import CatalogColumn, Relation
from lakehouse.sources.postgres.connect import Connection

ROW_BYTES = 16 * 2**10
"""Rows above this are large."""

TOGETHER_BYTES = 16 * 2**20
"""Large rows are read together up to this, or alone."""

_LENGTH_KNOWN = ("text", "varchar", "bpchar", "bytea")

Place = tuple[int, str, int]
"""Of a large row: the oid of the table that holds it, its ctid, its size."""


def size_sql(columns: Sequence[CatalogColumn]) -> str:
    """SQL: the bytes of a row's variable parts; of text and bytea as they are, of other types as they are stored."""
    sizes = []
    for column in columns:
        if column.is_variable:
            known = column.built_in and not column.is_array and column.type in _LENGTH_KNOWN
            sizes.append(f"coalesce({'octet_length' if known else 'pg_column_size'}({quoted(column.name)}), 0)::bigint")
    return " + ".join(sizes) or "0"


def parted(
    connection: Connection, relation: Relation, columns: Sequence[CatalogColumn], conditions: Sequence[str], within: str
) -> tuple[str, ...]:
    """The conditions, each without the large rows, and conditions for those; `conditions` themselves where there are none.

    within: the condition that all of them together make.
    """
    size = size_sql(columns)
    places = connection.execute(
        f"select tableoid::bigint, ctid::text, {size} from {relation.sql} where ({within}) and {size} > {ROW_BYTES}".encode()
    ).fetchall()
    if not places:
        return tuple(conditions)
    small = [f"({condition}) and {size} <= {ROW_BYTES}" for condition in conditions]
    return (*small, *_together((int(oid), str(ctid), int(size)) for oid, ctid, size in sorted(places)))


def _together(places: Iterable[Place]) -> Iterator[str]:
    held: list[Place] = []
    for place in places:
        if held and (place[0] != held[0][0] or sum(size for _, _, size in held) + place[2] > TOGETHER_BYTES):
            yield _condition(held)
            held = []
        held.append(place)
    if held:
        yield _condition(held)


def _condition(places: Sequence[Place]) -> str:
    ctids = ",".join(f'"{ctid}"' for _, ctid, _ in places)
    return f"tableoid = {places[0][0]} and ctid = any('{{{ctids}}}'::tid[])"
