"""One reading of rows on their way into a table: those that it takes pass, as they land; those that it refuses are kept apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import ValueRefused
from lakehouse.pipeline.fitting import Fitting
from lakehouse.pipeline.relations import Recorded, Relations
from lakehouse.rows.expected import Unmet, Watch
from lakehouse.rows.privacy import protected
from lakehouse.sources.reader import Refuse, RefusedRows, SourceSnapshot
from lakehouse.spec import Expect, Position, Table, Window
from lakehouse.spec.declaration import DOCUMENT
from lakehouse.spec.quarantine import Form, QuarantinedRow
from lakehouse.spec.references import references

Read = Callable[[Refuse | None], Iterator[pa.RecordBatch]]
"""Rows of a source; the argument is given those that their types cannot hold, and is None where these are an error."""

MOST = 100_000
"""Rows that a reading may refuse: they are held in memory. With more than that the declaration is wrong, not the rows."""

MOST_BYTES = 64 * 2**20
"""What these rows may take."""

_KEY_DIGITS = 32


class Gate:
    """Rows of one reading. refused: those that did not pass, once all have been read. keys: of these that have a whole key."""

    def __init__(
        self,
        table: Table,
        key: str,
        position: Position | None = None,
        run_id: str = "",
        relations: Relations | None = None,
        fitting: Fitting | None = None,
    ) -> None:
        """key: of the deployment's privacy. position: where the source stood. relations: what the rows are held against.

        fitting: what the source's columns are landed as, where they are not as they come.
        """
        self.refused: dict[str, QuarantinedRow] = {}
        self.keys: list[pa.RecordBatch] = []
        self._table = table
        self._key = key
        self._position = position
        self._run_id = run_id
        self._bytes = 0
        self._watch = Watch(table, self._unexpected)
        self._relations = relations
        self._fitting = fitting

    @property
    def unmet(self) -> tuple[Unmet, ...]:
        """Expectations that rows which have passed do not meet, once all have been read."""
        return self._watch.unmet if self._relations is None else (*self._watch.unmet, *self._relations.unmet)

    @property
    def digest(self) -> str:
        """What tells the refused rows from others; empty for none."""
        if not self.refused:
            return ""
        plain = sorted((row.row_id, hashlib.sha256(row.original).hexdigest()) for row in self.refused.values())
        return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:_KEY_DIGITS]

    def rows(self, read: Read) -> Iterator[pa.RecordBatch]:
        """The rows that the table takes, as they land."""
        refuse = self._refused if self._table.on_refused == "quarantine" else None
        found = read(refuse)
        if self._fitting is not None:
            found = self._fitting.passing(found, self._unfit)
        return self.related(protected(self._watch.passing(found), self._table, self._key))

    def related(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Of rows as they land those that may be there beside others."""
        return batches if self._relations is None else self._relations.passing(batches, self._keep_rows)

    def _refused(self, rows: RefusedRows) -> None:
        (originals,) = protected([rows.originals], self._table, self._key)
        if rows.form == "bson":
            found = [bytes(document) for document in originals.column(0).to_pylist()]
            shown: Sequence[str | None] = [text or None for text in rows.shown]
        else:
            shown = texts = [json.dumps(row, ensure_ascii=False) for row in originals.to_pylist()]
            found = [text.encode() for text in texts]
        self._keep(rows.form, found, shown, rows.known, rows.columns, rows.reasons)

    def _unexpected(self, batch: pa.RecordBatch, expected: Expect) -> None:
        (rows,) = protected([batch], self._table, self._key)
        self._keep_rows(rows, expected)

    def _unfit(self, batch: pa.RecordBatch, column: str, reason: str) -> None:
        (rows,) = protected([batch], self._table, self._key)
        self._keep_arrow(rows, column, reason)

    def _keep_rows(self, rows: pa.RecordBatch, expected: Expect) -> None:
        self._keep_arrow(rows, expected.column, reason_of(expected))

    def _keep_arrow(self, rows: pa.RecordBatch, column: str, reason: str) -> None:
        singles = [rows.take(pa.array([number])) for number in range(rows.num_rows)]
        time = time_column(self._table)
        known = rows.select(list(dict.fromkeys([*self._table.key, *([time] if time else [])])))
        seen = rows.select([name for name in rows.schema.names if name != DOCUMENT]).to_pylist()
        shown = [json.dumps(row, ensure_ascii=False, default=_shown) for row in seen]
        columns, reasons = [column] * len(singles), [reason] * len(singles)
        self._keep("arrow", [as_bytes(row) for row in singles], shown, known, columns, reasons)

    def _keep(
        self,
        form: Form,
        originals: Sequence[bytes],
        shown: Sequence[str | None],
        known: pa.RecordBatch,
        columns: Sequence[str],
        reasons: Sequence[str],
    ) -> None:
        self._bytes += sum(map(len, originals))
        if len(self.refused) + len(originals) > MOST or self._bytes > MOST_BYTES:
            raise ValueRefused(
                f"reading table {self._table.name!r}",
                value=f"more than {MOST:,} rows that it refuses, or {MOST_BYTES >> 20} MiB of them, the last: "
                f"{columns[-1]}: {reasons[-1]}",
                allowed="fewer at once in its quarantine",
                remedy="Declare the column in a type that takes them, or correct the expectation; nothing was landed.",
            )
        keys, column = known.select(list(self._table.key)), time_column(self._table)
        values = [list(row.values()) for row in keys.to_pylist()]
        whole = [None not in row for row in values]
        moments: list[datetime | None] = known.column(column).to_pylist() if column else [None] * known.num_rows
        for number, row in enumerate(values):
            key = key_text(row) if whole[number] else None
            kept = QuarantinedRow(
                row_id=row_id(key) if key else _digest(originals[number]),
                state="open",
                column=columns[number],
                reason=reasons[number],
                key=key,
                row=shown[number],
                form=form,
                original=originals[number],
                moment=_moment(moments[number]),
                seen_at=self._position.taken_at if self._position else datetime.min.replace(tzinfo=UTC),
                position=_position(self._position),
                run_id=self._run_id,
            )
            self.refused[kept.row_id] = kept
        if any(whole):
            self.keys.append(keys.filter(pa.array(whole)))


