"""The seam of lake tables: what every format and engine can do. One contract suite runs over all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow as pa

from lakehouse.spec import FieldSpec, LogEntry, Marker, Partitioning, RowChecksum, Table


@dataclass(frozen=True)
class TableVersion:
    """One version of a lake table.

    version: the format's own number (Iceberg snapshot id). marker: what the copy holds. changed_days: UTC days (ISO dates) of the
    event time whose rows this version changed, empty when the table has no event time. partitions: names of those it rewrote,
    empty too when they were too many to write down.
    """

    version: int
    parent: int | None
    committed_at: datetime
    operation: str
    marker: Marker
    changed_days: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableState:
    """A lake table as it stands: its current version, schema, and size of live data files in bytes."""

    current: TableVersion
    schema: pa.Schema
    files: int
    bytes: int


@dataclass(frozen=True)
class Applied:
    """What one apply did; `entries` is 0 when there was nothing left to do, and `state` is then the state that was found."""

    state: TableState
    entries: int
    partitions: tuple[str, ...]
    changed_days: tuple[str, ...]
    rows_written: int


@dataclass(frozen=True)
class Fragments:
    """What a partition's rows are spread over."""

    files: int
    bytes: int


@dataclass(frozen=True)
class Keep:
    """Which versions of a table an expiry leaves: the newest so many, what was current at `since` or later, and the `needed`."""

    newest: int
    since: datetime
    needed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Compacted:
    """What a compaction did: the table as it left it, and the data files of the partitions before and after."""

    state: TableState
    before: int
    after: int


