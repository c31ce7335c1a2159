"""The quarantine of one table: rows that it refuses, in a raw log of their own beside the table's.

The order of writing makes that no row is in neither. Refused rows are claimed here before the batch that leaves them out is
claimed in the table's log. Rows that this batch has taken up again leave the quarantine after it, and the batch's manifest names
them, so that whoever comes after a death in between can finish it (`unfinished`). So a row may for a moment be in both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pyarrow as pa

from lakehouse.pipeline.attempts import until_won
from lakehouse.pipeline.deployment import Deployment
from lakehouse.rows.duck import borrowed_duckdb
from lakehouse.spec import LogEntry, Position, Source, Table
from lakehouse.spec.batch import BatchKind
from lakehouse.spec.quarantine import COLUMNS, QUARANTINED, QuarantinedRow, quarantine_of
from lakehouse.spec.types import arrow_field

TAKEN_UP = "taken_up"
"""In the detail of the position of a batch of the table: the rows of its quarantine, by id, that it has taken up."""

SCHEMA = pa.schema([arrow_field(field.name, field.type, nullable=field.nullable, doc=field.doc) for field in QUARANTINED])

TICK = timedelta(microseconds=1)
"""The least by which a row's state is later than the one before it."""


class Quarantine:
    """The rows of a table's quarantine, all in memory: they are few, or the declaration is wrong."""

    def __init__(self, deployment: Deployment, source: Source, table: Table) -> None:
        self.table = quarantine_of(table)
        self.log = deployment.log(source, self.table)
        self._settings = deployment.settings
        self._rows: dict[str, QuarantinedRow] | None = None
        self._head = 0

    def rows(self) -> Mapping[str, QuarantinedRow]:
        """What is there, by id; read when it is first asked for."""
        if self._rows is None:
            self._load()
        assert self._rows is not None
        return self._rows

    def news(self, refused: Iterable[QuarantinedRow]) -> list[QuarantinedRow]:
        """Of refused rows those that are not there as they are; a discarded row is new when another value is refused.

        What somebody has read later than these stays.
        """
        there = self.rows()
        return [row for row in refused if (had := there.get(row.row_id)) is None or had.is_before(row)]

    def keep(self, refused: Collection[QuarantinedRow], position: Position, run_id: str) -> None:
        """Put rows into it."""
        if refused:
            until_won(lambda: self._claim("upsert", self.news(refused), position, run_id))

    def discard(self, ids: Collection[str], position: Position, run_id: str) -> int:
        """Mark rows as looked at, and not wanted; how many were open."""

        def marked() -> list[QuarantinedRow]:
            there = self.rows()
            chosen = [there[one] for one in ids if one in there and there[one].state == "open"]
            return [replace(row, state="discarded", seen_at=_after(position.taken_at, row)) for row in chosen]

        found = marked()
        until_won(lambda: self._claim("upsert", marked(), position, run_id))
        return len(found)

    def remove(self, ids: Collection[str], position: Position, run_id: str) -> None:
        """Take rows out of it, but for those that somebody has put there from a later view of the source."""

        def found() -> list[QuarantinedRow]:
            there = self.rows()
            return [there[one] for one in ids if one in there and there[one].seen_at <= position.taken_at]

        until_won(lambda: self._claim("delete", found(), position, run_id))

    def unfinished(self, entries: Sequence[LogEntry]) -> list[str]:
        """Rows that batches of the table have taken up, and that are still here: refused no later than the batch was read."""
        found = []
        for entry in entries:
            ids = entry.manifest.position.detail.get(TAKEN_UP)
            if not ids:
                continue
            there = self.rows()
            taken_at = entry.manifest.position.taken_at
            found += [one for one in ids.split(",") if one in there and there[one].seen_at <= taken_at]
        return found

    def _claim(self, kind: BatchKind, rows: Sequence[QuarantinedRow], position: Position, run_id: str) -> None:
        if not rows:
            return
        there = self.rows()
        if kind == "upsert":
            rows = [replace(row, seen_at=_after(row.seen_at, there.get(row.row_id))) for row in rows]
            schema, plain = SCHEMA, [{name: getattr(row, name) for name in COLUMNS} for row in rows]
        else:
            schema, plain = pa.schema([SCHEMA.field("row_id")]), [{"row_id": row.row_id} for row in rows]
        written = self.log.write(pa.Table.from_pylist(plain, schema=schema).to_batches(), schema)
        plain_position = Position(position.taken_at, position.bound, position.exact)
        manifest = self.log.manifest(
            written, kind=kind, window=None, closed=False, schema=schema, position=plain_position, run_id=run_id
        )
        head, self._rows = self._head, None
        self.log.claim(manifest, expected_head=head)

    def _load(self) -> None:
        entries = self.log.entries()
        self._head, self._rows = (entries[-1].sequence if entries else 0), {}
        if entries:
            limit, spill = self._settings.memory_limit_mb, self._settings.home / "tmp"
            with (
                borrowed_duckdb(threads=1, memory_limit_mb=limit, temp_directory=spill) as connection,
                self.log.current_rows(connection, SCHEMA, upto=self._head) as current,
            ):
                found = connection.execute(f"from {current.relation}").to_arrow_table().cast(SCHEMA).to_pylist()
            self._rows = {row["row_id"]: QuarantinedRow(**row) for row in found}


@dataclass(frozen=True)
class Share:
    """The open rows of a quarantine, and their share of all rows of the table."""

    rows: Sequence[QuarantinedRow]
    share: float


def quarantine_share(deployment: Deployment, source: Source, table: Table) -> Share:
    """How much of a table is in its quarantine; of rows that the lake has not applied yet none is counted."""
    rows = open_rows(Quarantine(deployment, source, table).rows().values())
    state = deployment.lake.state(source.name, table)
    whole = len(rows) + (state.current.marker.rows if state else 0)
    return Share(rows, len(rows) / whole if rows else 0.0)


def _after(moment: datetime, before: QuarantinedRow | None) -> datetime:
    return moment if before is None else max(moment, before.seen_at + TICK)


def open_rows(rows: Iterable[QuarantinedRow]) -> list[QuarantinedRow]:
    """Those that nobody has discarded, the oldest first."""
    return sorted((row for row in rows if row.state == "open"), key=lambda row: (row.seen_at, row.row_id))
