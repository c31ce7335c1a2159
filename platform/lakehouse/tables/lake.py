"""The lake tables of a deployment: each in its declared format, folded by the engine that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime

import pyarrow as pa

from lakehouse.errors import CommitConflict, DamagedData, WrongUse
from lakehouse.settings import Settings
from lakehouse.spec import FieldSpec, LogEntry, Marker, Partitioning, RowChecksum, Table
from lakehouse.stores import ObjectStore
from lakehouse.tables.applying import Apply, read_any_base, read_base, unmarked
from lakehouse.tables.columns import arrow_schema
from lakehouse.tables.committing import Target, conflict
from lakehouse.tables.compacting import Compaction, fragmented
from lakehouse.tables.datafiles import partition_contents
from lakehouse.tables.engine import Applied, Compacted, Fragments, Keep, TableState, TableVersion
from lakehouse.tables.entries import folded_entries, pending_entries
from lakehouse.tables.evolution import check_declared
from lakehouse.tables.folds import FoldEngine
from lakehouse.tables.format import CommitMoved, CommitUnknown, DataFile, TableFormat, TableHandle
from lakehouse.tables.partitions import PartitionScheme


class Lake:
    """LakeTables: see `lakehouse.tables.engine`. A format is opened when the first of its tables is used, the engine likewise."""

    def __init__(
        self,
        settings: Settings,
        store: ObjectStore,
        formats: Mapping[str, Callable[[], TableFormat]],
        engine: Callable[[], FoldEngine],
    ) -> None:
        self._settings = settings
        self._store = store
        self._openers = formats
        self._opened: dict[str, TableFormat] = {}
        self._open_engine = engine
        self._engine: FoldEngine | None = None

    def state(self, source: str, table: Table) -> TableState | None:
        handle = self._format(table).load(source, table)
        return handle.state() if handle is not None and handle.current is not None else None

    def check(self, source: str, table: Table, fields: Sequence[FieldSpec]) -> None:
        check_declared(source, table, {field.name for field in fields})
        PartitionScheme.of(table.partition, arrow_schema(fields))
        format_ = self._format(table)
        format_.check(source, table, fields)
        handle = format_.load(source, table)
        if handle is not None:
            handle.check_partitioning(table)

    def has_old_names(self, source: str, table: Table) -> bool:
        handle = self._format(table).load(source, table) if table.renamed else None
        return handle is not None and handle.current is not None and bool(_old_names(handle, table))

    def apply(self, source: str, table: Table, entries: Sequence[LogEntry], files_root: str) -> Applied:
        base = read_any_base(self._format(table), source, table)
        if base.handle is not None and base.handle.current is not None:
            _refuse_old_names(base.handle, source, table)
        pending = pending_entries(source, table, base.marker.sequence, folded_entries(table, entries))
        if any(entry.manifest.begins_anew for entry in pending):
            unread = unmarked(base.handle)
            return Apply(self._target(source, table), self._folds(), unread, pending, rebuild=True).run(files_root)
        if base.handle is not None:
            base.handle.check_partitioning(table)
        if pending:
            return Apply(self._target(source, table), self._folds(), base, pending).run(files_root)
        if base.handle is None or base.handle.current is None:
            raise WrongUse(
                f"applying to {source}.{table.name}, which is not there yet",
                value="no log entries",
                allowed="at least the first entry of its raw log",
                remedy="Extract the table first (`lakehouse run`).",
            )
        return Applied(base.handle.state(), 0, (), (), 0)

    def rebuild(
        self,
        source: str,
        table: Table,
        entries: Sequence[LogEntry],
        files_root: str,
        *,
        expected: RowChecksum | None = None,
    ) -> Applied:
        target = self._target(source, table)
        base = unmarked(target.format.load(source, table))
        pending = pending_entries(source, table, 0, folded_entries(table, entries))
        if expected is not None and base.handle is not None and base.handle.current is not None:
            _refuse_to_go_back(base.handle, source, table, pending[-1].sequence)
        return Apply(target, self._folds(), base, pending, rebuild=True, expected=expected).run(files_root)

    def partitioning(self, source: str, table: Table) -> Partitioning | None:
        handle = self._format(table).load(source, table)
        return handle.partitioning(handle.current) if handle is not None and handle.current is not None else None

    def restore(self, source: str, table: Table) -> str | None:
        return self._format(table).restore(source, table)

    def scan(
        self,
        source: str,
        table: Table,
        *,
        partitions: Sequence[str] | None = None,
        version: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        handle, at, schema, scheme = self._at(source, table, version)
        for file in handle.files(at, scheme):
            if partitions is None or scheme.shown(file.partition) in partitions:
                yield from handle.batches(file, schema, columns=columns)

    def scan_by_partition(
        self,
        source: str,
        table: Table,
        *,
        partitions: Collection[str] | None = None,
        version: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        handle, at, schema, scheme = self._at(source, table, version)
        wanted = None if partitions is None else set(partitions)
        for file in handle.files(at, scheme):
            name = scheme.shown(file.partition)
            if wanted is None or name in wanted:
                for batch in handle.encoded_batches(file, schema, columns=columns):
                    yield name, batch

    def contents(self, source: str, table: Table, *, version: int | None = None) -> dict[str, str]:
        handle, at, _, scheme = self._at(source, table, version)
        return partition_contents(self._store, scheme, handle.files(at, scheme))

    def partitions(self, source: str, table: Table, *, version: int | None = None) -> dict[str, int]:
        handle, at, schema, scheme = self._at(source, table, version)
        rows = dict[str, int]()
        for file in handle.files(at, scheme):
            name = scheme.shown(file.partition)
            rows[name] = rows.get(name, 0) + _live_rows(handle, file, schema)
        return dict(sorted(rows.items()))

    def changed_partitions(self, source: str, table: Table, since: int) -> tuple[str, ...] | None:
        handle, current, _, scheme = self._at(source, table, None)
        then = handle.at_sequence(since)
        if then is None:
            return None
        if handle.partitioning(then) != scheme.partitioning:
            return None
        sides = [
            {(file.url, frozenset(file.deletes)): file.partition for file in handle.files(version, scheme)}
            for version in (then, current)
        ]
        differing = dict(sides[0].items() ^ sides[1].items())
        return tuple(sorted({scheme.shown(name) for name in differing.values()}))

    def history(self, source: str, table: Table) -> list[TableVersion]:
        return self._existing(source, table).history()

    def version_at(self, source: str, table: Table, moment: datetime) -> int | None:
        handle = self._existing(source, table)
        return version_before(moment, handle.currents(), handle.history())

    def tags(self, source: str, table: Table) -> dict[str, int]:
        return dict(sorted(self._existing(source, table).tags().items()))

    def tag(self, source: str, table: Table, name: str, version: int | None) -> None:
        handle = self._existing(source, table)
        tagged, target = handle.tags().get(name), None if version is None else handle.version(version)
        if tagged is not None and target is not None and tagged != target:
            raise WrongUse(
                f"naming version {version} of {source}.{table.name}",
                value=f"{name}, which is the name of version {tagged}",
                allowed="a name that no other version has",
                remedy=f"Take it away first: `lakehouse tag {source}.{table.name} {name} --remove`.",
            )
        try:
            if tagged != target:
                self._format(table).tag(source, table, handle, name, target)
        except (CommitMoved, CommitUnknown) as error:
            if self._existing(source, table).tags().get(name) != target:
                raise conflict(f"naming a version of {source}.{table.name}", error) from error

    def referenced(self, source: str, table: Table) -> frozenset[str] | None:
        handle = self._format(table).load(source, table)
        return handle.referenced() if handle is not None else None

    def root(self, source: str, table: Table) -> str:
        return self._format(table).root(source, table.name)

    def address(self, source: str, table: Table) -> str | None:
        handle = self._format(table).load(source, table)
        return handle.address if handle is not None and handle.current is not None else None

    def is_metadata(self, source: str, table: Table, path: str) -> bool:
        return path.startswith(self.root(source, table) + "/") and self._format(table).is_metadata(path)

    def rollback(self, source: str, table: Table, version: int) -> TableState:
        handle = self._existing(source, table)
        target = handle.version(version)
        if handle.current == target:
            return handle.state()
        wanted = handle.marker(target)
        _refuse_other_partitions(handle, source, table, target)
        try:
            return self._format(table).rollback(source, table, handle, target).state()
        except (CommitMoved, CommitUnknown) as error:
            found = self._existing(source, table)
            if not _stands_at(found, wanted):
                raise conflict(f"rolling {source}.{table.name} back to version {version}", error) from error
            return found.state()

    def fragmented(self, source: str, table: Table) -> dict[str, Fragments]:
        return fragmented(read_base(self._format(table), source, table), table)

    def compact(self, source: str, table: Table, partitions: Collection[str]) -> Compacted:
        self._existing(source, table)
        return Compaction(self._target(source, table), self._folds(), partitions).run()

    def expirable(self, source: str, table: Table, keep: Keep) -> tuple[int, ...]:
        return _expirable(self._existing(source, table), keep)

    def expire(self, source: str, table: Table, keep: Keep) -> tuple[tuple[int, ...], TableState]:
        handle = self._existing(source, table)
        versions = _expirable(handle, keep)
        if not versions:
            return (), handle.state()
        try:
            return versions, self._format(table).expire(source, table, handle, versions).state()
        except (CommitMoved, CommitUnknown) as error:
            found = self._existing(source, table)
            if isinstance(error, CommitMoved) or not set(versions).isdisjoint(found.superseded()):
                raise conflict(f"expiring versions of {source}.{table.name}", error) from error
            return versions, found.state()

    def _at(self, source: str, table: Table, version: int | None) -> tuple[TableHandle, int, pa.Schema, PartitionScheme]:
        handle = self._existing(source, table)
        at = handle.version(version)
        schema = handle.schema(at)
        return handle, at, schema, PartitionScheme.of(handle.partitioning(at), schema)

    def _existing(self, source: str, table: Table) -> TableHandle:
        handle = self._format(table).load(source, table)
        if handle is None or handle.current is None:
            raise WrongUse(
                f"reading lake table {source}.{table.name}",
                value="the table is not there",
                allowed="a table that was built",
                remedy=f"Build it first: `lakehouse run --select {source}.{table.name}`.",
            )
        return handle

    def _target(self, source: str, table: Table) -> Target:
        return Target(self._settings, self._store, self._format(table), source, table)

    def _format(self, table: Table) -> TableFormat:
        if table.format not in self._opened:
            self._opened[table.format] = self._openers[table.format]()
        return self._opened[table.format]

    def _folds(self) -> FoldEngine:
        if self._engine is None:
            self._engine = self._open_engine()
        return self._engine


def _old_names(handle: TableHandle, table: Table) -> dict[str, str]:
    """Of the columns of the current version those that were renamed since, with their names today."""
    assert handle.current is not None
    return table.names_today(handle.schema(handle.current).names) | table.names_today({field.name for field in handle.fields})


def _refuse_old_names(handle: TableHandle, source: str, table: Table) -> None:
    if names := _old_names(handle, table):
        raise CommitConflict(
            f"applying to {source}.{table.name}",
            value="columns under old names: " + ", ".join(f"{old} (now {today})" for old, today in names.items()),
            allowed="a table whose columns are called as they are declared",
            remedy="Build it anew from its raw log: `rebuild`, which apply_table does by itself.",
        )


def _refuse_to_go_back(handle: TableHandle, source: str, table: Table, last: int) -> None:
    assert handle.current is not None
    if (found := handle.marker(handle.current).sequence) > last:
        raise CommitConflict(
            f"folding entries up to {last} of {source}.{table.name} anew",
            value=f"a table that has applied entry {found}",
            allowed="a table that is not further than they are",
            remedy="Call it again: it reads the log again.",
        )


def _refuse_other_partitions(handle: TableHandle, source: str, table: Table, version: int) -> None:
    assert handle.current is not None
    then, now = handle.partitioning(version), handle.partitioning(handle.current)
    if then != now:
        name = f"{source}.{table.name}"
        raise WrongUse(
            f"rolling {name} back to version {version}",
            value=f"a version that is partitioned by {then}, from before a rebuild",
            allowed=f"versions that are partitioned as the table is: by {now}",
            remedy=f"Read it with `lakehouse sql --version {version}`; or declare that partitioning and run "
            f"`lakehouse rebuild {name}`.",
        )


def _expirable(handle: TableHandle, keep: Keep) -> tuple[int, ...]:
    superseded = handle.superseded()
    newest_first = sorted(superseded, key=lambda version: superseded[version], reverse=True)
    young = (version for version, left in superseded.items() if left >= keep.since)
    return handle.expirable({*newest_first[: keep.newest - 1], *young, *keep.needed})


def version_before(moment: datetime, currents: Sequence[tuple[int, datetime]], history: Sequence[TableVersion]) -> int | None:
    """See `LakeTables.version_at`. currents: which version the table was at from when on; those that are gone are not in it.

    What came next tells whether one that is gone may have come between: a commit on top of this version tells that none did.
    """
    earlier = [version for version, since in currents if since < moment]
    parents = {version.version: version.parent for version in history}
    if not earlier or earlier[-1] not in parents:
        return None
    following = currents[len(earlier)][0] if len(earlier) < len(currents) else None
    return earlier[-1] if following is None or parents.get(following) == earlier[-1] else None


def _stands_at(handle: TableHandle, marker: Marker) -> bool:
    """Whether a table's current version is one with this marker; one of another tool has none."""
    assert handle.current is not None
    try:
        return handle.marker(handle.current) == marker
    except DamagedData:
        return False


def _live_rows(handle: TableHandle, file: DataFile, schema: pa.Schema) -> int:
    if not file.deletes:
        return file.rows
    return sum(batch.num_rows for batch in handle.batches(file, schema))
