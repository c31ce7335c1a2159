"""What the raw log makes of a history: the reference of a verification, and what a repair builds it anew from.

The whole log is folded. What a later snapshot made void counts for a history, so its files are needed too; where some of them are
gone or altered (their table does not need them, and is whole), the history begins with the first snapshot after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.verify_record import Parts
from lakehouse.raw import RawLog
from lakehouse.raw.scratch import scratch_folder
from lakehouse.rows.checksum import EMPTY, digests_checksum, partition_checksums
from lakehouse.rows.digest import row_digests
from lakehouse.rows.duck import connect_duckdb
from lakehouse.spec import History, LogEntry, RowChecksum, Source, since_rebuilt
from lakehouse.spec.history import IS_CURRENT, dated
from lakehouse.tables.columns import arrow_schema
from lakehouse.tables.embedded.batches import BatchRows, LocalBatch
from lakehouse.tables.embedded.folding import DIGEST_BYTES, folding
from lakehouse.tables.embedded.intervals import HistoryFold
from lakehouse.tables.evolution import folded_fields


@dataclass
class HistorySums:
    """Rows and checksums of a history by partition; current: of its current rows, over the columns of its table."""

    parts: Parts = field(default_factory=dict)
    current: RowChecksum = EMPTY


def provable_entries(log: RawLog, entries: Sequence[LogEntry]) -> list[LogEntry]:
    """The entries that a history is built from anew: all of them, or those from the first snapshot on after what was lost.

    What came before a rebuild that changed rows is not among them. Files of entries that a later snapshot made void are read and
    proved; those of the others are left to who folds them.
    """
    entries = since_rebuilt(entries)
    snapshots = [entry.sequence for entry in entries if entry.manifest.kind == "snapshot"]
    void = [entry for entry in entries if snapshots and entry.sequence < snapshots[-1]]
    there = {entry.sequence for entry in entries}
    first = entries[0].sequence if entries and entries[0].manifest.begins_anew else 1
    lost = {sequence for sequence in range(first, snapshots[-1] if snapshots else first) if sequence not in there}
    lost |= {entry.sequence for entry in void if log.check_files(entry)}
    begins = min((sequence for sequence in snapshots if sequence > max(lost)), default=0) if lost else 0
    return [entry for entry in entries if entry.sequence >= begins]


def history_sums(deployment: Deployment, source: Source, table: History, log: RawLog, entries: Sequence[LogEntry]) -> HistorySums:
    """Fold entries into a history, from their files alone; `entries` begins where the history does.

    Raises DamagedData, naming the file, when one is missing or is not what was written.
    """
    settings = deployment.settings
    limit, name = settings.memory_limit_mb, f"{source.name}.{table.name}"
    whole = dated(entries)
    schema = arrow_schema(folded_fields(source.name, table, (), [entry.manifest for entry in whole]))
    found = HistorySums()
    with (
        scratch_folder() as scratch,
        connect_duckdb(memory_limit_mb=limit, temp_directory=scratch / "spill") as connection,
        connect_duckdb(memory_limit_mb=limit, temp_directory=scratch / "aside") as aside,
        folding(f"folding the raw log into {name}", limit),
    ):
        batches = []
        for entry in whole:
            paths = log.local_files(entry, scratch / str(entry.sequence))
            local = LocalBatch(entry.sequence, entry.manifest, tuple(paths))
            batches.append(BatchRows(local, local.files()))
        fold = HistoryFold(connection, aside, table, schema, DIGEST_BYTES, settings.threads, every_row=True)
        for batch in connection.execute(fold.rows([], batches)).to_arrow_reader(65_536):
            typed = batch.cast(schema)
            partition_checksums(typed, row_digests(typed, schema), table.partition, found.parts)
            current = typed.filter(typed.column(IS_CURRENT))
            found.current = found.current + digests_checksum(row_digests(current, fold.content))
    return found
