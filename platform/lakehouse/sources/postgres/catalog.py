"""What is in a Postgres database: relations with their columns, types, comments and unique keys, from the system catalog."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString

from lakehouse.errors import SourceMismatch
from lakehouse.rows.duck import quoted
from lakehouse.sources.postgres.connect import Connection
from lakehouse.spec import Table


@dataclass(frozen=True)
class CatalogColumn:
    """One column as the catalog has it.

    type: the base type's name (of a domain: what it stands on). built_in: whether that name is Postgres' own.
    element: the element type's name of an array, built-in ones only. modifier: `atttypmod` (-1: none). spelled: as SQL spells it.
    """

    name: str
    type: str
    built_in: bool
    is_array: bool
    element: str | None
    is_domain: bool
    modifier: int
    spelled: str
    not_null: bool
    comment: str


@dataclass(frozen=True)
class Relation:
    """One table, partitioned table, view or foreign table.

    kind: `pg_class.relkind`. unique_keys: the columns of each unique index that identifies every row, the primary key first.
    pages: blocks of its own heap, 0 where it has none.
    """

    schema: str
    name: str
    kind: str
    comment: str
    columns: tuple[CatalogColumn, ...]
    unique_keys: tuple[tuple[str, ...], ...]
    is_heap: bool
    pages: int

    @property
    def sql(self) -> str:
        """The qualified name, quoted."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"


_FIND: LiteralString = """
select c.oid, n.nspname, c.relname, c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), ''),
  coalesce(a.amname = 'heap', false),
  case when c.relkind in ('r', 'm') then pg_relation_size(c.oid) / current_setting('block_size')::int else 0 end
from pg_class c join pg_namespace n on n.oid = c.relnamespace left join pg_am a on a.oid = c.relam
where c.oid = to_regclass(%s)::oid and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""

_LIST: LiteralString = """
select case when pg_table_is_visible(c.oid) then c.relname else n.nspname || '.' || c.relname end
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
  and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
order by 1 limit 100
"""

_COLUMNS: LiteralString = """
with recursive base(attnum, typid, typmod, domain, not_null) as (
  select attnum, atttypid, atttypmod, false, attnotnull
  from pg_attribute where attrelid = %(oid)s and attnum > 0 and not attisdropped
  union all
  select b.attnum, t.typbasetype, case when t.typtypmod = -1 then b.typmod else t.typtypmod end, true, b.not_null or t.typnotnull
  from base b join pg_type t on t.oid = b.typid where t.typtype = 'd'
)
select a.attname, t.typname, t.typnamespace = 'pg_catalog'::regnamespace,
  t.typcategory = 'A' and t.typelem <> 0 and t.typlen = -1 and t.typname not in ('int2vector', 'oidvector'),
  case when e.typnamespace = 'pg_catalog'::regnamespace and e.typtype in ('b', 'r', 'm') then e.typname end,
  b.domain, b.typmod, format_type(a.atttypid, a.atttypmod), b.not_null, coalesce(col_description(a.attrelid, a.attnum), '')
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
    schema, dot, name = wanted.partition(".")
    spelled = f"{quoted(schema)}.{quoted(name)}" if dot else quoted(wanted)
    row = connection.execute(_FIND, (spelled,)).fetchone()
    if row is None:
        there = [str(found) for (found,) in connection.execute(_LIST).fetchall()]
        raise SourceMismatch(
            f"looking for table {table.name!r} of source {source!r} as {wanted!r}",
            value="no such table, or no right to see it",
            allowed=", ".join(there) or "nothing: the database has no tables",
            remedy="Correct the table's name, or give relation='schema.table' as the source spells it.",
        )
    oid, schema_name, relation_name, kind, comment, is_heap, pages = row
    columns = tuple(CatalogColumn(*column) for column in connection.execute(_COLUMNS, {"oid": oid}).fetchall())
    keys = tuple(tuple(found) for (found,) in connection.execute(_KEYS, (oid,)).fetchall())
    return Relation(schema_name, relation_name, kind, comment, columns, keys, is_heap, int(pages))
