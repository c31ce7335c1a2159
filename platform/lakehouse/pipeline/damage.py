"""What is wrong with the copies of a table, found by reading all of them: the ground on which `repair` stands.

Each copy is held against what was written in the same commit as its rows. A raw file has its SHA-256 in its manifest, a manifest
its seal; a lake table and a published one have rows and checksum in their marker. A copy that is behind is not damaged: the next
run brings it on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from lakehouse.errors import DamagedData, DamagedMetadata, LakehouseError, TerminalError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.histories import history_sums, provable_entries
from lakehouse.pipeline.verify_copies import differing
from lakehouse.pipeline.verify_record import Parts
from lakehouse.raw import RawLog, standing
from lakehouse.rows.checksum import partition_checksums, total
from lakehouse.rows.digest import row_digests
from lakehouse.rows.duck import connect_duckdb
from lakehouse.spec import History, LogEntry, RowChecksum, Source, Table
from lakehouse.spec.soft_delete import stored_name
from lakehouse.tables.engine import TableState
from lakehouse.warehouse.publisher import Published

Copy = Literal["raw", "lake", "warehouse"]

SHOWN = 5
"""Partitions that are named in a finding; the others are counted."""


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong. what: the file or table, by its full name. found: in words."""

    copy: Copy
    what: str
    found: str


@dataclass(frozen=True)
class RawCondition:
    """The log as it was found.

    head: its last sequence. entries: those that can be read. unreadable: sequences whose manifest is gone or damaged and that no
    later snapshot makes void. broken: entries of which a file is gone or altered and whose rows still count. lost: the lake has
    applied entries up to this sequence, which the log has not got any more; 0 when it has all.
    """

    head: int
    entries: tuple[LogEntry, ...] = ()
    unreadable: tuple[int, ...] = ()
    broken: tuple[LogEntry, ...] = ()
    lost: int = 0

    @property
    def whole(self) -> bool:
        """Whether the table can be folded from it."""
        return not self.unreadable and not self.broken and not self.lost


@dataclass(frozen=True)
class LakeCondition:
    """The lake table as it was found. state: None for a table that is not there, or cannot be loaded.

    metadata: its metadata cannot be read. good: its rows are those that its marker tells of, and those of the raw log.
    """

    state: TableState | None = None
    metadata: bool = False
    good: bool = False
    parts: Parts = field(default_factory=dict)

    @property
    def sequence(self) -> int:
        """The watermark, 0 for none that can be read."""
        return self.state.current.marker.sequence if self.state else 0


@dataclass(frozen=True)
class Diagnosis:
    """A table's copies as they were found, and what is wrong with them."""

    source: str
    table: str
    raw: RawCondition
    lake: LakeCondition
    published: Published | None
    damage: tuple[Damage, ...]

    def of(self, copy: Copy) -> tuple[Damage, ...]:
        """What is wrong with one copy."""
        return tuple(one for one in self.damage if one.copy == copy)


def diagnose(deployment: Deployment, source: Source, table: Table) -> Diagnosis:
    """Read every copy of a table. Raises a TransientError when a server does not answer: that is no damage."""
    damage: list[Damage] = []
    log = deployment.log(source, table)
    state, failed = _lake_state(deployment, source, table)
    raw = _raw(deployment, log, state.current.marker.sequence if state else 0, damage)
    if isinstance(table, History) and raw.whole and state is not None:
        damage += _unread(deployment, source, table, log, state.current.marker.sequence)
    lake = _lake(deployment, source, table, log, raw, state, failed, damage)
    published = _warehouse(deployment, source, table, lake, damage)
    return Diagnosis(source.name, table.name, raw, lake, published, tuple(damage))


def _raw(deployment: Deployment, log: RawLog, watermark: int, damage: list[Damage]) -> RawCondition:
    looked = log.look()
    entries = [found for found in looked if isinstance(found, LogEntry)]
    begins = max((entry.sequence for entry in entries if entry.manifest.kind == "snapshot"), default=0)
    unreadable = []
    for sequence, error in enumerate(looked, start=1):
        if isinstance(error, DamagedData) and sequence > begins:
            unreadable.append(sequence)
            damage.append(Damage("raw", f"entry {sequence} of {log.folder}", f"{error.tried}: {error.value}"))
    broken = []
    for entry in standing(entries):
        problems = log.check_files(entry)
        damage += [Damage("raw", f"entry {entry.sequence} of {log.folder}", f"{e.tried}: {e.value}") for e in problems]
        if problems:
            broken.append(entry)
    head = len(looked)
    lost = watermark if watermark > head else 0
    if lost:
        last = f"entries {head + 1} to {lost} are gone, which the lake has applied"
        damage.append(Damage("raw", f"{deployment.store.url}/{log.folder}/_log", last))
    return RawCondition(head, tuple(entries), tuple(unreadable), tuple(broken), lost)


def _lake_state(deployment: Deployment, source: Source, table: Table) -> tuple[TableState | None, DamagedData | None]:
    try:
        return deployment.lake.state(source.name, table), None
    except DamagedData as error:
        return None, error


