"""Landing one table: write a batch's files, then claim its place in the log."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import TypeVar

import pyarrow as pa

from lakehouse.errors import (
    CommitConflict,
    DamagedData,
    DeletesRefused,
    ExpectationFailed,
    LakehouseError,
    SourceUnavailable,
)
from lakehouse.pipeline.deployment import Deployment
from lakehouse.raw import Written
from lakehouse.rows.checksum import checksum_of
from lakehouse.rows.expected import Unmet, Watch, together
from lakehouse.rows.privacy import protected
from lakehouse.spec import BatchKind, LogEntry, Manifest, Position, RowChecksum, Source, Table, Window

Read = Callable[[], Iterator[pa.RecordBatch]]
T = TypeVar("T")

READINGS = 3
"""Readings of one window, the first included, when the source goes away in the middle."""

FEW_BYTES = 16 * 2**20
"""Rows that take no more memory than this are kept between their checksum and their landing, and not read twice."""


class Landing:
    """One table during one extraction: its log as it was found, and what is claimed on top of it.

    A batch is claimed only in the place after the last entry that this landing knows of. If another process claimed that place,
    its entry is looked at: when it holds the same window, read later than ours, ours is dropped; else ours follows it. So an
    older reading of a window never covers a newer one.
    """

    def __init__(
        self,
        deployment: Deployment,
        source: Source,
        table: Table,
        schema: pa.Schema,
        position: Position,
        run_id: str,
        *,
        accept_deletes: bool = False,
    ) -> None:
        self.source = source
        self.table = table
        self.schema = schema
        self.log = deployment.log(source, table)
        self.entries = self.log.entries()
        self.claimed: list[LogEntry] = []
        self.unchanged = 0
        self.notes: list[str] = []
        self.sample: pa.Table | None = None
        self.unmet: tuple[Unmet, ...] = ()
        self._position = position
        self._run_id = run_id
        self._accept_deletes = accept_deletes
        self._key = deployment.settings.privacy_key.get_secret_value()
        self._deployment = deployment

    @property
    def head(self) -> int:
        """The last sequence that this landing knows of."""
        return self.entries[-1].sequence if self.entries else 0

    def note(self, text: str) -> None:
        """Say something in the result's notes."""
        self.notes.append(text)

    def checksum(self, batches: Iterable[pa.RecordBatch]) -> RowChecksum:
        """Rows and checksum of source rows as they would land."""
        return checksum_of(protected(batches, self.table, self._key), self.schema)

    def is_in_lake(self, batches: Iterable[pa.RecordBatch]) -> bool:
        """Whether the lake's table is up to date with the log, and holds just these source rows."""
        state = self._deployment.lake.state(self.source.name, self.table)
        if state is None or state.current.marker.sequence != self.head:
            return False
        found, marker = self.checksum(batches), state.current.marker
        return (found.rows, found.hex) == (marker.rows, marker.checksum)

    def _checksum_and_rows(self, read: Read) -> tuple[RowChecksum, Watch, Sequence[pa.RecordBatch] | None]:
        """Rows and checksum of a window as it would land, what was seen of its rows, and these themselves where they are few."""
        watch = Watch(self.table)
        few = _Few(protected(watch.passing(read()), self.table, self._key))
        return checksum_of(few, self.schema), watch, few.rows

    def _write(self, read: Read, folder: str) -> tuple[Written, Watch]:
        watch = Watch(self.table)
        rows = protected(watch.passing(read()), self.table, self._key)
        return self.write(rows, self.schema, folder=folder), watch

    def window_checksum(self, read: Read) -> RowChecksum:
        """Rows and checksum of a window as it would land, read again when the source goes away in the middle."""
        return self._whole(lambda: self.checksum(read()))

    def land(
        self,
        read: Read,
        *,
        kind: BatchKind,
        window: Window | None,
        closed: bool,
        folder: str = "",
        detail: Mapping[str, str] | None = None,
    ) -> None:
        """Land the rows that `read` gives, unless the last entry of the same window holds just them.

        When only `closed` changed, an entry that refers to the files already there is claimed, so that the window is not read
        again. A failure leaves at most files that no entry refers to.
        """
        position = replace(self._position, detail={**self._position.detail, **(detail or {})})
        previous = self._previous(kind, window)
        rows: Sequence[pa.RecordBatch] | None = None
        if previous is not None and kind != "upsert" and self._same_schema(previous):
            found, watch, rows = self._whole(lambda: self._checksum_and_rows(read))
            if (found.rows, found.hex) == (previous.manifest.rows, previous.manifest.checksum):
                self.unchanged += 1
                if closed and not previous.manifest.closed:
                    self._claim(self._again(previous.manifest, position))
                return
            self._refuse(watch, window, kind, previous, found.rows)
        if rows is None:
            written, watch = self._whole(lambda: self._write(read, folder))
        else:
            written = self.write(rows, self.schema, folder=folder)
        if kind == "upsert" and not written.rows:
            self.unchanged += 1
            return
        self._refuse(watch, window, kind, previous, written.rows)
        if self.land_written(written, kind=kind, window=window, closed=closed, schema=self.schema, position=position):
            self.unmet = together((*self.unmet, *watch.unmet))
        if self.sample is None or written.rows:
            self.sample = written.sample

    def _refuse(self, watch: Watch, window: Window | None, kind: BatchKind, previous: LogEntry | None, rows: int) -> None:
        """Refuse rows that are not what the table expects (ExpectationFailed), or that are too few (DeletesRefused)."""
        refused = [unmet for unmet in watch.unmet if unmet.expected.otherwise == "stop"]
        if refused:
            at = "" if window is None or window.low is None else f", from {window.low:%Y-%m-%d %H:%M} UTC on"
            raise ExpectationFailed(
                f"landing {self.source.name}.{self.table.name}{at}",
                value="; ".join(map(str, refused)),
                allowed="rows as the table expects them",
                remedy="Correct the rows in the source, or the expectation; with otherwise='warn' they land and are told of. "
                "Their batch was not landed.",
            )
        if kind == "snapshot" and previous is not None:
            self.check_gone(previous.manifest.rows - rows, previous.manifest.rows)

    def keep_note(self, name: str, text: str) -> None:
        """Keep a note beside the log."""
        self.log.keep_note(name, text.encode())

    def check_gone(self, gone: int, rows: int) -> None:
        """Refuse that so many of the table's rows are gone from the source, where that is more than it allows: DeletesRefused."""
        if not self._accept_deletes:
            refuse_gone(self.source.name, self.table, gone, rows)

    def in_order(self, days: Sequence[date]) -> Sequence[date]:
        """The days in the order in which they are read: the oldest first, as the log should have them."""
        return days

    def expect_rows(self) -> None:
        """Be told that the source has rows newer than all that were landed, before any is read."""

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, folder: str = "") -> Written:
        """Write the files of a batch; they are in no log until they are claimed."""
        return self.log.write(batches, schema, folder=folder)

    def _whole(self, work: Callable[[], T]) -> T:
        """What `work` makes of a window's rows. When the source goes away in the middle, all of it is done again.

        Nothing is claimed before the last row has come, so no row is landed twice; the files of a broken reading stay unclaimed.
        """
        for _ in range(READINGS - 1):
            try:
                return work()
            except SourceUnavailable as error:
                self.note(f"the source went away while it was read, and was read again: {error.value}")
        return work()

    def land_written(
        self,
        written: Written,
        *,
        kind: BatchKind,
        window: Window | None,
        closed: bool,
        schema: pa.Schema,
        position: Position | None = None,
        only_after: int | None = None,
    ) -> bool:
        """Claim files that were written. only_after: give up (False) unless this sequence is still the head of the log."""
        manifest = self.log.manifest(
            written,
            kind=kind,
            window=window,
            closed=closed,
            schema=schema,
            position=position or self._position,
            run_id=self._run_id,
        )
        return self._claim(manifest, only_after=only_after)

    def _claim(self, manifest: Manifest, *, only_after: int | None = None) -> bool:
        if not self.claimed:
            self._refuse_lost_end()
        while only_after is None or only_after == self.head:
            try:
                entry = self.log.claim(manifest, expected_head=self.head)
            except CommitConflict:
                others = self.log.entries(after=self.head)
                self.entries.extend(others)
                if any(_supersedes(other.manifest, manifest) for other in others):
                    self.note("another run landed the same window from a later view of the source; its batch stands")
                    return False
                continue
            self.entries.append(entry)
            self.claimed.append(entry)
            return True
        return False

    def _refuse_lost_end(self) -> None:
        """Refuse to claim a place that the lake has applied already: what is landed there would never be applied.

        A lake that cannot be asked is taken to be no further than the log.
        """
        try:
            state = self._deployment.lake.state(self.source.name, self.table)
        except LakehouseError:
            return
        if state is None or state.current.marker.sequence <= self.log.head():
            return
        name = f"{self.source.name}.{self.table.name}"
        raise DamagedData(
            f"landing {name}",
            value=f"its log ends at {self.head}, and the lake has applied entry {state.current.marker.sequence}: the end is gone",
            allowed="a log that holds all that the lake has applied",
            remedy=f"Run `lakehouse repair {name}`, or restore the objects under {self.log.folder}/_log; nothing was landed.",
        )

    def _previous(self, kind: BatchKind, window: Window | None) -> LogEntry | None:
        for entry in reversed(self.entries):
            if entry.manifest.kind == kind and entry.manifest.window == window:
                return entry
            if entry.manifest.kind == "snapshot":  # it made what came before it void
                return None
        return None

    def _same_schema(self, entry: LogEntry) -> bool:
        return entry.manifest.fingerprint == self.log.fingerprint(self.schema)

    def _again(self, manifest: Manifest, position: Position) -> Manifest:
        empty = self.write((), self.schema)
        again = self.log.manifest(
            empty,
            kind=manifest.kind,
            window=manifest.window,
            closed=True,
            schema=self.schema,
            position=position,
            run_id=self._run_id,
        )
        return replace(again, files=manifest.files, rows=manifest.rows, checksum=manifest.checksum)


