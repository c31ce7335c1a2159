"""The history of a table: each state that a row has had, and from when to when. Pure data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lakehouse.errors import SourceMismatch
from lakehouse.spec.batch import FieldSpec, LogEntry
from lakehouse.spec.declaration import INTERVAL_NAMES, Source, Table, history_name

VALID_FROM, VALID_TO, IS_CURRENT, DELETED = INTERVAL_NAMES

INTERVAL = (
    FieldSpec(VALID_FROM, "timestamp", False, "When the platform first saw the row so."),
    FieldSpec(VALID_TO, "timestamp", True, "When it first saw that the row was so no more; null while it is."),
    FieldSpec(IS_CURRENT, "bool", False, "Whether the row is still so."),
    FieldSpec(DELETED, "bool", False, "Whether it was so no more because it was found gone from the source."),
)
"""The columns that a history has besides those of its table."""


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
        on_refused="stop",
        description=f"The history of `{table.name}`: each state that its rows were seen in. {table.description}".strip(),
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


def declared_tables(tables: Iterable[Table]) -> list[Table]:
    """The declared tables among these, and those whose histories are: what is read of a source for them."""
    return list({logged(table).name: logged(table) for table in tables}.values())


def refuse_interval_names(table: Table, names: Collection[str]) -> None:
    """SourceMismatch when a table with a history has columns of the names that the history gives its own."""
    if table.history and (taken := [name for name in INTERVAL_NAMES if name in names]):
        raise SourceMismatch(
            f"keeping the history of table {table.name!r}",
            value=f"columns of the table: {', '.join(taken)}",
            allowed=f"a table without columns named {', '.join(INTERVAL_NAMES)}: its history has these",
            remedy="Let `relation` name a view that calls them otherwise, or leave history out.",
        )


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