def _lake(
    deployment: Deployment,
    source: Source,
    table: Table,
    log: RawLog,
    raw: RawCondition,
    state: TableState | None,
    failed: DamagedData | None,
    damage: list[Damage],
) -> LakeCondition:
    name = f"lake table {source.name}.{table.name}"
    if failed is not None:
        damage.append(Damage("lake", name, f"{failed.tried}: {failed.value}"))
        return LakeCondition(metadata=isinstance(failed, DamagedMetadata))
    if state is None:
        return LakeCondition()
    marker = state.current.marker
    try:
        parts = _parts(deployment.lake.scan(source.name, table, version=state.current.version), state.schema, table)
    except DamagedData as error:
        damage.append(Damage("lake", name, f"{error.tried}: {error.value}"))
        return LakeCondition(state)
    found = total(parts.values())
    if (found.rows, found.hex) != (marker.rows, marker.checksum):
        damage.append(Damage("lake", name, f"{_rows(found)} instead of {marker.rows:,} rows, checksum {marker.checksum}"))
        return LakeCondition(state, parts=parts)
    expected = _expected(deployment, source, table, log, marker.sequence) if raw.whole else None
    if expected is not None and (differs := differing(parts, expected)):
        damage.append(Damage("lake", name, f"rows differ from the raw log in {_named(differs)}"))
        return LakeCondition(state, parts=parts)
    return LakeCondition(state, good=True, parts=parts)


def _unread(deployment: Deployment, source: Source, table: History, log: RawLog, watermark: int) -> Iterator[Damage]:
    """Entries that a history has not applied and never can: a later snapshot made them void, and their files are damaged."""
    entries = log.entries()
    begins = provable_entries(log, entries)[0].sequence if entries else 0
    if begins > watermark + 1:
        name = f"lake table {source.name}.{table.name}"
        yield Damage("lake", name, f"entries {watermark + 1} to {begins - 1} of {log.folder} were not applied and cannot be read")


def _expected(deployment: Deployment, source: Source, table: Table, log: RawLog, upto: int) -> Parts | None:
    """What the log makes of the table up to a sequence, by partition; None where that cannot be told any more."""
    if not isinstance(table, History):
        return _folded(deployment, log, table, upto)
    provable = provable_entries(log, log.entries())
    try:
        entries = [entry for entry in provable if entry.sequence <= upto]
        return history_sums(deployment, source, table, log, entries).parts if entries else None
    except DamagedData:
        return None


def _folded(deployment: Deployment, log: RawLog, table: Table, upto: int) -> Parts | None:
    """The fold of the log up to a sequence, by partition; None where earlier entries are gone that a later one made void."""
    entries = log.entries()
    begins = max((entry.sequence for entry in entries if entry.manifest.kind == "snapshot"), default=1)
    if upto < begins and len(entries) != entries[-1].sequence:
        return None
    limit = deployment.settings.memory_limit_mb
    try:
        with (
            connect_duckdb(memory_limit_mb=limit, temp_directory=deployment.settings.home / "tmp" / "repair") as connection,
            log.current_rows(connection, upto=upto) as rows,
        ):
            reader = connection.execute(f"select * from {rows.relation}").to_arrow_reader(65536)
            return _parts((batch.cast(rows.schema) for batch in reader), rows.schema, table)
    except DamagedData:
        return None


def _warehouse(
    deployment: Deployment, source: Source, table: Table, lake: LakeCondition, damage: list[Damage]
) -> Published | None:
    name = f"published table {deployment.settings.warehouse.database}.{stored_name(source.name, table)}"
    try:
        published = deployment.warehouse.state(source.name, table)
    except TerminalError as error:
        damage.append(Damage("warehouse", name, str(error.value)))
        return None
    if lake.state is None or not lake.good:
        return published  # it is held against a lake that is good, after that one was repaired
    if published is None:
        damage.append(Damage("warehouse", name, "it is not there"))
        return None
    current = lake.state.current
    if (published.version, published.marker) != (current.version, current.marker):
        return published
    try:
        parts = _parts(deployment.warehouse.scan(source.name, table, lake.state.schema), lake.state.schema, table)
    except (TerminalError, pa.ArrowException) as error:
        said = error.value if isinstance(error, LakehouseError) else error
        damage.append(Damage("warehouse", name, f"it cannot be read: {' '.join(str(said).split())[:500]}"))
        return published
    if differs := differing(parts, lake.parts):
        damage.append(Damage("warehouse", name, f"rows differ from the lake in {_named(differs)}"))
    return published


def _parts(batches: Iterator[pa.RecordBatch], schema: pa.Schema, table: Table) -> Parts:
    parts: Parts = {}
    for batch in batches:
        partition_checksums(batch, row_digests(batch, schema), table.partition, parts)
    return parts


def _named(partitions: tuple[str, ...]) -> str:
    more = f" and {len(partitions) - SHOWN} more" if len(partitions) > SHOWN else ""
    return ", ".join(partitions[:SHOWN]) + more


def _rows(found: RowChecksum) -> str:
    return f"{found.rows:,} rows, checksum {found.hex}"