def refuse_gone(source: str, table: Table, gone: int, rows: int) -> None:
    """Raise DeletesRefused where more of a table's rows are gone from the source than it allows at once."""
    most = math.floor(rows * table.gone_at_most + 1e-9)
    if gone <= most:
        return
    name = f"{source}.{table.name}"
    raise DeletesRefused(
        f"looking for deleted rows of {name}",
        value=f"{gone:,} of {rows:,} rows are gone from the source",
        allowed=f"at most {most:,} of them at once (gone_at_most={table.gone_at_most:g}); none was deleted here",
        remedy=f"Look at the source; if they were deleted on purpose, run `lakehouse run --select {name} --accept-deletes`.",
    )


class _Few:
    """Batches on their way. rows: all that have passed, or None once they took more than `FEW_BYTES`."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self.rows: list[pa.RecordBatch] | None = []
        self._batches = batches

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        held = 0
        for batch in self._batches:
            held += batch.get_total_buffer_size()
            if held > FEW_BYTES:
                self.rows = None
            elif self.rows is not None:
                self.rows.append(batch)
            yield batch


class SomethingNew(Exception):
    """A landing that only looks has found rows that are not in the log."""


class Looking(Landing):
    """A landing that writes and claims nothing: it raises SomethingNew where a real one would."""

    def in_order(self, days: Sequence[date]) -> Sequence[date]:
        """The newest first: it is the likeliest to be new."""
        return days[::-1]

    def expect_rows(self) -> None:
        """That is new."""
        raise SomethingNew

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, folder: str = "") -> Written:
        """Refuse: there is something to write."""
        raise SomethingNew

    def keep_note(self, name: str, text: str) -> None:
        """Keep none: who only looks leaves nothing behind."""

    def _claim(self, manifest: Manifest, *, only_after: int | None = None) -> bool:
        raise SomethingNew


def _supersedes(other: Manifest, ours: Manifest) -> bool:
    same = other.kind == ours.kind and other.kind in ("replace", "snapshot") and other.window == ours.window
    return same and other.position.taken_at >= ours.position.taken_at
