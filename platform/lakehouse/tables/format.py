"""The seam of table formats: what a format knows about a table, and how it commits. Engines make files; formats name them.

The one rule of every format: a commit holds files and marker, and it goes through only if nothing has moved the table since the
handle that it started from was loaded. It is never tried again from there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.spec import FieldSpec, Marker, Partitioning, Table
from lakehouse.tables.engine import TableState, TableVersion
from lakehouse.tables.partitions import PartitionScheme


class CommitMoved(Exception):
    """A commit that certainly did not go through: the table moved, or was made, since the handle was loaded."""


class CommitUnknown(Exception):
    """A commit that may or may not have gone through; its cause is what was raised on the way."""


@dataclass(frozen=True)
class DataFile:
    """A live data file, and the partition that it belongs to, as `PartitionScheme` names it.

    rows: those in the file, deleted ones too. deletes: addresses of what says that some of them are deleted. own: the format's.
    """

    url: str
    partition: str
    rows: int
    bytes: int
    deletes: tuple[str, ...] = ()
    own: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class StoredFile:
    """A data file that is in the store and that no commit names yet; footer: that of its Parquet."""

    url: str
    partition: str
    bytes: int
    footer: pq.FileMetaData


class TableHandle(Protocol):
    """A table as it stood when it was loaded. Everything that is read from it is of that moment."""

    @property
    def current(self) -> int | None:
        """The version that is current; None for a table that has none yet."""
        ...

    @property
    def address(self) -> str:
        """What leads other readers of the format to the table: an Iceberg table's metadata as loaded, a Delta table's folder."""
        ...

    @property
    def fields(self) -> tuple[FieldSpec, ...]:
        """The columns as they are now."""
        ...

    def check_partitioning(self, table: Table) -> None:
        """SchemaChanged when the table is partitioned in another way than it is declared now."""
        ...

    def partitioning(self, version: int) -> Partitioning:
        """How the files of a version are partitioned: a rebuild can have changed it since."""
        ...

    def version(self, version: int | None) -> int:
        """The number of a version (None: the current one), if it can be read; WrongUse otherwise."""
        ...

    def schema(self, version: int) -> pa.Schema:
        """The columns that the table had at a version; its checksum is of these."""
        ...

    def marker(self, version: int) -> Marker:
        """The marker of a version; DamagedData when it has none, since another tool made it."""
        ...

    def at_sequence(self, sequence: int) -> int | None:
        """The latest version with that watermark: all of them hold the same rows. None when none can be read."""
        ...

    def committed(self, commit_id: str) -> int | None:
        """The version that the commit of that id made; None when none that can be read has it."""
        ...

    def history(self) -> list[TableVersion]:
        """The versions that can be read and have a marker, oldest first."""
        ...

    def state(self, version: int | None = None) -> TableState:
        """The table as a version (None: the current one) shows it; DamagedData when another tool made that."""
        ...

    def tags(self) -> Mapping[str, int]:
        """Versions that somebody gave a name, by that name; always empty in a format without tags."""
        ...

    def files(self, version: int, scheme: PartitionScheme) -> list[DataFile]:
        """The live data files of a version, sorted by address."""
        ...

    def batches(self, file: DataFile, schema: pa.Schema, *, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a data file as `schema` has them (or its `columns`); a column that the file lacks is null.

        Memory is bounded by one row group; a file that is read whole is proved first, if its name tells its digest.
        """
        ...

    def encoded_batches(
        self, file: DataFile, schema: pa.Schema, *, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """As `batches`, texts that the file keeps as a dictionary left as one."""
        ...

    def download(self, file: DataFile, schema: pa.Schema, local: Path) -> Path:
        """The rows of a data file as a local Parquet file."""
        ...

    def referenced(self) -> frozenset[str]:
        """The addresses of all files that any version names, metadata too."""
        ...

    def superseded(self) -> Mapping[int, datetime]:
        """All versions that can be read but the current one, and when each was last current, by the clocks of who committed."""
        ...

    def currents(self) -> Sequence[tuple[int, datetime]]:
        """Which version the table was at from when on, in order, as far as that is still told: a rollback comes to one again."""
        ...

    def expirable(self, kept: Collection[int]) -> tuple[int, ...]:
        """The versions that can be forgotten while those that are kept, the current one and all that have a name stay readable.

        A kept version stays with its marker, even where another version's commit holds that.
        """
        ...


class Staged(Protocol):
    """A commit that is being prepared on one handle (or that makes the table)."""

    @property
    def file_schema(self) -> pa.Schema:
        """The columns of a data file; where the format wants field ids, a field has its own as `PARQUET:field_id`."""
        ...

    @property
    def rewrites(self) -> bool:
        """Whether no file of the table may stay, since the format cannot read it under the new columns."""
        ...

    def address(self, partition: str, name: str) -> str:
        """Where a new data file of a partition belongs."""
        ...

    def commit(
        self,
        *,
        removed: Collection[DataFile] | None,
        added: Sequence[StoredFile],
        properties: Mapping[str, str],
        same_rows: bool = False,
    ) -> TableHandle:
        """Files out (None: all that there are), files in, columns and properties in one commit; the table as it is then.

        same_rows: the files in hold the rows of the files out, and the format's other readers are told so. Raises CommitMoved or
        CommitUnknown.
        """
        ...


class TableFormat(Protocol):
    """The tables of one deployment in one format."""

    def root(self, source: str, table: str) -> str:
        """The folder of a table in the store."""
        ...

    def is_metadata(self, path: str) -> bool:
        """Whether a path of the store, by its name, is that of a file that says what a table is made of."""
        ...

    def load(self, source: str, table: Table) -> TableHandle | None:
        """A handle on the table as it stands now; None when there is no such table."""
        ...

    def check(self, source: str, table: Table, fields: Sequence[FieldSpec]) -> None:
        """Unsupported for columns that the format cannot hold under their names."""
        ...

    def stage(
        self, source: str, table: Table, handle: TableHandle | None, fields: Sequence[FieldSpec], scheme: PartitionScheme
    ) -> Staged:
        """Begin a commit on a handle (None: one that makes the table) that leaves the table with these columns."""
        ...

    def stage_anew(
        self, source: str, table: Table, handle: TableHandle, fields: Sequence[FieldSpec], scheme: PartitionScheme
    ) -> Staged:
        """As `stage`, for a commit that keeps none of the table's files: columns and partitioning may be any.

        Earlier versions keep theirs, and can be read by them.
        """
        ...

    def rollback(self, source: str, table: Table, handle: TableHandle, version: int) -> TableHandle:
        """Make an earlier version the current one, marker and all; the table as it is then.

        Raises CommitMoved or CommitUnknown.
        """
        ...

    def tag(self, source: str, table: Table, handle: TableHandle, name: str, version: int | None) -> None:
        """Give a version a name, or (None) take the name away; rows and marker stay.

        Raises CommitMoved or CommitUnknown, Unsupported in a format without tags.
        """
        ...

    def expire(self, source: str, table: Table, handle: TableHandle, versions: Collection[int]) -> TableHandle:
        """Forget versions that are `expirable`, in one commit; the table as it is then. No file is deleted.

        Whoever goes back to one of them from what he read before loses to this commit. Raises CommitMoved or CommitUnknown.
        """
        ...

    def restore(self, source: str, table: Table) -> str | None:
        """See `LakeTables.restore`."""
        ...
