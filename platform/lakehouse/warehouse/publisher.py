"""The seam of warehouses: what every one of them can do. One contract suite runs over all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import pyarrow as pa

from lakehouse.spec import Marker, Table
from lakehouse.spec.soft_delete import ALL_ROWS

OUTDATED = "not what is there"
"""What readers see where the view that hides rows is gone, or was made for other columns."""


@dataclass(frozen=True)
class Published:
    """A published table as it stands: its marker, the lake version it was copied from, rows and bytes on disk.

    reading: what its readers see of the rows, as `Table.reading` says what they are to see; `OUTDATED` where neither is so.
    """

    marker: Marker
    version: int
    rows: int
    bytes: int
    reading: str = ALL_ROWS


@dataclass(frozen=True)
class Leftover:
    """A table that a publication which did not end left beside the published one."""

    name: str
    bytes: int
    age: timedelta


class Warehouse(Protocol):
    """Published tables, named `<source>__<table>` in the warehouse's database.

    Where a table hides the rows that `soft_delete` marks, that name is a view without them, and all rows are in
    `<source>__<table>__with_deleted`. Whatever is said here of rows, but for what readers see, is of all of them.
    """

    def check(self) -> None:
        """Connect; WarehouseUnavailable or ConfigurationError (wrong password) with what to do."""
        ...

    def state(self, source: str, table: Table) -> Published | None:
        """The published table, or None when it was never published."""
        ...

    def publish(
        self,
        source: str,
        table: Table,
        schema: pa.Schema,
        *,
        marker: Marker,
        version: int,
        partitions: Sequence[str] | None,
        scan: Callable[[Sequence[str] | None], Iterator[pa.RecordBatch]],
        base: Published | None = None,
    ) -> Published:
        """Replace the named partitions (None: the whole table) by what `scan` gives, and the marker, in one exchange.

        base: the publication that `partitions` were compared with (None: as it stands when this is called).

        A reader sees the table as it was or as it is now, nothing between. When it returns, readers see what the table's
        declaration says (`Table.reading`), even if the rows were published before. A named partition without rows is dropped.
        After a failure at any moment the old table stands; what was left beside it is removed by the next publish. `scan` may be
        called again with None, when the whole table must be copied after all. Raises CommitConflict when the table is not `base`
        any more: call again with what has changed since; DamagedData when the rows are not as many as the marker says.
        """
        ...

    def republish(
        self,
        source: str,
        table: Table,
        schema: pa.Schema,
        *,
        marker: Marker,
        version: int,
        scan: Callable[[Sequence[str] | None], Iterator[pa.RecordBatch]],
        than: Published | None,
    ) -> Published:
        """Copy the whole table anew, whatever stands under its name, and exchange it in as `publish` does.

        than: what was found published (None: nothing, or a table without a marker). Raises CommitConflict when it is another by
        now. A table without a marker is kept under a name that begins with `__kept__`.
        """
        ...

    def leftovers(self, source: str, table: Table) -> list[Leftover]:
        """What unfinished publications of a table left, and what one that is under way is building."""
        ...

    def drop_leftovers(self, source: str, table: Table) -> None:
        """Remove them when no publisher of the table is at work: this waits for its lock."""
        ...

    def drop(self, source: str, table: Table) -> None:
        """Remove a published table; nothing happens when there is none."""
        ...

    def marked(self, source: str, table: Table) -> int:
        """How many published rows `soft_delete` marks; 0 where nothing is published, or it has no such column yet."""
        ...

    def scan(self, source: str, table: Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """All published rows, cast to `schema`."""
        ...

    def contents(self, source: str, table: Table) -> dict[str, str] | None:
        """What tells the rows of each published partition from any others: a text for each, by the warehouse's own name of it.

        The texts of two looks are equal only if the partition's stored bytes are the same, and read in the same way. None when
        this cannot be told: then take every partition as changed. No row is read.
        """
        ...

    def scan_by_partition(
        self, source: str, table: Table, schema: pa.Schema, partitions: Collection[str] | None = None
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """The rows of the named partitions, or of all, each batch with the name that `contents` gives its partition.

        A column of texts may come as a dictionary, or as bytes: its digests are those of the schema's type.
        """
        ...

    def append_rows(self, relation: str, rows: pa.Table, order: Sequence[str], view: str) -> None:
        """Add rows to a table of the platform's own, sorted by the columns `order`.

        The table is made when it is not there, and so is a view over it: `view` is the statement, with `{database}` before the
        names. After a failure the rows may be there.
        """
        ...

    def read_statistics_marker(self) -> dict[str, int]:
        """The sequence of each published table (`source.table`) that the statistics were last built from; empty at first."""
        ...

    def write_statistics_marker(self, sequences: dict[str, int]) -> None:
        """Record what the statistics were built from; durable when it returns."""
        ...

    def query(self, sql: str) -> pa.Table:
        """The result of a statement; a LakehouseError carries the server's own message."""
        ...
