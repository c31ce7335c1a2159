"""The history of a table: each state that a row has had, and from when to when. Pure data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lakehouse.spec.batch import FieldSpec, LogEntry
from lakehouse.spec.declaration import Source, Table, history_name

VALID_FROM, VALID_TO, IS_CURRENT, DELETED = "valid_from", "valid_to", "is_current", "deleted"

INTERVAL = (
    FieldSpec(VALID_FROM, "timestamp", False, "When the platform first saw the row so."),
    FieldSpec(VALID_TO, "timestamp", True, "When it first saw that the row was so no more; null while it is."),
    FieldSpec(IS_CURRENT, "bool", False, "Whether the row is still so."),
    FieldSpec(DELETED, "bool", False, "Whether it was so no more because it was found gone from the source."),
)
"""The columns that a history has besides those of its table."""

INTERVAL_NAMES = tuple(field.name for field in INTERVAL)


@dataclass(frozen=True, kw_only=True)
class History(Table):
    """The history of a table, as the lake and the warehouse have it: a table of its own, folded from the log of the other.

    of: the table whose history it is.
    """

    of: Table

    @property
    def row_key(self) -> tuple[str, ...]:
        """The key of the table: a batch changes intervals of the rows that it brings."""
        return self.of.key


def history_of(table: Table) -> History:
    """The history of a table that is declared with one."""
    return History(
        name=history_name(table.name),
        mode="upsert",
        key=(*table.key, VALID_FROM),
        cursor=VALID_FROM,
        partition=table.partition,
        format=table.format,
        renamed=table.renamed,
        description=f"The history of `{table.name}`: a row for each state that the platform saw a row in. {table.description}".strip(),
        of=table,
    )


def lake_tables(source: Source) -> Iterator[Table]:
    """What lake and warehouse have of a source: each declared table, followed by its history if it is to have one."""
    for table in source.tables:
        yield table
        if table.history:
            yield history_of(table)


def logged(table: Table) -> Table:
    """The table in whose raw log a table's rows are: itself, or the one that it is the history of."""
    return table.of if isinstance(table, History) else table


def dated(entries: Sequence[LogEntry]) -> list[LogEntry]:
    """All entries of a log in order, with moments (`position.taken_at`) of which each is after the one before.

    It is when the source was read. Where that is not after the entry before it (two batches of one view of the source, or a clock
    that was set back), the moment is a microsecond after that of the entry before it.
    """
    found: list[LogEntry] = []
    last: datetime | None = None
    for entry in sorted(entries, key=lambda entry: entry.sequence):
        position = entry.manifest.position
        last = position.taken_at if last is None else max(position.taken_at, last + timedelta(microseconds=1))
        found.append(replace(entry, manifest=replace(entry.manifest, position=replace(position, taken_at=last))))
    return found
