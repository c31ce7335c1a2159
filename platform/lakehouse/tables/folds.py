"""The seam of engines: who turns a table's old files and its new batches into new files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from lakehouse.spec import LogEntry, RowChecksum, Table
from lakehouse.tables.format import DataFile, StoredFile, TableHandle
from lakehouse.tables.partitions import PartitionScheme


@dataclass(frozen=True)
class FoldTask:
    """What is to be folded.

    schema: the columns of the result. file_schema: the same as its files must have them (`Staged.file_schema`). entries: those
    whose rows count. files_root: the raw table's folder in the store. handle, old: the table and its live files by partition;
    nothing of them is read when `old` is empty. every_row: fold all partitions, and digest all of their rows. rewrite: leave none
    of the old files, even if no row changed. address: where a file belongs, by partition and
    name. commit_id: begins the name of every file.
    """

    source: str
    table: Table
    schema: pa.Schema
    file_schema: pa.Schema
    scheme: PartitionScheme
    entries: Sequence[LogEntry]
    files_root: str
    handle: TableHandle | None
    old: Mapping[str, Sequence[DataFile]]
    every_row: bool
    rewrite: bool
    address: Callable[[str, str], str]
    commit_id: str

    @property
    def separable(self) -> bool:
        """Whether no row can move from one partition to another."""
        column = self.table.partition.column
        return self.table.mode != "upsert" or column is None or column in self.table.key


@dataclass
class Folded:
    """What a fold did.

    files: of the partitions whose rows changed (of all, if they were to be rewritten), in the store. sums: for each folded
    partition the checksum of the rows that can have changed, as they were and as they are. days: on which rows were added,
    removed or changed.
    """

    files: list[StoredFile] = field(default_factory=list)
    sums: dict[str, tuple[RowChecksum, RowChecksum]] = field(default_factory=dict)
    days: set[str] = field(default_factory=set)

    @property
    def changed(self) -> tuple[str, ...]:
        """The partitions whose rows changed."""
        return tuple(sorted(name for name, (old, new) in self.sums.items() if old != new))


class FoldEngine(Protocol):
    """What folds. Several may take turns on one table: what they leave behind is the same."""

    def fold(self, task: FoldTask) -> Folded:
        """Fold, and upload the new files. Raises DamagedData, ConfigurationError (too little memory), StoreUnavailable.

        After a failure files may be in the store that nothing names.
        """
        ...
