"""The log of one table: batches written as files, then claimed, one after the other, each by one conditional write."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.errors import CommitConflict, DamagedData, WrongUse
from lakehouse.raw.current import CurrentRows, fold_entries
from lakehouse.raw.kept import KeptManifests
from lakehouse.raw.manifest import decode_manifest, encode_manifest, fields_of, fingerprint, schema_of
from lakehouse.raw.renaming import as_today, under_todays_names
from lakehouse.raw.scratch import scratch_folder
from lakehouse.raw.writer import Written, empty_digest, sha256_of, write_files
from lakehouse.spec import BatchKind, LogEntry, Manifest, Position, RawFile, Table, Window
from lakehouse.stores import LONGEST_HOURS, ObjectInfo, ObjectStore, refuse_late, started

PARALLEL = 8
FEW = 8
"""Entries that are read from the store without looking at what is kept."""
_ENTRY = re.compile(r".*/(\d{20})\.json")


class RawLog:
    """The raw log of `table` of `source` in `store`.

    scratch: where temporary files go, about a gigabyte at most for a batch (default: the system's folder for them).
    longest_hours: from a batch's first file to its claim; a later claim is refused. kept: manifests that were read here before.
    """

    def __init__(
        self,
        store: ObjectStore,
        source: str,
        table: Table,
        *,
        scratch: Path | None = None,
        longest_hours: float = LONGEST_HOURS,
        kept: KeptManifests | None = None,
    ) -> None:
        self._store = store
        self._source = source
        self._table = table
        self._scratch = scratch
        self._longest_hours = longest_hours
        self._kept = kept
        self._tried: dict[str, int] = {}
        self._began: dict[str, float] = {}

    @property
    def folder(self) -> str:
        """The table's folder in the store; file paths in manifests are relative to it."""
        return f"raw/{self._source}/{self._table.name}"

    @property
    def table(self) -> Table:
        """The table whose log this is."""
        return self._table

    def head(self) -> int:
        """The sequence of the last entry, 0 for an empty log. Takes a number of requests that grows with the log's logarithm."""
        low = step = 0
        while True:
            found = self._sequences_after(low + step)
            if found:
                low = found[-1]
                step = max(1, 2 * step) if step else low
            elif step == 0:
                return low
            else:
                break
        high = low + step
        while low < high:
            middle = (low + high) // 2
            found = self._sequences_after(middle)
            if found:
                low = found[-1]
            else:
                high = middle
        return low

    def entries(self, after: int = 0, *, afresh: bool = False) -> list[LogEntry]:
        """The entries after a sequence, in order. DamagedData when one is missing or its manifest is damaged.

        A snapshot is a new beginning: an entry before it that cannot be read any more is left out, for nothing needs it.
        afresh: read each from the store, also one that is kept here and that the store lists as it was.
        """
        prefix = self._path(after) if after else None
        listed = {_sequence(info.path): info for info in self._store.list(f"{self.folder}/_log", prefix)}
        last = max(listed, default=0) or after
        if last == after and after and not self._store.exists(self._path(after)):
            raise self._missing(after)
        if self._kept is None or afresh or len(listed) <= FEW:
            return readable(self._look(after, last, {}))
        known = self._known(self._kept, listed)
        found = self._look(after, last, known)
        fresh = (entry for entry in found if isinstance(entry, LogEntry) and entry.sequence not in known)
        self._kept.add({listed[entry.sequence]: encode_manifest(entry.manifest) for entry in fresh if entry.sequence in listed})
        return readable(found)

    def look(self) -> list[LogEntry | DamagedData]:
        """Every entry from the first to the last, or why it cannot be read."""
        return self._look(0, self.head(), {})

    def _look(self, after: int, last: int, known: Mapping[int, LogEntry]) -> list[LogEntry | DamagedData]:
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(lambda n: known.get(n) or self.entry_or_damage(n), range(after + 1, last + 1)))

    def _known(self, kept: KeptManifests, listed: Mapping[int, ObjectInfo]) -> dict[int, LogEntry]:
        """The entries that are kept, as the store lists them."""
        known = {}
        for path, data in kept.find(listed.values()).items():
            with suppress(DamagedData):
                known[_sequence(path)] = self._entry(_sequence(path), data)
        return known

    def entry_or_damage(self, sequence: int) -> LogEntry | DamagedData:
        """One entry, or why it cannot be read."""
        try:
            return self.entry(sequence)
        except DamagedData as error:
            return error

    def entry(self, sequence: int) -> LogEntry:
        """One entry; DamagedData when it is missing or damaged."""
        try:
            return self._entry(sequence, self._store.get(self._path(sequence)))
        except FileNotFoundError:
            raise self._missing(sequence) from None

    def _entry(self, sequence: int, data: bytes) -> LogEntry:
        path = self._path(sequence)
        manifest = decode_manifest(data, self._store.url_of(path))
        if (manifest.source, manifest.table) != (self._source, self._table.name):
            raise DamagedData(
                f"reading {self._store.url_of(path)}",
                value=f"a batch of {manifest.source}.{manifest.table}",
                allowed=f"a batch of {self._source}.{self._table.name}",
                remedy="Give each table a folder of its own; restore this object from a copy.",
            )
        return LogEntry(sequence, under_todays_names(self._table, manifest))

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, folder: str = "") -> Written:
        """Write the files of a new batch, in the order of the rows, and upload them to `folder` of the table's folder.

        Nothing is in the log yet: a failure leaves, at most, files in the store that no entry names. No rows, no file.
        Raises SchemaChanged, ValueRefused (nothing landed), StoreUnavailable.
        """
        batch_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:16]}"
        began = started()
        digest = empty_digest(schema)
        files: list[RawFile] = []
        with scratch_folder(self._scratch) as scratch:
            for local in write_files(batches, schema, scratch, batch_id, digest):
                path = f"{folder}/{local.path.name}" if folder else local.path.name
                self._store.upload(local.path, f"{self.folder}/{path}")
                local.path.unlink()
                files.append(RawFile(path, local.rows, local.bytes, local.sha256))
        return Written(batch_id, tuple(files), digest.checksum.rows, digest.checksum, digest.sample, began)

    def manifest(
        self,
        written: Written,
        *,
        kind: BatchKind,
        window: Window | None,
        closed: bool,
        schema: pa.Schema,
        position: Position,
        run_id: str = "",
    ) -> Manifest:
        """The manifest of a written batch, to be claimed."""
        fields = fields_of(schema)
        self._began[written.batch_id] = written.began
        return Manifest(
            batch_id=written.batch_id,
            source=self._source,
            table=self._table.name,
            kind=kind,
            window=window,
            closed=closed,
            files=written.files,
            fields=fields,
            fingerprint=fingerprint(fields),
            position=position,
            rows=written.rows,
            checksum=written.checksum.hex,
            created_at=datetime.now(UTC),
            run_id=run_id,
        )

    def claim(self, manifest: Manifest, *, expected_head: int | None = None) -> LogEntry:
        """Put a batch into the log, at the first free sequence, or at `expected_head + 1` and nowhere else.

        Raises CommitConflict when that one is taken by another batch (this one is not in the log). After StoreUnavailable the
        batch may be in the log: claim the same manifest again through the same RawLog, and it will be found there, not doubled.
        Raises TooLate when the batch took too long to write; it is not in the log.
        """
        self._refuse_late(manifest)
        data = encode_manifest(manifest)
        if expected_head is not None:
            return self._claim_at(manifest, data, expected_head)
        sequence = self._tried.get(manifest.batch_id) or self.head() + 1
        self._tried[manifest.batch_id] = sequence
        while not self._store.put_new(self._path(sequence), data) and not self._is_ours(sequence, manifest):
            sequence += 1
        self._tried.pop(manifest.batch_id)
        return LogEntry(sequence, manifest)

    def claim_beyond(self, manifest: Manifest, lost_head: int) -> LogEntry:
        """Put a snapshot at `lost_head + 1` of a log whose last entries were lost, so that no later batch takes their places.

        Raises CommitConflict when that place is taken, WrongUse for a batch that does not make the lost entries void.
        """
        self._refuse_late(manifest)
        if manifest.kind != "snapshot":
            raise WrongUse(
                f"claiming entry {lost_head + 1} of {self.folder} behind entries that were lost",
                value=manifest.kind,
                allowed="a snapshot: it makes what came before it void",
                remedy="Land a snapshot of the whole table.",
            )
        if self._store.put_new(self._path(lost_head + 1), encode_manifest(manifest)) or self._is_ours(lost_head + 1, manifest):
            return LogEntry(lost_head + 1, manifest)
        raise self._taken(lost_head + 1)

    def note(self, name: str) -> bytes:
        """What was noted about the table under a name; FileNotFoundError when nothing was."""
        return self._store.get(self._note(name))

    def keep_note(self, name: str, data: bytes) -> None:
        """Note something about the table, in the place of what stood there. No note is part of the log: it may be lost."""
        self._store.put(self._note(name), data)

    def check_files(self, entry: LogEntry) -> list[DamagedData]:
        """What is wrong with the files of a batch: each is read and proved; nothing when all are as they were written."""
        found = []
        with scratch_folder(self._scratch) as scratch:
            for file in entry.manifest.files:
                try:
                    local = self._fetch(file, scratch)
                    local.unlink()
                except DamagedData as error:
                    found.append(error)
        return found

    def read(self, entry: LogEntry, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a batch in their order, under today's names; each file is verified whole before any of its rows is given.

        Raises DamagedData, naming the file, when one is missing or is not what was written.
        """
        fields = entry.manifest.fields
        stored = {field.name: field.in_files for field in fields}
        names = None if columns is None else [stored[name] for name in columns]
        with scratch_folder(self._scratch) as scratch:
            for file in entry.manifest.files:
                local = self._fetch(file, scratch)
                with pq.ParquetFile(local) as parquet:
                    for batch in parquet.iter_batches(columns=names):
                        yield as_today(batch, fields)
                local.unlink()

    def local_files(self, entry: LogEntry, into: Path) -> list[Path]:
        """Verified copies of a batch's files in the folder `into`, in the batch's order. Raises DamagedData as `read` does."""
        into.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(lambda file: self._fetch(file, into), entry.manifest.files))

    def schema_of(self, entry: LogEntry) -> pa.Schema:
        """The Arrow schema that a batch came with."""
        return schema_of(entry.manifest)

    def fingerprint(self, schema: pa.Schema) -> str:
        """The fingerprint that a batch of this schema gets."""
        return fingerprint(fields_of(schema))

    @contextmanager
    def current_rows(
        self,
        connection: duckdb.DuckDBPyConnection,
        schema: pa.Schema | None = None,
        *,
        upto: int | None = None,
        after: int = 0,
        base: str | None = None,
    ) -> Iterator[CurrentRows]:
        """The rows of the table after all entries, or after those up to the sequence `upto`, as a DuckDB relation.

        base: a relation with the columns of `schema`: the rows as entry `after` left them.

        It can be read until the context ends: it scans verified copies of the files that still count. Raises DamagedData before
        anything is given, WrongUse for an empty log without a schema.
        """
        entries = [entry for entry in self.entries(after=after) if upto is None or entry.sequence <= upto]
        with scratch_folder(self._scratch) as scratch:
            folders = (scratch / str(number) for number in itertools.count())
            yield fold_entries(
                self._table, entries, schema, connection, lambda entry: self.local_files(entry, next(folders)), base=base
            )

    def _refuse_late(self, manifest: Manifest) -> None:
        if manifest.batch_id in self._began:
            refuse_late(f"claiming a batch of {self.folder}", self._began[manifest.batch_id], self._longest_hours)

    def _claim_at(self, manifest: Manifest, data: bytes, expected_head: int) -> LogEntry:
        if expected_head and not self._store.exists(self._path(expected_head)):
            raise WrongUse(
                f"claiming entry {expected_head + 1} of {self.folder}",
                value=f"no entry {expected_head}",
                allowed="the number after the log's last entry",
                remedy="Read head() again.",
            )
        sequence = expected_head + 1
        if self._store.put_new(self._path(sequence), data) or self._is_ours(sequence, manifest):
            return LogEntry(sequence, manifest)
        raise self._taken(sequence)

    def _taken(self, sequence: int) -> CommitConflict:
        return CommitConflict(
            f"claiming entry {sequence} of {self.folder}",
            value=f"batch {self.entry(sequence).manifest.batch_id}",
            allowed="a free place in the log",
            remedy="Read the log again and decide anew; the files of this batch are in no log.",
        )

    def _is_ours(self, sequence: int, manifest: Manifest) -> bool:
        return self.entry(sequence).manifest.batch_id == manifest.batch_id

    def _fetch(self, file: RawFile, into: Path) -> Path:
        path = f"{self.folder}/{file.path}"
        local = into / Path(file.path).name
        try:
            self._store.download(path, local)
        except FileNotFoundError:
            raise self._damaged(path, "nothing") from None
        if local.stat().st_size != file.bytes:
            raise self._damaged(path, f"{local.stat().st_size} bytes instead of {file.bytes}")
        if (found := sha256_of(local)) != file.sha256:
            raise self._damaged(path, f"SHA-256 {found} instead of {file.sha256}")
        return local

    def _damaged(self, path: str, found: str) -> DamagedData:
        return DamagedData(
            f"reading the raw file {self._store.url_of(path)}",
            value=found,
            allowed="the bytes that its manifest describes",
            remedy=f"Run `lakehouse repair {self._source}.{self._table.name}`, or restore the file from a copy; no row was used.",
        )

    def _missing(self, sequence: int) -> DamagedData:
        return DamagedData(
            f"reading the log of {self._source}.{self._table.name}",
            value=f"no object {self._store.url_of(self._path(sequence))}",
            allowed="every entry from 1 to the last",
            remedy=f"Run `lakehouse repair {self._source}.{self._table.name}`, or restore the object from a copy.",
        )

    def _path(self, sequence: int) -> str:
        return f"{self.folder}/_log/{sequence:020d}.json"

    def _note(self, name: str) -> str:
        return f"{self.folder}/_log/note-{name}"

    def _sequences_after(self, sequence: int) -> list[int]:
        found = self._store.page(f"{self.folder}/_log", self._path(sequence))
        return [number for number in (_sequence(info.path) for info in found) if number]


def readable(found: Sequence[LogEntry | DamagedData]) -> list[LogEntry]:
    """The entries that can be read, in order; raises the first damage that no later snapshot makes void."""
    entries: list[LogEntry] = []
    raised: DamagedData | None = None
    void = False
    for item in reversed(found):
        if isinstance(item, LogEntry):
            entries.append(item)
            void = void or item.manifest.kind == "snapshot"
        elif not void:
            raised = item
    if raised is not None:
        raise raised
    return entries[::-1]


def _sequence(path: str) -> int:
    match = _ENTRY.fullmatch(path)
    return int(match[1]) if match else 0
