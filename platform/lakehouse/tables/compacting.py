"""Compaction: the rows of a partition in fewer files, in one commit that changes no row and keeps the marker."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from lakehouse.errors import DamagedData
from lakehouse.spec import Table
from lakehouse.stores import refuse_late, started
from lakehouse.tables import marker as markers
from lakehouse.tables.applying import Base, files_by_partition, read_base
from lakehouse.tables.columns import arrow_schema
from lakehouse.tables.committing import Target
from lakehouse.tables.engine import Compacted, Fragments
from lakehouse.tables.evolution import changes_digests
from lakehouse.tables.folds import Folded, FoldEngine, FoldTask
from lakehouse.tables.format import CommitMoved, CommitUnknown, DataFile
from lakehouse.tables.partitions import PartitionScheme

MANY = 5
"""Files of a partition from which on they may be too many. One fold leaves one, or one for each of Spark's tasks."""

SMALL_BYTES = 16 << 20
"""The mean size below which many files cost their readers more to open than to read. A task of Spark's writes more than that as
long as there is more, so that what it has compacted is not compacted again."""


def fragmented(base: Base, table: Table) -> dict[str, Fragments]:
    """The partitions of a table that are worth a compaction, by the names that people see."""
    found: dict[str, Fragments] = {}
    for name, files in _live(base, table):
        if len(files) >= MANY and (size := sum(file.bytes for file in files)) < len(files) * SMALL_BYTES:
            found[name] = Fragments(len(files), size)
    return dict(sorted(found.items()))


@dataclass
class Compaction:
    """Some partitions of a table, by the names that people see, whose rows are to be in fewer files."""

    target: Target
    engine: FoldEngine
    partitions: Collection[str]
    commit_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def run(self) -> Compacted:
        """Fold the partitions with no batch, prove that their rows are the same, and commit."""
        began, source, table = started(), self.target.source, self.target.table
        base = read_base(self.target.format, source, table)
        assert base.handle is not None
        handle, schema = base.handle, arrow_schema(base.fields)
        scheme = PartitionScheme.of(table.partition, schema)
        old = {files[0].partition: files for name, files in _live(base, table) if name in self.partitions}
        removed = [file for files in old.values() for file in files]
        if not removed:
            return Compacted(handle.state(), 0, 0)
        staged = self.target.format.stage(source, table, handle, base.fields, scheme)
        task = FoldTask(
            source,
            table,
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
        if folded.changed:
            self.target.delete(folded.files)
            raise DamagedData(
                f"compacting {self.target.name}",
                value=f"other rows in {', '.join(folded.changed)}",
                allowed="the same rows in fewer files",
                remedy="Nothing was committed. Run `lakehouse verify --deep` on the table, which finds damaged files.",
            )
        if not self._is_worth_it(removed, folded):
            self.target.delete(folded.files)
            return Compacted(handle.state(), len(removed), len(removed))
        tried = f"compacting {self.target.name}"
        refuse_late(tried, began, self.target.settings.longest_write_hours)
        properties = markers.marker_properties(base.marker, changed_days=(), partitions=(), commit_id=self.commit_id)
        try:
            state = staged.commit(removed=removed, added=folded.files, properties=properties, same_rows=True).state()
        except (CommitMoved, CommitUnknown) as error:
            state = self.target.after_failure(tried, error, commit_id=self.commit_id, stored=folded.files)
        return Compacted(state, len(removed), len(folded.files))

    def _is_worth_it(self, removed: Sequence[DataFile], folded: Folded) -> bool:
        """Whether there is less to open than before."""
        return len(folded.files) < len(removed)


def _live(base: Base, table: Table) -> Iterator[tuple[str, list[DataFile]]]:
    """The data files of each partition, under the name that people see; none where a checksum would have to be taken anew."""
    if base.handle is None or changes_digests(base.marked, base.fields):
        return
    scheme = PartitionScheme.of(table.partition, arrow_schema(base.fields))
    for partition, files in files_by_partition(base.handle, scheme).items():
        yield scheme.shown(partition), files
