"""The table beside a table that keeps the rows it refuses. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Literal

from lakehouse.spec.batch import FieldSpec
from lakehouse.spec.declaration import QUARANTINE, Table

State = Literal["open", "discarded"]
SourceForm = Literal["text", "bson"]
Form = Literal["text", "bson", "arrow"]

QUARANTINED = (
    FieldSpec("row_id", "string", False, "What tells the row from others: a digest of its key, or of all of it."),
    FieldSpec("state", "string", False, "`open`, or `discarded` by somebody who looked at it."),
    FieldSpec("column", "string", False, "The column that refuses its value."),
    FieldSpec("reason", "string", False, "What was found, and what is allowed."),
    FieldSpec("key", "string", True, "The key, as a JSON list; null where a value of it is itself refused."),
    FieldSpec("row", "string", True, "The row as JSON, to be looked at."),
    FieldSpec("form", "string", False, "How `original` has the row: `text`, `bson` or `arrow`."),
    FieldSpec("original", "binary", False, "The row as it came, exact, but for what is personal."),
    FieldSpec("moment", "timestamp", True, "Its event time, or its cursor."),
    FieldSpec("seen_at", "timestamp", False, "When it came into this state, by the source's clock."),
    FieldSpec("position", "string", False, "Where the source stood when the row was read, as JSON."),
    FieldSpec("run_id", "string", False, "The run that read it."),
)
"""The columns of every quarantine."""


@dataclass(frozen=True)
class QuarantinedRow:
    """A row of a quarantine; its fields are the columns."""

    row_id: str
    state: State
    column: str
    reason: str
    key: str | None
    row: str | None
    form: Form
    original: bytes
    moment: datetime | None
    seen_at: datetime
    position: str
    run_id: str

    def is_before(self, other: QuarantinedRow) -> bool:
        """Whether the other is the row as it was read later, with other values."""
        return self.original != other.original and self.seen_at <= other.seen_at


COLUMNS = tuple(field.name for field in fields(QuarantinedRow))


def quarantine_name(table: Table) -> str:
    """What the quarantine of a table is called."""
    return f"{table.name}{QUARANTINE}"


@dataclass(frozen=True)
class QuarantineTable(Table):
    """The quarantine of a table, as a table: it has a raw log, is applied, published and verified like any other."""


def quarantine_of(table: Table) -> QuarantineTable:
    """The quarantine of a declared table."""
    return QuarantineTable(
        quarantine_name(table),
        "upsert",
        ("row_id",),
        cursor="seen_at",
        format=table.format,
        on_refused="stop",
        description=f"Rows of `{table.name}` that it could not take, as they came.",
    )
