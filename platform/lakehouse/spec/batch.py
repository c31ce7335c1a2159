"""What travels between the hops: windows, positions, manifests of raw batches, and the marker. Pure data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal

BatchKind = Literal["replace", "upsert", "delete", "snapshot"]

REBUILDS = "rebuilds"
"""In the detail of a snapshot's position: it holds the table as a rebuild made it, and what for."""


@dataclass(frozen=True)
class Window:
    """A half-open span of time `[low, high)` in UTC; None leaves that side open."""

    low: datetime | None
    high: datetime | None

    @classmethod
    def of_day(cls, day: date) -> Window:
        """The UTC day."""
        low = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return cls(low, low + timedelta(days=1))


@dataclass(frozen=True)
class Position:
    """Where a source stood when it was read.

    taken_at: the source's clock before the snapshot. bound: every row with an older time is visible, if the source can know.
    exact: whether it could know (no prepared transactions, no hidden sessions, a primary). detail: its own coordinates.
    """

    taken_at: datetime
    bound: datetime
    exact: bool
    detail: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawFile:
    """One Parquet file of a batch: path relative to the raw table's folder, rows, bytes and SHA-256 in hex."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class FieldSpec:
    """One column of a batch as it came: declared type (`lakehouse.spec.types`), nullability, description.

    stored: what the batch's files call it, where it was renamed since.
    """

    name: str
    type: str
    nullable: bool
    doc: str = ""
    stored: str = field(default="", compare=False)

    @property
    def in_files(self) -> str:
        """The column's name in the batch's files."""
        return self.stored or self.name


@dataclass(frozen=True)
class RowChecksum:
    """Rows of a relation and the order-independent sum of their digests, modulo 2**64 (`lakehouse.rows.checksum`)."""

    rows: int
    value: int

    @property
    def hex(self) -> str:
        """The sum as sixteen hexadecimal digits."""
        return f"{self.value:016x}"

    def __add__(self, other: RowChecksum) -> RowChecksum:
        return RowChecksum(self.rows + other.rows, (self.value + other.value) % 2**64)

    def __sub__(self, other: RowChecksum) -> RowChecksum:
        return RowChecksum(self.rows - other.rows, (self.value - other.value) % 2**64)


@dataclass(frozen=True)
class Manifest:
    """One batch of a table's raw log.

    kind: `replace` the rows of `window` (a day of the event time); `upsert` rows by key; `delete` rows by key (the files hold
      key columns only); `snapshot` replaces the whole table.
    window: of the event time for `replace`, of the cursor for `upsert`, None otherwise.
    closed: no row of the window can arrive any more. fingerprint: of `fields`. batch_id: unique for each attempt.
    """

    batch_id: str
    source: str
    table: str
    kind: BatchKind
    window: Window | None
    closed: bool
    files: tuple[RawFile, ...]
    fields: tuple[FieldSpec, ...]
    fingerprint: str
    position: Position
    rows: int
    checksum: str
    created_at: datetime
    run_id: str = ""

    @property
    def begins_anew(self) -> bool:
        """Whether a rebuild landed it: the columns and types of what came before count no more, and neither do the rows."""
        return self.kind == "snapshot" and REBUILDS in self.position.detail


@dataclass(frozen=True)
class LogEntry:
    """A claimed batch: its place in the table's log, counted from 1."""

    sequence: int
    manifest: Manifest


def since_rebuilt(entries: Sequence[LogEntry]) -> Sequence[LogEntry]:
    """The entries whose columns count: those from the last one on that begins the table anew, or all."""
    begun = (index for index in reversed(range(len(entries))) if entries[index].manifest.begins_anew)
    return entries[next(begun, 0) :]


@dataclass(frozen=True)
class Marker:
    """What every copy of a table carries, in the same commit as its rows: the last raw sequence in it, rows and checksum."""

    sequence: int
    rows: int
    checksum: str
