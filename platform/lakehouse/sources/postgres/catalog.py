"""What is in a Postgres database: relations with their columns, types, comments and unique keys, from the system catalog."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import LiteralString

from lakehouse.errors import SourceMismatch
from lakehouse.rows.duck import quoted
from lakehouse.sources.postgres.connect import Connection
from lakehouse.spec import Table

TOAST_BYTES = 2 * 2**20
"""A table with less than this beside its rows has no large rows worth a look: compressed at most ninetyfold, they are 180 MB."""


@dataclass(frozen=True)
class CatalogColumn:
    """One column as the catalog has it.

    type: the base type's name (of a domain: what it stands on). built_in: whether that name is Postgres' own.
    element: the element type's name of an array, built-in ones only. modifier: `atttypmod` (-1: none). spelled: as SQL spells it.
    is_variable: whether its values have no fixed size.
    """

    name: str
    type: str
    built_in: bool
    is_array: bool
    element: str | None
    modifier: int
    spelled: str
    not_null: bool
    comment: str
    is_variable: bool


@dataclass(frozen=True)
class Relation:
    """One table, partitioned table, view or foreign table.

    kind: `pg_class.relkind`. unique_keys: the columns of each unique index that identifies every row, the primary key first.
    is_heap: its rows, those of its partitions and children too, lie in heaps. leaves: how many. pages: blocks of the longest.
    toast_bytes: bytes that are kept beside the rows. made: SQL for rows that stand in for those of the relation.
    """

    oid: int
    schema: str
    name: str
    kind: str
    comment: str
    columns: tuple[CatalogColumn, ...]
    unique_keys: tuple[tuple[str, ...], ...]
    is_heap: bool
    leaves: int
    pages: int
    toast_bytes: int
    made: str = ""

    @property
    def may_have_large_rows(self) -> bool:
        """Whether so much is kept beside the rows that some of them may be worth reading apart; a view's are not known."""
        return self.is_heap and self.toast_bytes >= TOAST_BYTES

    @property
    def sql(self) -> str:
        """The qualified name, quoted."""
        return self.made or f"{quoted(self.schema)}.{quoted(self.name)}"


_FIND: LiteralString = """
select c.oid::bigint, n.nspname, c.relname, c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), '')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = to_regclass(%s)::oid and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""

_STORED: LiteralString = """
with recursive tree(oid) as (
  select %s::oid union select i.inhrelid from pg_inherits i join tree t on i.inhparent = t.oid
)
select coalesce(bool_and(a.amname = 'heap' and c.relkind in ('r', 'm')), false), count(*),
  coalesce(max(pg_relation_size(c.oid)) / current_setting('block_size')::int, 0)::bigint,
  coalesce(sum(pg_relation_size(nullif(c.reltoastrelid, 0))), 0)::bigint
from tree join pg_class c using (oid) left join pg_am a on a.oid = c.relam
where c.relkind <> 'p'
"""

_LIST: LiteralString = """
select case when pg_table_is_visible(c.oid) then c.relname else n.nspname || '.' || c.relname end
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
  and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
order by 1 limit 100
"""

_COLUMNS: LiteralString = """
with recursive base(attnum, typid, typmod, not_null) as (
  select attnum, atttypid, atttypmod, attnotnull
  from pg_attribute where attrelid = %(oid)s and attnum > 0 and not attisdropped
  union all
  select b.attnum, t.typbasetype, case when t.typtypmod = -1 then b.typmod else t.typtypmod end, b.not_null or t.typnotnull
  from base b join pg_type t on t.oid = b.typid where t.typtype = 'd'
)
select a.attname, t.typname, t.typnamespace = 'pg_catalog'::regnamespace,
  t.typcategory = 'A' and t.typelem <> 0 and t.typlen = -1 and t.typname not in ('int2vector', 'oidvector'),
  case when e.typnamespace = 'pg_catalog'::regnamespace and e.typtype in ('b', 'r', 'm') then e.typname end,
  b.typmod, format_type(a.atttypid, a.atttypmod), b.not_null, coalesce(col_description(a.attrelid, a.attnum), ''), a.attlen = -1
from base b
join pg_type t on t.oid = b.typid
join pg_attribute a on a.attrelid = %(oid)s and a.attnum = b.attnum
left join pg_type e on e.oid = t.typelem and t.typcategory = 'A'
where t.typtype <> 'd'
order by a.attnum
"""

_KEYS: LiteralString = """
select array_agg(a.attname::text order by k.n)
from pg_index i
cross join lateral unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) with ordinality k(attnum, n)
join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
where i.indrelid = %s and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
group by i.indexrelid, i.indisprimary
having bool_and(a.attnotnull)
order by i.indisprimary desc, i.indexrelid
"""


def find_relation(connection: Connection, source: str, table: Table) -> Relation:
    """The relation of a declared table; SourceMismatch lists what is there."""
    wanted = table.relation or table.name
    row = connection.execute(_FIND, (_spelled(wanted),)).fetchone()
    if row is None:
        there = [str(found) for (found,) in connection.execute(_LIST).fetchall()]
        raise SourceMismatch(
            f"looking for table {table.name!r} of source {source!r} as {wanted!r}",
            value="no such table, or no right to see it",
            allowed=", ".join(there) or "nothing: the database has no tables",
            remedy="Correct the table's name, or give relation='schema.table' as the source spells it.",
        )
    oid, schema_name, relation_name, kind, comment = row
    stored = connection.execute(_STORED, (oid,)).fetchone()
    assert stored is not None
    columns = tuple(CatalogColumn(*column) for column in connection.execute(_COLUMNS, {"oid": oid}).fetchall())
    keys = tuple(tuple(found) for (found,) in connection.execute(_KEYS, (oid,)).fetchall())
    return Relation(oid, schema_name, relation_name, kind, comment, columns, keys, *stored)


def find_oids(connection: Connection, tables: Iterable[Table]) -> list[int]:
    """The oids of those of these tables that are there."""
    names = [_spelled(table.relation or table.name) for table in tables]
    found = connection.execute("select to_regclass(name)::oid::bigint from unnest(%s::text[]) name", (names,)).fetchall()
    return [oid for (oid,) in found if oid is not None]


def _spelled(wanted: str) -> str:
    schema, dot, name = wanted.partition(".")
    return f"{quoted(schema)}.{quoted(name)}" if dot else quoted(wanted)
