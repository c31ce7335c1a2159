"""The data: a narrow table, a wide one, and one with a time, of which a day is read. The server makes it, the same each time."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg


@dataclass(frozen=True)
class Relation:
    """A table of the benchmark: its columns, and the expressions over `i` that fill them."""

    name: str
    columns: tuple[tuple[str, str, str], ...]

    def fill(self, connection: psycopg.Connection, rows: int) -> None:
        """Create the table with `rows` rows, and let the server know its size."""
        columns = ", ".join(f"{name} {type_}" for name, type_, _ in self.columns)
        values = ", ".join(expression for _, _, expression in self.columns)
        connection.execute(f"create unlogged table {self.name} ({columns}, primary key (id))".encode())
        connection.execute(f"insert into {self.name} select {values} from generate_series(1, {rows}) i".encode())
        connection.execute(f"vacuum (freeze, analyze) {self.name}".encode())


NARROW = Relation(
    "narrow",
    (
        ("id", "bigint not null", "i"),
        ("account", "integer not null", "i::bigint * 7919 % 100003"),
        ("at", "timestamptz not null", "timestamptz '2026-01-01 00:00Z' + i * interval '317 milliseconds'"),
        ("kind", "text not null", "(array['view','click','buy','leave'])[1 + i % 4]"),
        ("amount", "numeric(12,2)", "case when i % 9 = 0 then null else (i % 1000003) * 0.01 end"),
        ("share", "double precision", "(i % 977) / 977.0"),
        ("ok", "boolean not null", "i % 13 <> 0"),
        ("note", "text", "case when i % 3 = 0 then null else 'note ' || i % 5000 end"),
    ),
)
_TEXTS = (
    "md5(i::text)",
    "md5(i::text) || ' ' || md5((i + 1)::text)",
    "repeat(chr(97 + i % 26), i % 60)",
    "'žluť ' || i % 900",
)
_DOCUMENT = (
    "jsonb_build_object('n', i, 'tags', array['a', (i % 7)::text],"
    " 'deep', jsonb_build_object('x', i % 11 * 0.5, 'text', md5(i::text)))"
)
WIDE = Relation(
    "wide",
    (
        ("id", "bigint not null", "i"),
        *((f"number{n}", "integer", f"case when i % {n + 5} = 0 then null else i % {1000 + n} end") for n in range(6)),
        *((f"text{n}", "text", f"case when i % {n + 8} = 0 then null else {text} end") for n, text in enumerate(_TEXTS * 2)),
        *((f"at{n}", "timestamptz", f"timestamptz '2026-01-01 00:00Z' + i * interval '{n + 1} seconds'") for n in range(3)),
        *((f"amount{n}", "numeric(18,4)", f"(i::bigint * {n + 3} % 10000019) * 0.0001") for n in range(2)),
        ("document", "jsonb", _DOCUMENT),
        ("settings", "jsonb", "case when i % 2 = 0 then null else jsonb_build_object('theme', 'dark', 'size', i % 40) end"),
        ("numbers", "integer[]", "array[i % 10, null, i % 100]"),
        ("labels", "text[]", "array['one', 'two ' || i % 50]"),
        ("token", "uuid", "md5(i::text)::uuid"),
        *((f"flag{n}", "boolean", f"i % {n + 2} = 0") for n in range(2)),
        *((f"share{n}", "double precision", f"(i % {n + 991}) / 991.0") for n in range(2)),
        ("day", "date", "date '2026-01-01' + i % 365"),
    ),
)


def fill_days(connection: psycopg.Connection, name: str, days: int, rows_a_day: int) -> None:
    """A table with `rows_a_day` rows on each of `days` days, one day after the other."""
    columns = "id bigint primary key, at timestamptz not null, account integer not null, note text"
    at = f"timestamptz '2026-01-01 00:00Z' + (i - 1) * interval '{86_400_000 // rows_a_day} milliseconds'"
    connection.execute(f"create unlogged table {name} ({columns})".encode())
    rows = f"select i, {at}, i % 1009, md5(i::text) from generate_series(1, {days * rows_a_day}) i"
    connection.execute(f"insert into {name} {rows}".encode())
    connection.execute(f"create index on {name} (at)".encode())
    connection.execute(f"vacuum (freeze, analyze) {name}".encode())
