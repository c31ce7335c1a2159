"""Raw logs written by hand, so that the suites of lake tables need nothing of the raw zone but its layout."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.rows.checksum import checksum_of
from lakehouse.spec import BatchKind, FieldSpec, LogEntry, Manifest, Position, RawFile, Table, Window
from lakehouse.spec.types import arrow_field, declared_type
from lakehouse.stores import ObjectStore

SOURCE = "shop"
Row = dict[str, Any]


def day(number: int) -> datetime:
    """Noon of a day of January 2026."""
    return datetime(2026, 1, number, 12, tzinfo=UTC)


class HandLog:
    """A table's raw log: each call of `write` is one more entry."""

    def __init__(self, store: ObjectStore, table: Table, fields: dict[str, str], required: Sequence[str] = ()) -> None:
        self.store = store
        self.table = table
        self.fields = dict(fields)
        self.required = set(required)
        self.entries: list[LogEntry] = []
        self.folder = f"raw/{SOURCE}/{table.name}"

    def schema(self, names: Sequence[str] | None = None) -> pa.Schema:
        """The schema of the rows that are written now."""
        chosen = self.fields if names is None else names
        return pa.schema(
            [arrow_field(name, self.fields[name], nullable=name not in self.required, doc=f"The {name}.") for name in chosen]
        )

    def write(
        self,
        kind: BatchKind,
        rows: Sequence[Row],
        *,
        window: Window | None = None,
        columns: Sequence[str] | None = None,
        files: int = 1,
    ) -> LogEntry:
        """One more entry with these rows, cut into so many files; no rows make no file."""
        schema = self.schema(columns)
        table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
        return self.write_table(kind, table, window=window, files=files)

    def write_table(
        self, kind: BatchKind, table: pa.Table, *, window: Window | None = None, files: int = 1, rows_per_group: int = 122880
    ) -> LogEntry:
        """One more entry with the rows of an Arrow table."""
        batch = uuid.uuid4().hex
        step = max(1, -(-table.num_rows // files))
        parts = [table.slice(start, step) for start in range(0, table.num_rows, step)]
        written = []
        for index, part in enumerate(parts):
            sink = io.BytesIO()
            pq.write_table(part, sink, row_group_size=rows_per_group, compression="zstd")
            data = sink.getvalue()
            path = f"{batch}-{index}.parquet"
            self.store.put(f"{self.folder}/{path}", data)
            written.append(RawFile(path, part.num_rows, len(data), hashlib.sha256(data).hexdigest()))
        fields = tuple(FieldSpec(f.name, declared_type(f), f.nullable, f.metadata[b"doc"].decode()) for f in table.schema)
        now = datetime.now(UTC)
        manifest = Manifest(
            batch_id=batch,
            source=SOURCE,
            table=self.table.name,
            kind=kind,
            window=window,
            closed=True,
            files=tuple(written),
            fields=fields,
            fingerprint="",
            position=Position(now, now, True),
            rows=table.num_rows,
            checksum=checksum_of(table, table.schema).hex,
            created_at=now,
        )
        entry = LogEntry(len(self.entries) + 1, manifest)
        self.entries.append(entry)
        return entry


def day_window(number: int) -> Window:
    """A day of January 2026."""
    return Window.of_day(date(2026, 1, number))


def rows_of(batches: Any) -> list[Row]:
    """All rows of record batches."""
    return [row for batch in batches for row in batch.to_pylist()]


def by_key(rows: Sequence[Row], *key: str) -> dict[Any, Row]:
    """Rows by their key; fails when a key stands twice."""
    found: dict[Any, Row] = {}
    for row in rows:
        name = tuple(row[part] for part in key) if len(key) > 1 else row[key[0]]
        assert name not in found, f"key {name} twice"
        found[name] = row
    return found


def hours(number: float) -> timedelta:
    """So many hours."""
    return timedelta(hours=number)


def digest(table: pa.Table) -> tuple[int, str]:
    """Rows and checksum of an Arrow table, by a connection of its own."""
    found = checksum_of(table, table.schema)
    return found.rows, found.hex
