"""The reference of a history's verification: what its table's raw log makes of it, and whether its current rows are its table's.

The whole log is folded, from files that are proved. When nothing landed since an earlier verification, and no file of the log was
written since, what that one found is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.histories import history_sums, provable_entries
from lakehouse.pipeline.verify_copies import Found
from lakehouse.pipeline.verify_record import Record, Seen, declaration_of, file_identities, log_prefix
from lakehouse.rows.checksum import total
from lakehouse.spec import History, LogEntry, RowChecksum, Source
from lakehouse.tables.engine import TableState


@dataclass
class RawHistory:
    """A history as the raw log has it. entries: of the log; identities: what tells their files from others, by sequence."""

    found: Found = field(default_factory=Found)
    entries: list[LogEntry] = field(default_factory=list)
    identities: dict[int, str] = field(default_factory=dict)


def read_history(deployment: Deployment, source: Source, table: History, record: Record | None) -> tuple[RawHistory, bool]:
    """Fold the log, or take what `record` says of it; which of both. What cannot be read is the problem of what was found."""
    raw = RawHistory()
    try:
        log = deployment.log(source, table)
        raw.entries = log.entries(afresh=record is None)
        if not raw.entries:
            return raw, False
        raw.found.sequence = raw.entries[-1].sequence
        raw.identities = file_identities(deployment.store, log.folder, raw.entries)
        if record is not None and _is_as_recorded(raw, record):
            raw.found.parts = record.raw
            raw.found.take(record.entries.values())
            raw.found.taken = total(record.raw.values()).rows
            return raw, True
        sums = history_sums(deployment, source, table, log, provable_entries(log, raw.entries))
        raw.found.parts, raw.found.read = sums.parts, total(sums.parts.values()).rows
        raw.found.problem = _unlike_table(deployment, source, table, raw.found.sequence, sums.current)
    except LakehouseError as error:
        raw.found.problem = str(error)
    return raw, False


def history_record(
    source: Source, table: History, raw: RawHistory, state: TableState, lake: Mapping[str, Seen], warehouse: Mapping[str, Seen]
) -> Record:
    """What this verification found equal."""
    now = raw.found.since or datetime.now(UTC)
    return Record(
        declaration=declaration_of(source, table),
        schema="",
        sequence=raw.found.sequence,
        version=state.current.version,
        log=log_prefix(raw.entries),
        entries={sequence: Seen(identity, now) for sequence, identity in raw.identities.items()},
        raw=raw.found.parts,
        lake=lake,
        warehouse=warehouse,
        days={},
    )


def _is_as_recorded(raw: RawHistory, record: Record) -> bool:
    """Whether nothing landed since, and the log's files are those that were read."""
    known = {sequence: seen.identity for sequence, seen in record.entries.items()}
    return record.log == log_prefix(raw.entries) and known == raw.identities and all(known.values())


def _unlike_table(deployment: Deployment, source: Source, table: History, sequence: int, current: RowChecksum) -> str:
    """How the current rows differ from the lake table's at the same sequence, in words; empty when they do not."""
    state = deployment.lake.state(source.name, table.of)
    if state is None or state.current.marker.sequence != sequence:
        return ""
    marker = state.current.marker
    if (marker.rows, marker.checksum) == (current.rows, current.hex):
        return ""
    return (
        f"its current rows are not those of {source.name}.{table.of.name}: {current.rows:,} rows, checksum {current.hex}, "
        f"where the lake's table has {marker.rows:,} and {marker.checksum}; is a key of the table there twice?"
    )
