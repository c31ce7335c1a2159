"""Versions of an Iceberg table as the platform tells them: marker, state and schema of a snapshot."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
from pyiceberg.schema import Schema
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.snapshots import Operation, Snapshot

from lakehouse.errors import DamagedData, WrongUse
from lakehouse.spec import Marker, Table
from lakehouse.tables import marker as markers
from lakehouse.tables.columns import arrow_schema
from lakehouse.tables.engine import TableState, TableVersion
from lakehouse.tables.iceberg.schema import fields_of


def properties_of(snapshot: Snapshot) -> dict[str, str]:
    """The summary of a snapshot without its operation."""
    return dict(snapshot.summary.additional_properties) if snapshot.summary else {}


def find_marker(handle: IcebergTable, snapshot: Snapshot) -> Marker | None:
    """The marker of a snapshot, None when another tool made it; a rewrite that changes no rows has its parent's."""
    marked = marked_snapshot(handle, snapshot)
    return markers.marker_of(properties_of(marked)) if marked is not None else None


def marked_snapshot(handle: IcebergTable, snapshot: Snapshot) -> Snapshot | None:
    """The snapshot whose commit holds the marker of a snapshot: itself, or one whose rows it only rewrote."""
    at: Snapshot | None = snapshot
    while at is not None:
        if markers.marker_of(properties_of(at)):
            return at
        if at.summary is None or at.summary.operation != Operation.REPLACE or at.parent_snapshot_id is None:
            return None
        at = handle.snapshot_by_id(at.parent_snapshot_id)
    return None


def marker_at(source: str, table: Table, handle: IcebergTable, snapshot: Snapshot) -> Marker:
    """The marker of a snapshot; DamagedData when it has none."""
    if found := find_marker(handle, snapshot):
        return found
    raise DamagedData(
        f"reading the marker of {source}.{table.name}, version {snapshot.snapshot_id}",
        value="a commit without one",
        allowed="commits by this platform, and rewrites that change no rows",
        remedy=f"Another tool wrote to the table: run `lakehouse repair {source}.{table.name}`, or go back to a version of ours "
        f"(`lakehouse rollback {source}.{table.name}`).",
    )


def snapshot_of(source: str, table: Table, handle: IcebergTable, version: int | None) -> Snapshot:
    """The snapshot of a version, or the current one; WrongUse when there is none."""
    snapshot = handle.current_snapshot() if version is None else handle.snapshot_by_id(version)
    if snapshot is None:
        raise WrongUse(
            f"reading {source}.{table.name} at a version",
            value=version,
            allowed=", ".join(str(known.snapshot_id) for known in handle.metadata.snapshots[-10:]),
            remedy=f"See `lakehouse show {source}.{table.name}` for the versions that can still be read.",
        )
    return snapshot


def snapshot_at_sequence(handle: IcebergTable, sequence: int) -> Snapshot | None:
    """The latest snapshot with that watermark: all of them hold the same rows."""
    found = [
        snapshot
        for snapshot in handle.metadata.snapshots
        if (marker := markers.marker_of(properties_of(snapshot))) is not None and marker.sequence == sequence
    ]
    return max(found, key=lambda snapshot: snapshot.sequence_number or 0) if found else None


def schema_at(handle: IcebergTable, snapshot: Snapshot) -> pa.Schema:
    """The columns that the table had when the snapshot was made; its checksum is of these."""
    return arrow_schema(fields_of(schema_of(handle, snapshot), handle.properties))


def schema_of(handle: IcebergTable, snapshot: Snapshot) -> Schema:
    """The same as Iceberg has it."""
    return handle.schemas().get(snapshot.schema_id, handle.schema()) if snapshot.schema_id is not None else handle.schema()


def version_of(source: str, table: Table, handle: IcebergTable, snapshot: Snapshot) -> TableVersion:
    """A snapshot as a version of the table."""
    properties = properties_of(snapshot)
    return TableVersion(
        version=snapshot.snapshot_id,
        parent=snapshot.parent_snapshot_id,
        committed_at=datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC),
        operation=snapshot.summary.operation.value if snapshot.summary else "",
        marker=marker_at(source, table, handle, snapshot),
        changed_days=markers.days_of_ranges(properties.get(markers.CHANGED_DAYS, "")),
        partitions=markers.partitions_of(properties) or (),
    )


def state_of(source: str, table: Table, handle: IcebergTable, snapshot: Snapshot) -> TableState:
    """The table as a snapshot shows it."""
    properties = properties_of(snapshot)
    return TableState(
        current=version_of(source, table, handle, snapshot),
        schema=schema_at(handle, snapshot),
        files=int(properties.get("total-data-files", 0)),
        bytes=int(properties.get("total-files-size", 0)),
    )
