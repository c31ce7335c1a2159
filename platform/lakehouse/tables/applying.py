"""One apply of log entries to one table, whatever its format and engine: base, fold, commit."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lakehouse.errors import DamagedData
from lakehouse.rows.checksum import EMPTY
from lakehouse.spec import FieldSpec, History, LogEntry, Marker, RowChecksum, Table, since_rebuilt
from lakehouse.stores import refuse_late, started
from lakehouse.tables import marker as markers
from lakehouse.tables.columns import arrow_schema, field_specs
from lakehouse.tables.committing import Target
from lakehouse.tables.engine import Applied
from lakehouse.tables.entries import has_snapshot, needed_entries
from lakehouse.tables.evolution import changes_digests, folded_fields, renamed_fields
from lakehouse.tables.folds import Folded, FoldEngine, FoldTask
from lakehouse.tables.format import CommitMoved, CommitUnknown, DataFile, Staged, TableFormat, TableHandle
from lakehouse.tables.partitions import PartitionScheme

NEVER = Marker(0, 0, EMPTY.hex)
"""The marker of a table that holds nothing yet."""


@dataclass(frozen=True)
class Base:
    """What an apply starts from, all of it read from one handle.

    fields: the columns of the table. marked: those it had when the marker's checksum was taken; older ones after a rollback.
    """

    handle: TableHandle | None
    marker: Marker
    fields: tuple[FieldSpec, ...]
    marked: tuple[FieldSpec, ...]


def read_base(format_: TableFormat, source: str, table: Table) -> Base:
    """The table as it stands; SchemaChanged when it is partitioned in another way than it is declared."""
    base = read_any_base(format_, source, table)
    if base.handle is not None:
        base.handle.check_partitioning(table)
    return base


def read_any_base(format_: TableFormat, source: str, table: Table) -> Base:
    """The table as it stands, however it is partitioned."""
    handle = format_.load(source, table)
    if handle is None or handle.current is None:
        return unmarked(handle)
    return Base(handle, handle.marker(handle.current), handle.fields, field_specs(handle.schema(handle.current)))


def unmarked(handle: TableHandle | None) -> Base:
    """The table as if it held nothing: what a fold of the whole log starts from."""
    return Base(None, NEVER, (), ()) if handle is None else Base(handle, NEVER, handle.fields, handle.fields)


def files_by_partition(handle: TableHandle, scheme: PartitionScheme) -> dict[str, list[DataFile]]:
    """The live data files of a table as it stands, by partition; none of one without a version."""
    found: dict[str, list[DataFile]] = {}
    if handle.current is not None:
        for file in handle.files(handle.current, scheme):
            found.setdefault(file.partition, []).append(file)
    return found


@dataclass
class Apply:
    """Log entries that are to be folded into a table as `base` shows it.

    rebuild: nothing of the table's rows is read or kept, since they may be damaged; `base` then has the marker of an empty table,
    and the table is partitioned as declared afterwards. expected: what the fold must give, if that is known.
    """

    target: Target
    engine: FoldEngine
    base: Base
    pending: Sequence[LogEntry]
    rebuild: bool = False
    expected: RowChecksum | None = None
    commit_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.source, self.table = self.target.source, self.target.table
        kept = isinstance(self.table, History) or self.table.mode == "snapshot"
        self.anew = self.rebuild or (not kept and has_snapshot(self.pending))
        counted = since_rebuilt(self.pending)
        known = () if counted and counted[0].manifest.begins_anew else renamed_fields(self.table, self.base.fields)
        self.fields = folded_fields(self.source, self.table, known, [entry.manifest for entry in counted])
        self.schema = arrow_schema(self.fields)
        self.scheme = PartitionScheme.of(self.table.partition, self.schema)

    def run(self, files_root: str) -> Applied:
        """Fold and commit."""
        began = started()
        staged = self._stage()
        rewrite = staged.rewrites and not self.anew
        touches_all = isinstance(self.table, History) and has_snapshot(self.pending)
        whole = rewrite or touches_all or changes_digests(self.base.marked, self.fields)
        handle = self.base.handle
        old = {} if handle is None or self.anew else files_by_partition(handle, self.scheme)
        task = FoldTask(
            self.source,
            self.table,
            self.schema,
            staged.file_schema,
            self.scheme,
            needed_entries(self.table, self.pending),
            files_root,
            handle,
            old,
            whole,
            rewrite,
            staged.address,
            self.commit_id,
        )
        folded = self.engine.fold(task)
        refuse_late(f"committing to {self.target.name}", began, self.target.settings.longest_write_hours)
        return self._commit(staged, old, folded, whole=whole or self.anew, rewrite=rewrite)

    def _stage(self) -> Staged:
        format_, handle = self.target.format, self.base.handle
        if self.rebuild and handle is not None:
            return format_.stage_anew(self.source, self.table, handle, self.fields, self.scheme)
        return format_.stage(self.source, self.table, handle, self.fields, self.scheme)

    def _commit(
        self, staged: Staged, old: Mapping[str, Sequence[DataFile]], folded: Folded, *, whole: bool, rewrite: bool
    ) -> Applied:
        marker, days = self._marker(folded, whole=whole), tuple(sorted(folded.days))
        self._check(marker, folded)
        partitions = tuple(sorted({self.scheme.shown(name) for name in folded.changed}))
        properties = markers.marker_properties(marker, changed_days=days, partitions=partitions, commit_id=self.commit_id)
        gone = old if rewrite else folded.changed
        removed = None if self.anew else [file for name in gone for file in old.get(name, ())]
        try:
            state = staged.commit(removed=removed, added=folded.files, properties=properties).state()
        except (CommitMoved, CommitUnknown) as error:
            first, last = self.pending[0].sequence, self.pending[-1].sequence
            tried = f"committing entries {first} to {last} to {self.target.name}"
            state = self.target.after_failure(tried, error, commit_id=self.commit_id, stored=folded.files)
        rows = sum(file.footer.num_rows for file in folded.files)
        return Applied(state, len(self.pending), partitions, days, rows)

    def _check(self, marker: Marker, folded: Folded) -> None:
        """Refuse a fold that is not what was expected; its files are deleted."""
        expected = self.expected
        if expected is None or (expected.rows, expected.hex) == (marker.rows, marker.checksum):
            return
        self.target.delete(folded.files)
        raise DamagedData(
            f"folding the raw log of {self.target.name} anew",
            value=f"{marker.rows:,} rows, checksum {marker.checksum}",
            allowed=f"{expected.rows:,} rows, checksum {expected.hex}, as another reading of the log has it",
            remedy=f"Nothing was changed. Run `lakehouse verify {self.target.name} --deep`.",
        )

    def _marker(self, folded: Folded, *, whole: bool) -> Marker:
        total = EMPTY if whole else markers.row_checksum(self.base.marker)
        for old, new in folded.sums.values():
            total = total + new if whole else total - old + new
        return Marker(self.pending[-1].sequence, total.rows, total.hex)
