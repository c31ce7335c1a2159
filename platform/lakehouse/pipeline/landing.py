"""Landing one table: write a batch's files, then claim its place in the log."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from lakehouse.pauses import pause
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.fitting import Fitting
from lakehouse.pipeline.gate import Gate, Read, keys_of, seen_among
from lakehouse.pipeline.quarantine import TAKEN_UP, TICK, Quarantine
from lakehouse.pipeline.relations import Held, OtherRows, has_relations
from lakehouse.pipeline.windows import known_reads
from lakehouse.raw import Written
from lakehouse.rows.checksum import checksum_of
from lakehouse.rows.expected import Unmet, together
from lakehouse.spec import BatchKind, LogEntry, Manifest, Position, RowChecksum, Source, Table, Window
from lakehouse.spec.expectations import Rule
from lakehouse.spec.quarantine import QuarantinedRow

T = TypeVar("T")

READINGS = 3
"""Readings of one window, the first included, when the source goes away in the middle."""

REFUSED = "refused"
"""In the detail of the position of a `delete` batch: of which refused rows the keys are in it."""

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
        self.log = deployment.log(source, table)
        self.entries = self.log.entries()
        self.fitting = Fitting(table, self.entries)
        self.schema = self.fitting.schema(schema)
        self.claimed: list[LogEntry] = []
        self.unchanged = 0
        self.notes = self.fitting.changes(schema)
        self.sample: pa.Table | None = None
        self.unmet: tuple[Unmet, ...] = ()
        self._position = position
        self._run_id = run_id
        self._accept_deletes = accept_deletes
        self._key = deployment.settings.privacy_key.get_secret_value()
        self.deployment = deployment
        self.quarantine = Quarantine(deployment, source, table) if table.keeps_refused else None
        self.refused = 0
        self.others = OtherRows(deployment, source, table, self.schema) if has_relations(table) else None

    @property
    def head(self) -> int:
        """The last sequence that this landing knows of."""
        return self.entries[-1].sequence if self.entries else 0

    def position_with(self, detail: Mapping[str, str]) -> Position:
        """Where the source stood, with more details."""
        return replace(self._position, detail={**self._position.detail, **detail})

    def note(self, text: str) -> None:
        """Say something in the result's notes."""
        self.notes.append(text)

    def gate(self, window: Window | None = None, *rules: Rule) -> Gate:
        """What the rows of one reading go through. window: that they replace. rules: of other rows, beside `references`."""
        related = self.relations(window, "references", *rules)
        return Gate(self.table, self._key, self._position, self._run_id, related, self.fitting)

    def relations(self, window: Window | None, *rules: Rule) -> Held | None:
        """What the rows of one reading are held against, as far as other rows tell."""
        return None if self.others is None else Held(self.others, self.table, window, list(self.entries), rules)

    def close(self) -> None:
        """Forget what was loaded of other rows."""
        if self.others is not None:
            self.others.close()

    def is_in_lake(self, read: Read) -> bool:
        """Whether the lake's table is up to date with the log and holds just these source rows, and the quarantine the others."""
        state = self.deployment.lake.state(self.source.name, self.table)
        if state is None or state.current.marker.sequence != self.head:
            return False
        gate, marker = self.gate(), state.current.marker
        found = checksum_of(gate.rows(read), self.schema)
        if (found.rows, found.hex) != (marker.rows, marker.checksum):
            return False
        return self.quarantine is None or not self.quarantine.news(gate.refused.values())

    def _checksum_and_rows(self, read: Read, window: Window | None) -> tuple[RowChecksum, Gate, Sequence[pa.RecordBatch] | None]:
        """Rows and checksum of a window as it would land, what was seen of its rows, and these themselves where they are few."""
        gate = self.gate(window, "unique")
        few = _Few(gate.rows(read))
        return checksum_of(few, self.schema), gate, few.rows

    def _write(self, read: Read, window: Window | None, folder: str, seen: set[str] | None) -> tuple[Written, Gate]:
        """seen: is given the rows of the quarantine whose keys are among those that are written."""
        gate = self.gate(window, "unique")
        rows = gate.rows(read)
        if seen is not None and self.quarantine is not None:
            seen.clear()
            rows = seen_among(rows, keys_of(self.quarantine.rows(), self.table), seen, self.table)
        return self.write(rows, self.schema, folder=folder), gate

    def window_checksum(self, read: Read) -> tuple[RowChecksum, str]:
        """Rows and checksum of a window as it would land, and the digest of the rows that are refused; read again when the source
        goes away in the middle."""

        def read_once() -> tuple[RowChecksum, str]:
            gate = self.gate()
            return checksum_of(gate.rows(read), self.schema), gate.digest

        return self._whole(read_once)

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
        position = self.position_with(detail or {})
        previous = self.previous(kind, window)
        rows: Sequence[pa.RecordBatch] | None = None
        if previous is not None and kind != "upsert" and self._same_schema(previous):
            found, gate, rows = self._whole(lambda: self._checksum_and_rows(read, window))
            if (found.rows, found.hex) == (previous.manifest.rows, previous.manifest.checksum):
                self.unchanged += 1
                self.take_up(self._keep_refused(gate, kind, window, ()))
                if closed and not previous.manifest.closed:
                    self._claim(self._again(previous.manifest, position))
                return
            self._refuse(gate, window, kind, previous, found.rows)
        seen = set[str]()
        if rows is None:
            written, gate = self._whole(lambda: self._write(read, window, folder, seen if kind == "upsert" else None))
        else:
            written = self.write(rows, self.schema, folder=folder)
        if kind == "upsert" and not written.rows and not gate.refused:
            self.unchanged += 1
            return
        self._refuse(gate, window, kind, previous, written.rows)
        taken_up = self._keep_refused(gate, kind, window, seen)
        if kind == "upsert":
            self._delete_refused(gate)
        if taken_up:
            position = self.position_with({**(detail or {}), TAKEN_UP: ",".join(sorted(taken_up))})
        if self.land_written(written, kind=kind, window=window, closed=closed, schema=self.schema, position=position):
            self.unmet = together((*self.unmet, *gate.unmet))
            self.take_up(taken_up)
        if self.sample is None or written.rows:
            self.sample = written.sample

    def finish(self) -> None:
        """Take out of the quarantine what an earlier batch has taken up, whose landing died before it could."""
        if self.quarantine is not None and self.quarantine.rows():
            self.take_up(self.quarantine.unfinished(self.entries))

    def _keep_refused(self, gate: Gate, kind: BatchKind, window: Window | None, seen: Collection[str]) -> Collection[str]:
        """Put what was refused into the quarantine; the rows of it, by id, that the table takes now, or that are gone.

        seen: those whose keys were seen among the rows that pass.
        """
        if self.quarantine is None:
            return ()
        self.refused += len(gate.refused)
        if not gate.refused and not self.quarantine.rows():
            return ()
        self.keep(list(gate.refused.values()))
        there = self.quarantine.rows()
        if kind == "upsert":
            return [one for one in seen if one in there and one not in gate.refused]
        return [one for one, row in there.items() if one not in gate.refused and (kind == "snapshot" or _is_in(row, window))]

    def keep(self, refused: Collection[QuarantinedRow]) -> None:
        """Put rows into the quarantine, each later than any batch that has taken it up before.

        Raises CommitConflict where somebody has landed from a later view: the rows may be good again, or gone.
        """
        assert self.quarantine is not None
        if not self.quarantine.news(refused):
            return
        later_view = any(entry.manifest.position.taken_at > self._position.taken_at for entry in self.entries)
        if later_view or self.log.head() != self.head:
            raise self._overtaken()
        taken = {
            one: entry.manifest.position.taken_at
            for entry in self.entries
            for one in entry.manifest.position.detail.get(TAKEN_UP, "").split(",")
        }
        later = [
            replace(row, seen_at=max(row.seen_at, taken[row.row_id] + TICK)) if row.row_id in taken else row for row in refused
        ]
        self.quarantine.keep(later, self._position, self._run_id)

    def take_up(self, ids: Collection[str]) -> None:
        """Take rows out of the quarantine."""
        if self.quarantine is not None and ids:
            self.quarantine.remove(ids, self._position, self._run_id)

    def _delete_refused(self, gate: Gate) -> None:
        """Delete what the table has under the keys of refused rows: it is not what the source has any more.

        Raises CommitConflict where somebody has landed meanwhile.
        """
        if self.quarantine is None or not gate.keys or all(entry.manifest.kind == "delete" for entry in self.entries):
            return
        there = self.quarantine.rows()
        state = sorted((one, there[one].seen_at.isoformat()) for one in gate.refused if one in there)
        said = hashlib.sha256(json.dumps([gate.digest, state]).encode()).hexdigest()[:32]
        if any(entry.manifest.position.detail.get(REFUSED) == said for entry in known_reads(self.entries)):
            return
        schema = pa.schema([self.schema.field(name) for name in self.table.key])
        keys = [pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in gate.keys]
        position = self.position_with({REFUSED: said})
        written = self.write(keys, schema)
        landed = self.land_written(
            written, kind="delete", window=None, closed=False, schema=schema, position=position, only_after=self.head
        )
        if not landed:
            raise self._overtaken()

    def _overtaken(self) -> CommitConflict:
        return CommitConflict(
            f"landing {self.source.name}.{self.table.name}",
            value="another run landed rows of it meanwhile, and rows of this one were refused",
            allowed="a log that nobody moved since the source was read",
            remedy="Run it again; nothing but refused rows was kept.",
        )

    def _refuse(self, gate: Gate, window: Window | None, kind: BatchKind, previous: LogEntry | None, rows: int) -> None:
        """Refuse rows that are not what the table expects (ExpectationFailed), or that are too few (DeletesRefused)."""
        self.refuse_unmet(gate.unmet, window)
        if kind == "snapshot" and previous is not None:
            known = self.quarantine.rows().keys() if self.quarantine is not None else ()
            self.check_gone(previous.manifest.rows - rows - len(gate.refused.keys() - known), previous.manifest.rows)

    def refuse_unmet(self, unmet: Iterable[Unmet], window: Window | None) -> None:
        """Raise ExpectationFailed for rows that are to stop their table."""
        refused = [found for found in unmet if found.expected.otherwise == "stop"]
        if refused:
            at = "" if window is None or window.low is None else f", from {window.low:%Y-%m-%d %H:%M} UTC on"
            raise ExpectationFailed(
                f"landing {self.source.name}.{self.table.name}{at}",
                value="; ".join(map(str, refused)),
                allowed="rows as the table expects them",
                remedy="Correct the rows in the source, or the expectation; with otherwise='warn' they land and are told of. "
                "Their batch was not landed.",
            )

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
        for failed in range(1, READINGS):
            try:
                return work()
            except SourceUnavailable as error:
                self.note(f"the source went away while it was read, and was read again: {error.value}")
                pause(failed)
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
            state = self.deployment.lake.state(self.source.name, self.table)
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

    def previous(self, kind: BatchKind, window: Window | None) -> LogEntry | None:
        """The last entry of the same window that still counts."""
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


