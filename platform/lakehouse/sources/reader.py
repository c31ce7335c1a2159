"""The seam of sources: what every kind of source can do. One contract suite runs over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow as pa

from lakehouse.spec import Position, Table, Window
from lakehouse.spec.quarantine import SourceForm


@dataclass(frozen=True)
class RefusedRows:
    """Rows of a read with values that their columns cannot hold: they are left out of its batches, and are here as they came.

    form: how. `text`: `originals` has each column as the source writes it as text. `bson`: it has one column, the document
      without its personal fields.
    shown: that document as JSON, where it can be read at all; empty for `text`.
    known: of each row the key columns and the one that windows are cut by, null where that value is itself refused.
    columns, reasons: of each row the first column that refuses its value, and what was found, but for what is personal.
    """

    form: SourceForm
    originals: pa.RecordBatch
    known: pa.RecordBatch
    columns: Sequence[str]
    reasons: Sequence[str]
    shown: Sequence[str] = ()


Refuse = Callable[[RefusedRows], None]
"""Takes the rows that a read leaves out; called from the thread that reads."""


class SourceSnapshot(Protocol):
    """One consistent view of a source; its methods may be called from several threads at once."""

    @property
    def position(self) -> Position:
        """Where the source stood; noted before the snapshot was taken."""
        ...

    def extent(
        self, table: Table, column: str, near: tuple[datetime, datetime] | None = None
    ) -> tuple[datetime, datetime] | None:
        """The least and the greatest value of a timestamp column, or None for a table without rows.

        near: where they were the last time; it may save questions and never changes the answer.
        """
        ...

    def read(self, table: Table, window: Window | None = None, refuse: Refuse | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of `table`, with the schema that `SourceReader.schema` gives, in batches of bounded size.

        window: of the event time for mode `append`, of the cursor for mode `upsert`; None reads all rows.
        refuse: is given each row, once, with a value that its declared type cannot hold exactly, and the read goes on without
        it. Raises ValueRefused for such a row otherwise.
        Raises SourceUnavailable when the source goes away: nothing after that batch is yielded.
        """
        ...

    def keys(self, table: Table, refuse: Refuse | None = None) -> Iterator[pa.RecordBatch]:
        """The key columns of every row; refuse: is given those whose key is refused."""
        ...

    def again(self, table: Table, form: SourceForm, originals: Sequence[bytes], refuse: Refuse) -> Iterator[pa.RecordBatch]:
        """Rows that were refused before, from their originals, as the table is declared today.

        originals: JSON objects of text by column for form `text`, documents for `bson`. refuse: is given those that still are.
        """
        ...


class SourceReader(Protocol):
    """One source. Opening it does no I/O; `close` frees connections."""

    def check(self, tables: Sequence[Table]) -> None:
        """Connect and compare the declaration with the source, before any work.

        Raises SourceUnavailable (unreachable), ConfigurationError (wrong password, no right), SourceMismatch (a missing table
        or column, named, with those that are there).
        """
        ...

    def schema(self, table: Table) -> pa.Schema:
        """The Arrow schema of the rows (fields made by `lakehouse.spec.types.arrow_field`, with descriptions)."""
        ...

    def warnings(self, table: Table) -> tuple[str, ...]:
        """What makes reading the table slow, or its windows less sure, and what to do; asked before anything is read."""
        ...

    def snapshot(self) -> AbstractContextManager[SourceSnapshot]:
        """A consistent view, held until the context ends."""
        ...

    def close(self) -> None:
        """Free what is held; calling it twice is harmless."""
        ...
