"""A small application for tests of the whole path: one Postgres table of each mode, and a MongoDB collection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pymongo

from lakehouse import Column, Source, Table, bucket, days
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import Extracted, extract_source
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.verify import TableReport, verify_source_tables
from lakehouse.pipeline.windows import DayRange
from lakehouse.spec import lake_tables

FIRST = datetime(2026, 1, 1, tzinfo=UTC)

SHOP = Source(
    "shop",
    "postgres",
    (
        Table("orders", "append", ("id",), event_time="at", partition=days("at"), lookback=timedelta(hours=6)),
        Table(
            "customers",
            "upsert",
            ("id",),
            cursor="changed_at",
            event_time="created_at",
            partition=bucket("id", 2),
            deletes="sweep",
            lookback=timedelta(hours=1),
            personal={"email": "tokenise"},
        ),
        Table("prices", "snapshot", ("item",)),
    ),
)
CLICKS = Source(
    "clicks",
    "mongodb",
    (
        Table(
            "clicks",
            "append",
            ("_id",),
            event_time="at",
            format="delta",
            partition=days("at"),
            lookback=timedelta(hours=6),
            columns=(
                Column("_id", "string", "The document's id", nullable=False),
                Column("at", "timestamp", "When", nullable=False),
                Column("page", "string", "Which page"),
                Column("tags", "list<string>", "Labels"),
                Column("extra", "json", "Anything"),
                Column("device", "struct<os: string, sizes: list<int32>, seen: list<struct<at:timestamp, n:int64>>>", "What on"),
            ),
        ),
    ),
)
SHOP_IN_DELTA = Source(
    "shop_delta", "postgres", tuple(replace(table, format="delta", relation=table.name) for table in SHOP.tables)
)
"""The same tables of the same database once more, as Delta tables."""

DDL = """
create table orders (id bigint primary key, at timestamptz not null, amount numeric(10,2), note text);
create index on orders (at);
create table customers (
  id text primary key, email text, tier text, created_at timestamptz not null, changed_at timestamptz not null
);
create index on customers (changed_at);
create table prices (item text primary key, price double precision);
comment on table orders is 'What was bought';
comment on column orders.amount is 'In euros';
"""


@dataclass
class Shop:
    """The application's databases and the platform on them."""

    url: str
    mongo_url: str
    deployment: Deployment

    def sql(self, *statements: str) -> None:
        """Run statements, each committed."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def open(self) -> None:
        """Three days of orders, ten customers, two prices, clicks."""
        self.sql(*[part for part in DDL.split(";") if part.strip()])
        for day in range(3):
            self.order(day * 100, 50, FIRST + timedelta(days=day, hours=1))
        self.sql(
            "insert into customers select 'c' || i, 'c' || i || '@example.org', 'free',"
            " timestamptz '2026-01-01 05:00Z' + i * interval '1 hour', timestamptz '2026-01-01 05:00Z' + i * interval '1 hour'"
            " from generate_series(0, 9) i",
            "insert into prices values ('tea', 2.5), ('coffee', 3.25)",
        )
        self.click(30, FIRST + timedelta(hours=2))
        self.click(30, FIRST + timedelta(days=1, hours=2))

    def order(self, first: int, count: int, at: datetime) -> None:
        """`count` orders a minute apart."""
        self.sql(
            f"insert into orders select i, timestamptz '{at.isoformat()}' + (i - {first}) * interval '1 minute',"
            f" i * 0.25, case when i % 7 = 0 then null else 'žluť ' || i end from generate_series({first}, {first + count - 1}) i"
        )

    def click(self, count: int, at: datetime) -> None:
        """`count` clicks a second apart."""
        with pymongo.MongoClient[dict[str, Any]](self.mongo_url) as client:
            clicks = client.get_default_database()["clicks"]
            clicks.create_index("at")
            clicks.insert_many(
                {
                    "at": at + timedelta(seconds=i),
                    "page": f"/p/{i % 5}",
                    "tags": ["a", str(i)],
                    "extra": {"n": i, "deep": {"x": None}},
                    "device": {"os": "ž", "sizes": [i], "seen": [{"at": at, "n": i}, {}], "undeclared": i} if i else None,
                }
                for i in range(count)
            )

    def extract(self, days: DayRange | None = None, *, full: bool = False, accept_deletes: bool = False) -> dict[str, Extracted]:
        """The first hop, for both sources."""
        results = {}
        for source in self.deployment.sources:
            for result in extract_source(
                self.deployment, source, source.tables, days=days, full=full, accept_deletes=accept_deletes
            ):
                results[result.table] = result
        return results

    def run(self, days: DayRange | None = None, *, full: bool = False) -> dict[str, Extracted]:
        """All hops up to the warehouse."""
        results = self.extract(days, full=full)
        for source, table in self.deployment.select():
            apply_table(self.deployment, source, table)
            publish_table(self.deployment, source, table)
        return results

    def verify(self, *, deep: bool = False) -> dict[str, TableReport]:
        """Every copy of every table."""
        reports = {}
        for source in self.deployment.sources:
            for report in verify_source_tables(self.deployment, source, list(lake_tables(source)), deep=deep):
                reports[report.table] = report
        return reports

    def published(self, table: str, columns: str = "*") -> Sequence[dict[str, Any]]:
        """Rows of a published table."""
        name = f"`{self.deployment.settings.warehouse.database}`.`{table}`"
        rows: list[dict[str, Any]] = self.deployment.warehouse.query(f"select {columns} from {name}").to_pylist()
        return rows


def day(number: int) -> date:
    """A day of January 2026."""
    return date(2026, 1, number)


def assert_equal(shop: Shop) -> None:
    """Every copy of every table holds the same rows."""
    reports = shop.verify()
    assert {
        name: [(c.copy, c.differs, c.problem) for c in r.copies if not c.equal] for name, r in reports.items() if not r.equal
    } == {}
    for report in reports.values():
        assert len({(copy.rows, copy.checksum) for copy in report.copies}) == 1, report
