"""What is folded: tables of events in a store, with their raw logs, and a batch that is still to be applied.

fold      5M rows of 30 days, of which every second one is an earlier version of the next: nothing is there yet.
upsert    100k keys of 5 days, into a table of 365 days (10M rows) or more.
replace   one day of the 365, as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import pyarrow as pa

from benchmarks.folds import A_DAY
from lakehouse.raw import RawLog
from lakehouse.rows.duck import connect_duckdb
from lakehouse.settings import Settings, current_settings
from lakehouse.spec import BatchKind, Position, Table, Window
from lakehouse.spec.partitioning import days
from lakehouse.spec.types import arrow_field
from lakehouse.stores import ObjectStore, open_store
from lakehouse.tables import open_tables
from lakehouse.tables.datafiles import as_schema

SOURCE = "bench"
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
TOUCHED = {"upsert": 5, "replace": 1}
"""Days that a change is in, the first ones."""
FIELDS = {
    "id": "int64",
    "made_at": "timestamp",
    "user_id": "int64",
    "kind": "string",
    "amount": "decimal(12,2)",
    "score": "float64",
    "ok": "bool",
    "note": "string",
}
SCHEMA = pa.schema([arrow_field(name, declared) for name, declared in FIELDS.items()])
Scenario = Literal["fold", "upsert", "replace"]
Format = Literal["iceberg", "delta"]

_ROWS = """
select i // {versions} as id, timestamptz '2025-01-01 00:00:00+00' + (i // {versions} % {days}) * interval 1 day
  + ((i // {versions}) * 7919 % 86400) * interval 1 second as made_at,
  (i * 31) % 100000 as user_id, 'kind ' || (i % 12) as kind, ((i * 17) % 1000000 / 100)::decimal(12, 2) as amount,
  sqrt(i) + {change} as score, i % 7 = 0 as ok, 'note ' || md5(i::varchar)[:20] as note
from range({first}, {last}) as r(i)
"""


@dataclass(frozen=True)
class Events:
    """A table of events, whose rows are made by number. rows: before the change; of `fold`, those of the change."""

    scenario: Scenario
    format: Format
    rows: int

    @property
    def table(self) -> Table:
        """Its declaration."""
        mode: Literal["append", "upsert"] = "append" if self.scenario == "replace" else "upsert"
        cursor = None if mode == "append" else "score"
        key = ("id",) if self.scenario == "fold" else ("id", "made_at")
        name = f"{self.scenario}_{self.rows}"
        return Table(name, mode, key, cursor=cursor, event_time="made_at", partition=days("made_at"), format=self.format)

    @property
    def days(self) -> list[str]:
        """The days that a change touches."""
        return [f"{BEGIN + timedelta(days=number):%Y-%m-%d}" for number in range(TOUCHED.get(self.scenario, 30))]

    @property
    def end(self) -> datetime:
        """The end of the days that a change touches."""
        return BEGIN + timedelta(days=len(self.days))

    def rows_sql(self, first: int, last: int, change: float = 0.0) -> str:
        """A DuckDB query for the rows of some numbers; change: is added to the score, which is the cursor."""
        versions, days = (2, 30) if self.scenario == "fold" else (1, -(-self.rows // A_DAY))
        return _ROWS.format(versions=versions, days=days, first=first, last=last, change=change)

    def change_sql(self) -> str:
        """A query for the rows of the change."""
        if self.scenario == "fold":
            return self.rows_sql(0, self.rows)
        inside = f"made_at < timestamptz '{self.end:%Y-%m-%d %H:%M:%S}+00'"
        limit = " order by id limit 100000" if self.scenario == "upsert" else ""
        return f"select * from ({self.rows_sql(0, self.rows, change=0.5)}) where {inside}{limit}"


@dataclass(frozen=True)
class Prepared:
    """A table of events in a store, its change landed and not applied."""

    events: Events
    settings: Settings

    @classmethod
    def of(cls, events: Events, store: str, engine: str = "embedded") -> Prepared:
        """In the deployment that the environment names, in a store by its address: `file://…`, or `s3://…` in its S3 server."""
        settings = current_settings()
        update: dict[str, object] = {"url": store}
        if store.startswith("file://"):
            update |= {"endpoint": "", "access_key": None, "secret_key": None}
        chosen = settings.store.model_copy(update=update)
        return cls(events, settings.model_copy(update={"store": chosen, "engine": engine, "threads": 2}))

    @property
    def store(self) -> ObjectStore:
        """The store that everything is in."""
        return open_store(self.settings.store)

    @property
    def log(self) -> RawLog:
        """The raw log, which the tables of both formats have in common."""
        return RawLog(self.store, SOURCE, self.events.table)

    @property
    def change(self) -> list[str]:
        """The addresses of the files of the change."""
        return [self.store.url_of(f"{self.log.folder}/{file.path}") for file in self.log.entries()[-1].manifest.files]

    def prepare(self) -> None:
        """Land everything, and build the table as it is before the change."""
        events = self.events
        if not self.log.head():
            if events.scenario != "fold":
                kind: BatchKind = "upsert" if events.scenario == "upsert" else "snapshot"
                self._land(kind, events.rows_sql(0, events.rows))
            window = Window(BEGIN, events.end) if events.scenario == "replace" else None
            self._land("replace" if window else "upsert", events.change_sql(), window)
        if events.scenario != "fold":
            open_tables(self.settings, self.store).apply(SOURCE, events.table, self.log.entries()[:1], self.log.folder)

    def reset(self) -> None:
        """The table as it was before the change, whoever has changed it."""
        tables = open_tables(self.settings, self.store)
        if self.events.scenario != "fold":
            tables.rollback(SOURCE, self.events.table, tables.history(SOURCE, self.events.table)[0].version)
            return
        if self.events.format == "iceberg":
            from lakehouse.tables.iceberg.catalog import LakeCatalog

            made = LakeCatalog(self.settings, self.store.url).load(SOURCE, self.events.table.name)
            if made is not None:
                made.catalog.drop_table(made.name())
        for info in self.store.list(tables.root(SOURCE, self.events.table)):
            self.store.delete(info.path)

    def _land(self, kind: BatchKind, query: str, window: Window | None = None) -> None:
        rows = connect_duckdb().execute(query).to_arrow_reader(100_000)
        log, position = self.log, Position(BEGIN, BEGIN, True)
        written = log.write((as_schema(batch, SCHEMA) for batch in rows), SCHEMA)
        log.claim(log.manifest(written, kind=kind, window=window, closed=True, schema=SCHEMA, position=position))