def _is_in(row: QuarantinedRow, window: Window | None) -> bool:
    if window is None or row.moment is None:
        return False
    return (window.low is None or row.moment >= window.low) and (window.high is None or row.moment < window.high)


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

    def relations(self, window: Window | None, *rules: Rule) -> Held | None:
        """Only what decides which rows pass: what else there is to tell of them is for who lands them."""
        return super().relations(window, *(rule for rule in rules if rule == "references"))

    def write(self, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, folder: str = "") -> Written:
        """Refuse: there is something to write."""
        raise SomethingNew

    def keep_note(self, name: str, text: str) -> None:
        """Keep none: who only looks leaves nothing behind."""

    def keep(self, refused: Collection[QuarantinedRow]) -> None:
        """Refuse: there is something to keep, unless it is there."""
        assert self.quarantine is not None
        if self.quarantine.news(refused):
            raise SomethingNew

    def take_up(self, ids: Collection[str]) -> None:
        """Refuse: there is something to take out."""
        if ids:
            raise SomethingNew

    def _claim(self, manifest: Manifest, *, only_after: int | None = None) -> bool:
        raise SomethingNew


def _supersedes(other: Manifest, ours: Manifest) -> bool:
    same = other.kind == ours.kind and other.kind in ("replace", "snapshot") and other.window == ours.window
    return same and other.position.taken_at >= ours.position.taken_at