def passing_rows(
    snapshot: SourceSnapshot,
    table: Table,
    key: str,
    window: Window | None = None,
    *,
    relations: Relations | None = None,
    fitting: Fitting | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a source that the table takes, as they land."""
    gate = Gate(table, key, relations=relations, fitting=fitting)
    return gate.rows(lambda refuse: snapshot.read(table, window, refuse))


def recorded(table: Table, rows: Callable[[], Mapping[str, QuarantinedRow]]) -> Recorded | None:
    """A reading held against what was found of other rows when its rows came; None for a table that has no such rows.

    rows: the table's quarantine, by id; asked only where it matters.
    """
    if not any(expected.otherwise == "quarantine" for expected in references(table)):
        return None
    refused: dict[str, dict[str, QuarantinedRow]] = {}
    for one, row in rows().items():
        refused.setdefault(row.reason, {})[one] = row
    keys = {reason: list(keys_of(found, table).values()) for reason, found in refused.items()}

    def known(batch: pa.RecordBatch, expected: Expect) -> pa.BooleanArray:
        reason = reason_of(expected)
        return _are_among(batch, refused.get(reason, {}), keys.get(reason, []), table)

    return Recorded(known, table)


def reason_of(expected: Expect) -> str:
    """Why a row that is not as expected is in a quarantine."""
    return f"not so: {expected}"


def _are_among(batch: pa.RecordBatch, ids: Collection[str], keys: Sequence[Sequence[Any]], table: Table) -> pa.BooleanArray:
    """True for each row of a batch, as it lands, that is one of `ids`; a row without a whole key is known by all of it."""
    there = np.zeros(batch.num_rows, bool)
    for place in np.flatnonzero(_may_be_among(batch, keys, table)) if ids else ():
        one = batch.take(pa.array([place]))
        (key,) = one.select(list(table.key)).to_pylist()
        name = _digest(as_bytes(one)) if None in key.values() else row_id(key_text(key.values()))
        there[place] = name in ids
    return pa.array(there)


def _may_be_among(batch: pa.RecordBatch, keys: Sequence[Sequence[Any]], table: Table) -> np.ndarray:
    """True for each row whose key may be one of `keys`, column by column, or is not whole."""
    chosen = np.ones(batch.num_rows, bool)
    for position, name in enumerate(table.key):
        column = batch.column(name)
        values = _typed([key[position] for key in keys], column.type)
        if values is not None:
            found = pc.or_(pc.is_in(column, values), pc.is_null(column))
            chosen &= found.to_numpy(zero_copy_only=False)
    return chosen


def seen_among(
    batches: Iterable[pa.RecordBatch], known: Mapping[str, Sequence[Any]], seen: set[str], table: Table
) -> Iterator[pa.RecordBatch]:
    """The same batches; of `known` keys, by the ids of their rows, the ids of those that are among them are added to `seen`."""
    if not known:
        yield from batches
        return
    keys = list(known.values())
    for batch in batches:
        rows = batch.select(list(table.key)).filter(pa.array(_may_be_among(batch, keys, table)))
        seen.update(one for row in rows.to_pylist() if (one := row_id(key_text(row.values()))) in known)
        yield batch


def keys_of(known: Mapping[str, QuarantinedRow], table: Table) -> dict[str, list[Any]]:
    """The keys of rows of a quarantine, by id: those that are whole, and of as many columns as the table's key has now."""
    keys = {one: json.loads(row.key) for one, row in known.items() if row.key is not None}
    return {one: key for one, key in keys.items() if len(key) == len(table.key)}


def _typed(values: Sequence[Any], type_: pa.DataType) -> pa.Array | None:
    """Parts of keys as a column has them; None where some cannot be such: the key was another one when they came."""
    try:
        if pa.types.is_binary(type_):
            return pa.array([bytes.fromhex(value) for value in values], type_)
        return pa.array(values).cast(type_)
    except (pa.ArrowException, TypeError, ValueError):
        return None


def time_column(table: Table) -> str | None:
    """The column that windows of the table are cut by."""
    return {"append": table.event_time, "upsert": table.cursor}.get(table.mode)


def key_text(values: Iterable[Any]) -> str:
    """A key as text: a JSON list, with numbers and text as they are."""
    plain = [value if isinstance(value, bool | int | str) else _shown(value) for value in values]
    return json.dumps(plain, ensure_ascii=False)


def as_bytes(row: pa.RecordBatch) -> bytes:
    """A row of its own with its types, and without descriptions: the same row gives the same bytes."""
    plain = pa.schema([pa.field(field.name, field.type, field.nullable) for field in row.schema])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, plain) as stream:
        stream.write_batch(row.replace_schema_metadata(None).cast(plain))
    return bytes(sink.getvalue().to_pybytes())


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def row_id(key: str) -> str:
    """The id of a row with a whole key."""
    return _digest(key.encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_KEY_DIGITS]


def _moment(value: Any) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    return datetime.combine(value, time(), UTC)


def _position(position: Position | None) -> str:
    if position is None:
        return "{}"
    plain = {"taken_at": position.taken_at.isoformat(), "bound": position.bound.isoformat(), **position.detail}
    return json.dumps(plain, ensure_ascii=False, sort_keys=True)