class LakeTables(Protocol):
    """The lake tables of one deployment. A table is named by source and table; a partition by `<column>_<transform>=<value>`."""

    def state(self, source: str, table: Table) -> TableState | None:
        """The table as it stands, or None when it was never applied."""
        ...

    def check(self, source: str, table: Table, fields: Sequence[FieldSpec]) -> None:
        """Whether a table with these columns could be built, or be the one that there is; nothing is changed.

        Raises SchemaChanged for another partitioning than the table has, DeclarationError for one that a column's type does not
        allow, SourceMismatch for a column that is not there, Unsupported for names that the format cannot hold.
        """
        ...

    def has_old_names(self, source: str, table: Table) -> bool:
        """Whether a column of the table as it stands has a name that the declaration says it had before.

        Such a table is to be built anew (`rebuild`): names are part of what a row's digest is made of.
        """
        ...

    def apply(self, source: str, table: Table, entries: Sequence[LogEntry], files_root: str) -> Applied:
        """Fold log entries (in order of sequence) into the table; rows and marker are one commit.

        One that begins the table anew (`Manifest.begins_anew`) makes it a `rebuild` from that entry on.

        Entries at or below the watermark are ignored; the others must follow on it without a gap. An entry that changes no row
        moves the watermark and rewrites nothing. files_root: the raw table's folder in the store, to which the paths in the
        manifests are relative. Raises CommitConflict when anything moved the table since it was read (nothing was committed:
        call again) and for one that `has_old_names`, TooLate, SchemaChanged, DamagedData, SourceMismatch (a column of the
        declaration that no batch brought), and WrongUse for a table that is not there and no entries.
        """
        ...

    def rebuild(
        self,
        source: str,
        table: Table,
        entries: Sequence[LogEntry],
        files_root: str,
        *,
        expected: RowChecksum | None = None,
    ) -> Applied:
        """Fold the whole log (`entries`, from the first) anew, in one commit over whatever the table holds, unread.

        The table is partitioned as it is declared then, whatever it was. Readers see the table as it was or as it is then, and
        its versions stay, each with the columns and the partitions that it had. Raises as `apply` does; CommitConflict when
        anything moved the table meanwhile, DamagedData when the fold is not the `expected` rows (nothing was committed).
        """
        ...

    def partitioning(self, source: str, table: Table) -> Partitioning | None:
        """How the table as it stands is partitioned, whatever is declared; None when it was never applied."""
        ...

    def restore(self, source: str, table: Table) -> str | None:
        """Lead the table to the newest of its metadata that can still be read, and say which; None when what it has can be.

        What was committed after that metadata is applied again from the raw log. Raises DamagedData when none can be read,
        CommitConflict when anybody moved the table meanwhile.
        """
        ...

    def scan(
        self,
        source: str,
        table: Table,
        *,
        partitions: Sequence[str] | None = None,
        version: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a version (default: the current one), all or those of the named partitions and columns.

        Every batch has the schema of that version, with its metadata: that of `state` for the current one. Memory is bounded by
        one row group.
        """
        ...

    def scan_by_partition(
        self,
        source: str,
        table: Table,
        *,
        partitions: Collection[str] | None = None,
        version: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        """As `scan`, each batch with the name of the partition whose files it is from.

        A column of texts may come as a dictionary, or as bytes: its digests are those of the schema's type.
        """
        ...

    def contents(self, source: str, table: Table, *, version: int | None = None) -> dict[str, str]:
        """What tells the files of each live partition of a version from any others: a text for each.

        The texts of two looks are equal only if the partition has the same data files and delete files, none of them written
        since. A text is empty when a file is missing. No file is read.
        """
        ...

    def partitions(self, source: str, table: Table, *, version: int | None = None) -> dict[str, int]:
        """Rows of each live partition; the one of an unpartitioned table is named `all`."""
        ...

    def changed_partitions(self, source: str, table: Table, since: int) -> tuple[str, ...] | None:
        """The partitions whose files differ between the version with marker sequence `since` and the current one.

        None when that version is gone or never was: take all. Names may include partitions that are empty now.
        """
        ...

    def history(self, source: str, table: Table) -> list[TableVersion]:
        """The versions that can still be read, oldest first."""
        ...

    def version_at(self, source: str, table: Table, moment: datetime) -> int | None:
        """The version that the table was at right before a moment, by the clocks of who committed.

        None where that cannot be told: what was current then may be gone, or was taken back since.
        """
        ...

    def tags(self, source: str, table: Table) -> dict[str, int]:
        """The versions that have a name, by their names."""
        ...

    def tag(self, source: str, table: Table, name: str, version: int | None) -> None:
        """Give a version a name, or take a name away (None). A name that the version has, or that nobody has, is no error.

        Raises WrongUse for a version that is not there and for a name that another version has, Unsupported for a table in a
        format without tags, CommitConflict when anything moved the table meanwhile: call again.
        """
        ...

    def referenced(self, source: str, table: Table) -> frozenset[str] | None:
        """The addresses of all files that any version of the table names, metadata too; None for a table that is not there."""
        ...

    def root(self, source: str, table: Table) -> str:
        """The folder of the store that all of the table's files are in, whether it is there or not."""
        ...

    def address(self, source: str, table: Table) -> str | None:
        """What leads other readers of the table's format to it as it stands now, as a URL; None for a table that is not there.

        An Iceberg table's metadata file, a Delta table's folder.
        """
        ...

    def is_metadata(self, source: str, table: Table, path: str) -> bool:
        """Whether a path of the store, by its name, is that of a file that says what the table is made of."""
        ...

    def rollback(self, source: str, table: Table, version: int) -> TableState:
        """Lead the table back to an earlier version, marker and all, in one commit; the next apply catches up from there.

        The state then: Iceberg makes that version the current one, Delta a new version that is like it. Raises WrongUse for a
        version that is partitioned in another way than the table is now.
        """
        ...

    def fragmented(self, source: str, table: Table) -> dict[str, Fragments]:
        """The partitions that `compact` would make into fewer files: of many small ones."""
        ...

    def compact(self, source: str, table: Table, partitions: Collection[str]) -> Compacted:
        """Write the rows of some partitions into as few files as the engine does, in one commit with the marker that there was.

        Raises CommitConflict when anything moved the table meanwhile (nothing was committed: call again), DamagedData when a file
        is not as it was written.
        """
        ...

    def expirable(self, source: str, table: Table, keep: Keep) -> tuple[int, ...]:
        """The versions that `expire` would forget: see there."""
        ...

    def expire(self, source: str, table: Table, keep: Keep) -> tuple[tuple[int, ...], TableState]:
        """Forget versions, in one commit; which, and the table as it is then. Their files are orphans afterwards.

        Versions that have a name are kept, too, and a format may have to keep more. Raises CommitConflict when anything moved the
        table meanwhile: call again.
        """
        ...
