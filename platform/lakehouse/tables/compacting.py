"""Compaction: the rows of a partition in fewer files, in one commit that changes no row and keeps the marker."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from lakehouse.errors import DamagedData
from lakehouse.settings import Settings
from lakehouse.spec import Table
from lakehouse.stores import ObjectStore, refuse_late, started
from lakehouse.tables import marker as markers
from lakehouse.tables.applying import Base, read_base
from lakehouse.tables.columns import arrow_schema
from lakehouse.tables.committing import after_failure, delete_stored
from lakehouse.tables.engine import Compacted, Fragments
from lakehouse.tables.evolution import rewrites_text
from lakehouse.tables.folds import Folded, FoldEngine, FoldTask
from lakehouse.tables.format import CommitMoved, CommitUnknown, DataFile, StoredFile, TableFormat
from lakehouse.tables.partitions import PartitionScheme

MANY = 5
"""Files of a partition from which on they may be too many. One fold leaves one, or one for each of Spark's tasks."""

SMALL_BYTES = 16 << 20
"""The mean size below which many files cost their readers more to open than to read. A task of Spark's writes more than that as
long as there is more, so that what it has compacted is not compacted again."""


def fragmented(base: Base, table: Table) -> dict[str, Fragments]:
    """The partitions of a table that are worth a compaction, by the names that people see."""
    found = {name: _fragments(files) for name, files in _live(base, table).items()}
    return {name: fragments for name, fragments in sorted(found.items()) if _is_fragmented(fragments)}


@dataclass
class Compaction:
    """Some partitions of a table whose rows are to be in fewer files."""

    settings: Settings
    store: ObjectStore
    format: TableFormat
    engine: FoldEngine
    source: str
    table: Table
    partitions: Collection[str]
    commit_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def run(self) -> Compacted:
        """Fold the partitions with no batch, prove that their rows are the same, and commit."""
        began = started()
        base = read_base(self.format, self.source, self.table)
        assert base.handle is not None
        handle, schema = base.handle, arrow_schema(base.fields)
        scheme = PartitionScheme.of(self.table.partition, schema)
        old: dict[str, list[DataFile]] = {}
        for shown, files in _live(base, self.table).items():
            if shown in self.partitions:
                for file in files:
                    old.setdefault(file.partition, []).append(file)
        removed = [file for files in old.values() for file in files]
        if not removed:
            return Compacted(handle.state(), 0, 0)
        staged = self.format.stage(self.source, self.table, handle, base.fields, scheme)
        task = FoldTask(
            self.source,
            self.table,
            schema,
            staged.file_schema,
            scheme,
            (),
            "",
            handle,
            old,
            every_row=True,
            rewrite=True,
            address=staged.address,
            commit_id=self.commit_id,
        )
        folded = self.engine.fold(task)
        if not self._is_worth_it(removed, folded):
            delete_stored(self.store, folded.files)
            return Compacted(handle.state(), len(removed), len(removed))
        refuse_late(f"compacting {self.source}.{self.table.name}", began, self.settings.longest_write_hours)
        properties = markers.marker_properties(base.marker, changed_days=(), partitions=(), commit_id=self.commit_id)
        try:
            state = staged.commit(removed=removed, added=folded.files, properties=properties, same_rows=True).state()
        except (CommitMoved, CommitUnknown) as error:
            tried = f"compacting {self.source}.{self.table.name}"
            place = self.format, self.store, self.settings, self.source, self.table
            state = after_failure(*place, tried, error, commit_id=self.commit_id, stored=folded.files)
        return Compacted(state, len(removed), len(folded.files))

    def _is_worth_it(self, removed: Sequence[DataFile], folded: Folded) -> bool:
        """Whether there is less to open than before; DamagedData when rows are not the same, which no engine may make of them."""
        if folded.changed:
            self._refuse(folded.files, f"other rows in {', '.join(folded.changed)}")
        return len(folded.files) < len(removed) or any(file.deletes for file in removed)

    def _refuse(self, stored: Sequence[StoredFile], found: str) -> None:
        delete_stored(self.store, stored)
        raise DamagedData(
            f"compacting {self.source}.{self.table.name}",
            value=found,
            allowed="the same rows in fewer files",
            remedy="Nothing was committed. Run `lakehouse verify --deep` on the table, which finds damaged files.",
        )


def _live(base: Base, table: Table) -> dict[str, list[DataFile]]:
    """The data files by partition, under the names that people see; none where a checksum would have to be taken anew."""
    handle = base.handle
    if handle is None or handle.current is None or rewrites_text(base.marked, base.fields):
        return {}
    scheme = PartitionScheme.of(table.partition, arrow_schema(base.fields))
    found: dict[str, list[DataFile]] = {}
    for file in handle.files(handle.current, scheme):
        found.setdefault(scheme.shown(file.partition), []).append(file)
    return found


def _fragments(files: Sequence[DataFile]) -> Fragments:
    return Fragments(len(files), sum(file.bytes for file in files), sum(bool(file.deletes) for file in files))


def _is_fragmented(found: Fragments) -> bool:
    return found.deletes > 0 or (found.files >= MANY and found.bytes < found.files * SMALL_BYTES)
