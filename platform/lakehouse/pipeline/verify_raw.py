"""The reference of a verification: rows and checksums that the raw log makes of a table, by partition.

What was verified before is added up, and only new entries are read, each file proved by its SHA-256:

- `append`: a day's rows are those of the last entry of its window, so the table is the sum of its standing entries, and an entry
  that was read once is not read again.
- `upsert`: new entries change the rows of their keys and no others. The rows that these keys had are taken from the lake at the
  verified version (its files are those that were verified, or all of raw is read); the new entries are folded over them; the
  checksums of the old rows are taken away and those of the new ones added. To find the rows, the key columns of that version are
  read, and the rest of the partitions that have such a key.
- `snapshot`: the last entry is the table, and is always read: such a table is small.

Reading everything folds the whole log, from its files alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from lakehouse.errors import DamagedData, LakehouseError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.verify_copies import Found, merged, plain_schema
from lakehouse.pipeline.verify_record import Parts, Record, Seen, file_identities, log_prefix
from lakehouse.raw import RawLog, standing
from lakehouse.raw.current import fold_entries
from lakehouse.raw.scratch import scratch_folder
from lakehouse.rows.checksum import EMPTY, partition_checksums, total
from lakehouse.rows.digest import Words, row_digests
from lakehouse.rows.duck import incoming, quoted
from lakehouse.rows.fold import window_sql
from lakehouse.rows.partition import partition_prefix
from lakehouse.spec import LogEntry, Source, Table, Window
from lakehouse.tables.engine import LakeTables, TableState

Digested = tuple[pa.RecordBatch, Words]
"""Rows and their digests over all columns of the batch."""


@dataclass
class Raw:
    """The raw log of a table while it is verified.

    known: entries whose rows, or whose part in the fold, an earlier verification has read, by sequence. usable: the record, if it
    is of this log.
    """

    log: RawLog
    table: Table
    entries: list[LogEntry]
    identities: dict[int, str]
    known: dict[int, Seen]
    usable: Record | None
    found: Found = field(default_factory=Found)

    @property
    def standing(self) -> list[LogEntry]:
        """The entries that can still have a row."""
        return standing(self.entries)

    @property
    def by_entry(self) -> bool:
        """Whether the table is the sum of its standing entries."""
        return self.table.mode == "snapshot" or (self.table.mode == "append" and all(map(day_of, self.entries)))


def open_raw(deployment: Deployment, source: Source, table: Table, record: Record | None) -> Raw:
    """Look at the log: manifests (without a record, each as the store has it) and files. DamagedData for a damaged manifest."""
    log = deployment.log(source, table)
    entries = log.entries(afresh=record is None)
    identities = file_identities(deployment.store, log.folder, standing(entries)) if entries else {}
    usable = record
    if record is not None and log_prefix([entry for entry in entries if entry.sequence <= record.sequence]) != record.log:
        usable = None
    known = {
        sequence: seen
        for sequence, seen in (usable.entries if usable else {}).items()
        if seen.identity and identities.get(sequence) == seen.identity
    }
    return Raw(log, table, entries, identities, known, usable, Found(entries[-1].sequence if entries else 0))


def day_of(entry: LogEntry) -> date | None:
    """The UTC day that an entry replaces, None when it does not replace just one."""
    window = entry.manifest.window
    if entry.manifest.kind != "replace" or window is None or window.low is None:
        return None
    day = window.low.astimezone(UTC).date()
    return day if window == Window.of_day(day) else None


def entry_rows(raw: Raw, entry: LogEntry, *, count: bool = True) -> Iterator[Digested]:
    """The rows of an entry of an `append` or `snapshot` table; counted as its part of the table, unless `count` is false.

    Raises DamagedData for a file that is not what was written, and for a row of another day than the entry's.
    """
    parts: Parts = {}
    for batch in raw.log.read(entry):
        digests = row_digests(batch, batch.schema)
        partition_checksums(batch, digests, raw.table.partition, parts)
        yield batch, digests
    day = day_of(entry)
    if day is not None and parts.keys() - {f"{partition_prefix(raw.table.partition)}={day.isoformat()}"}:
        raise DamagedData(
            f"reading entry {entry.sequence} of {raw.log.folder}",
            value=f"rows of {', '.join(sorted(parts))}",
            allowed=f"rows of {day}, the window of the entry",
            remedy="Extract the day again (`lakehouse run --from --to`).",
        )
    raw.found.read += total(parts.values()).rows
    if not count:
        return
    raw.found.pieces[str(entry.sequence)] = Seen(raw.identities[entry.sequence], datetime.now(UTC), parts)


def entry_parts(raw: Raw, entry: LogEntry) -> Parts:
    """Rows and checksum of an entry: as an earlier verification found them, else as its files say, which are then read."""
    if entry.sequence in raw.known:
        return raw.known[entry.sequence].parts
    for _ in entry_rows(raw, entry):
        pass
    return raw.found.pieces[str(entry.sequence)].parts


def finish_by_entry(raw: Raw) -> None:
    """Add up the standing entries: those that were read, and the known ones that were not."""
    pieces = raw.found.pieces
    for entry in raw.standing:
        if str(entry.sequence) not in pieces:
            entry_parts(raw, entry)
    taken = {str(entry.sequence): raw.known[entry.sequence] for entry in raw.standing if str(entry.sequence) not in pieces}
    raw.found.take(taken.values())
    pieces.update(taken)
    raw.found.parts = merged(seen.parts for seen in pieces.values())


def folded_rows(
    raw: Raw, connection: duckdb.DuckDBPyConnection, *, since: datetime | None = None, count: bool = True
) -> Iterator[Digested]:
    """The rows of the whole log's fold; counted as the table's, unless `count` is false.

    since: only rows with a cursor from then on. They are in entries whose window ends after it, so only those are read, and
    deletions, which have no window.
    """
    entries = raw.entries
    if since is not None:
        entries = [entry for entry in entries if _reaches(entry, since)]
    if not entries:
        return
    now = datetime.now(UTC)
    with _local_files(raw) as fetch:
        rows = fold_entries(raw.table, entries, None, connection, fetch)
        condition = f" where {window_sql(str(raw.table.cursor), Window(since, None))}" if since is not None else ""
        for batch in connection.execute(f"select * from {rows.relation}{condition}").to_arrow_reader(65536):
            typed = batch.cast(rows.schema)
            digests = row_digests(typed, rows.schema)
            if count:
                partition_checksums(typed, digests, raw.table.partition, raw.found.parts)
                raw.found.read += batch.num_rows
            yield typed, digests
    if count:
        raw.found.pieces = {str(entry.sequence): Seen(raw.identities[entry.sequence], now) for entry in raw.standing}


def advance(raw: Raw, lake: LakeTables, source: Source, state: TableState, connection: duckdb.DuckDBPyConnection) -> bool:
    """Fold the entries of an `upsert` table that are new since the record over what it says; False when that cannot be done.

    It can be done when every old entry's files are those that were read, new entries bring or take away rows by their keys, no
    new rows bring a schema that no old ones had, and the lake still has the verified version, of the same files and columns.
    """
    record = raw.usable
    if record is None or record.schema != raw.log.fingerprint(state.schema):
        return False
    old = [entry for entry in raw.entries if entry.sequence <= record.sequence]
    new = raw.entries[len(old) :]
    if any(entry.manifest.kind not in ("upsert", "delete") for entry in new):
        return False
    if any(entry.sequence not in raw.known for entry in standing(old)):
        return False
    schemas = {entry.manifest.fingerprint for entry in old}
    if any(entry.manifest.fingerprint not in schemas for entry in new if entry.manifest.kind != "delete"):
        return False
    now = datetime.now(UTC)
    removed, added = Parts(), Parts()
    if new:
        try:
            if not _is_as_verified(lake, source, raw.table, record):
                return False
            removed, added = _changed_parts(raw, lake, source, state.schema, new, record, connection)
        except (LakehouseError, OSError, pa.ArrowException):  # reading everything tells what is wrong, and of which copy
            return False
    changed = total(added.values()).rows
    raw.found.parts = {
        name: part
        for name in {*record.raw, *removed, *added}
        if (part := record.raw.get(name, EMPTY) - removed.get(name, EMPTY) + added.get(name, EMPTY)) != EMPTY
    }
    raw.found.read += changed
    raw.found.take(raw.known[entry.sequence] for entry in old if entry.sequence in raw.known)
    raw.found.taken = total(raw.found.parts.values()).rows - changed
    fresh = {str(entry.sequence): Seen(raw.identities[entry.sequence], now) for entry in new}
    kept = {str(sequence): seen for sequence, seen in raw.known.items()}
    raw.found.pieces = {name: seen for name, seen in (kept | fresh).items() if seen.identity}
    return True


def _is_as_verified(lake: LakeTables, source: Source, table: Table, record: Record) -> bool:
    """Whether the verified version is still there, and its files are those that were verified."""
    if all(version.version != record.version for version in lake.history(source.name, table)):
        return False
    contents = lake.contents(source.name, table, version=record.version)
    return contents == {name: seen.identity for name, seen in record.lake.items()}


def _changed_parts(
    raw: Raw,
    lake: LakeTables,
    source: Source,
    schema: pa.Schema,
    new: Sequence[LogEntry],
    record: Record,
    connection: duckdb.DuckDBPyConnection,
) -> tuple[Parts, Parts]:
    """Of the keys in the new entries: their rows in the verified version, and what the new entries make of them."""
    table = raw.table
    _load_keys(raw, new, schema, connection)
    names = _partitions_with_keys(lake, source, table, schema, record.version, connection)
    rows = lake.scan(source.name, table, partitions=sorted(names), version=record.version)
    with incoming(connection, "verified_rows", rows, schema):
        connection.execute(
            f"create or replace temp table base_rows as select v.* from verified_rows v where {_is_changed(table)}"
        )
    before = _parts_of(connection, "base_rows", schema, table)
    with _local_files(raw) as fetch:
        folded = fold_entries(table, new, schema, connection, fetch, base="base_rows")
        return before, _parts_of(connection, folded.relation, schema, table)


def _load_keys(raw: Raw, entries: Sequence[LogEntry], schema: pa.Schema, connection: duckdb.DuckDBPyConnection) -> None:
    keys = pa.schema([schema.field(name) for name in raw.table.key])

    def batches() -> Iterator[pa.RecordBatch]:
        for entry in entries:
            for batch in raw.log.read(entry, columns=raw.table.key):
                yield batch.select(keys.names).cast(keys)

    with incoming(connection, "incoming_keys", batches(), keys):
        connection.execute("create or replace temp table changed_keys as select distinct * from incoming_keys")


def _partitions_with_keys(
    lake: LakeTables, source: Source, table: Table, schema: pa.Schema, version: int, connection: duckdb.DuckDBPyConnection
) -> Collection[str]:
    """The partitions of a version that hold one of the changed keys; only the key columns are read."""
    found: set[str] = set()
    for name, batch in lake.scan_by_partition(source.name, table, version=version, columns=table.key):
        if name in found:
            continue
        keys = batch.cast(plain_schema(batch))
        with incoming(connection, "verified_keys", [keys], keys.schema):
            if connection.execute(f"select 1 from verified_keys v where {_is_changed(table)} limit 1").fetchall():
                found.add(name)
    return found


def _is_changed(table: Table) -> str:
    match = " and ".join(f"v.{quoted(name)} is not distinct from k.{quoted(name)}" for name in table.key)
    return f"exists (select 1 from changed_keys k where {match})"


def _parts_of(connection: duckdb.DuckDBPyConnection, relation: str, schema: pa.Schema, table: Table) -> Parts:
    parts: Parts = {}
    for batch in connection.execute(f"select * from {relation}").to_arrow_reader(65536):
        typed = batch.cast(schema)
        partition_checksums(typed, row_digests(typed, schema), table.partition, parts)
    return parts


def _reaches(entry: LogEntry, since: datetime) -> bool:
    window = entry.manifest.window
    return entry.manifest.kind == "delete" or window is None or window.high is None or window.high > since


@contextmanager
def _local_files(raw: Raw) -> Iterator[Callable[[LogEntry], Sequence[Path]]]:
    """What fetches an entry's files, proved, into a folder of their own that lasts as long as the context."""
    with scratch_folder() as scratch:
        folders = (scratch / str(number) for number in itertools.count())
        yield lambda entry: raw.log.local_files(entry, next(folders))
