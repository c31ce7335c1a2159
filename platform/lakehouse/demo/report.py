"""What a load and a tick say they did."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime

POSTGRES_TABLES = ("users", "user_usage_stats", "user_sessions", "api_logs", "user_preferences")
MONGO_COLLECTIONS = ("conversations", "messages")


@dataclass(frozen=True)
class Loading:
    """Progress of one table or collection: rows written so far, and rows in all."""

    table: str
    rows: int
    total: int

    def __str__(self) -> str:
        return f"{self.table}: {self.rows:,} of {self.total:,} rows"


@dataclass(frozen=True)
class LoadReport:
    """Rows of each table as they were loaded, the UTC day before which they end, and whether they were there already."""

    rows: dict[str, int]
    until: date
    already_loaded: bool


@dataclass
class Changes:
    """What one tick did to one table; `days`: UTC days of the event time of each row that it touched."""

    inserted: int = 0
    updated: int = 0
    soft_deleted: int = 0
    hard_deleted: int = 0
    late: int = 0
    days: set[date] = field(default_factory=set)


@dataclass(frozen=True)
class TickReport:
    """One more hour of life: its number, counted from 1, its span `[start, end)` in UTC, and what it did to each table.

    A soft delete is also counted as an update, a late row also as inserted. `late`: rows whose time lies before the hour.
    """

    number: int
    start: datetime
    end: datetime
    changes: dict[str, Changes]
