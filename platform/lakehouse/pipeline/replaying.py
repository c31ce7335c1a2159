"""One attempt to put rows of a quarantine in their place, on top of a landing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa

from lakehouse.errors import CommitConflict, TerminalError
from lakehouse.pipeline.column_types import refuse_changed_types
from lakehouse.pipeline.gate import Gate, key_text, reason_of, row_id, seen_among, time_column
from lakehouse.pipeline.landing import Landing
from lakehouse.pipeline.quarantine import TAKEN_UP, open_rows
from lakehouse.pipeline.relations import check_expected
from lakehouse.pipeline.windows import closed_days, columns_of, lacks_columns
from lakehouse.raw import schema_of
from lakehouse.rows.duck import connect_duckdb, literal, quoted
from lakehouse.rows.privacy import protected_again
from lakehouse.rows.recast import castable, exact_values
from lakehouse.sources.reader import Refuse, SourceSnapshot
from lakehouse.spec import BatchKind, LogEntry, Window
from lakehouse.spec.quarantine import Form, QuarantinedRow
from lakehouse.spec.references import references
from lakehouse.spec.types import declared_type

Single = tuple[QuarantinedRow, pa.RecordBatch]
"""A row as it is in the quarantine, and as the table takes it."""


@dataclass(frozen=True)
class Replayed:
    """What a replay did.

    taken: rows that are in the table now. refused: those that it still refuses, and why. waiting: those whose day the next run
    reads from the source anyway.
    """

    taken: tuple[str, ...]
    refused: tuple[QuarantinedRow, ...]
    waiting: tuple[str, ...]


def replay_referring(landing: Landing, snapshot: SourceSnapshot) -> None:
    """Put those rows of the quarantine in their place that referred to what was not there, and is by now."""
    quarantine, others = landing.quarantine, landing.others
    if quarantine is None or others is None:
        return
    open_ = open_rows(quarantine.rows().values())
    found: list[QuarantinedRow] = []
    for number, expected in enumerate(references(landing.table)):
        waiting = [row for row in open_ if row.form == "arrow" and row.reason == reason_of(expected)]
        known = [row for row in waiting if expected.column in _original(row).schema.names]
        if known and expected.column in landing.schema.names:
            type_ = landing.schema.field(expected.column).type
            values = pa.concat_arrays([_original(row).column(expected.column).cast(type_) for row in known])
            missing = others.missing(number, expected, values).to_pylist()
            found += [row for row, gone in zip(known, missing, strict=True) if not gone]
    if not found:
        return
    try:
        done = Replaying(landing, snapshot).run(found)
    except CommitConflict:
        landing.note("rows of the quarantine whose references are there were left to the next run: another one landed rows")
    else:
        if done.taken:
            landing.note(f"{len(done.taken):,} rows left the quarantine: what they refer to is there")


def _original(row: QuarantinedRow) -> pa.RecordBatch:
    return pa.ipc.open_stream(row.original).read_next_batch()


class Replaying:
    """One attempt, from the log as it stands."""

    def __init__(self, landing: Landing, snapshot: SourceSnapshot) -> None:
        self._landing = landing
        self._snapshot = snapshot
        self._table = landing.table
        self._taken: list[str] = []
        self._waiting: list[str] = []

    def run(self, rows: Sequence[QuarantinedRow]) -> Replayed:
        landing = self._landing
        check_expected(landing.deployment, landing.source, self._table, landing.schema)
        refuse_changed_types(landing.source.name, self._table, landing.entries, landing.schema)
        landing.finish()
        assert landing.quarantine is not None
        there = landing.quarantine.rows()
        left = [there[row.row_id] for row in rows if row.row_id in there and there[row.row_id].state == "open"]
        passing, refused = self._read(left)
        for kind, window, chosen in self._places(passing):
            self._place(kind, window, chosen)
        return Replayed(tuple(self._taken), tuple(refused), tuple(self._waiting))

    def _read(self, rows: Sequence[QuarantinedRow]) -> tuple[list[Single], list[QuarantinedRow]]:
        """The rows as the table has them today, and those that are still refused, with the reason of today."""
        together: dict[Form, list[QuarantinedRow]] = {}
        alone: list[list[QuarantinedRow]] = []
        for row in rows:
            if row.key is None or row.form == "arrow":
                alone.append([row])
            else:
                together.setdefault(row.form, []).append(row)
        passing: list[Single] = []
        refused: list[QuarantinedRow] = []
        for chosen in [*together.values(), *alone]:
            taken, why = self._read_some(chosen)
            passing += [(row, taken[row.row_id]) for row in chosen if row.row_id in taken]
            refused += [why.get(row.row_id, row) for row in chosen if row.row_id not in taken]
        return passing, refused

    def _read_some(self, rows: Sequence[QuarantinedRow]) -> tuple[dict[str, pa.RecordBatch], dict[str, QuarantinedRow]]:
        """Rows of one form: those that the table takes, and why not the others, by id. One alone may have had no key."""
        # What was personal when the rows came was seen to then, what is so today is here.
        secret = self._landing.deployment.settings.privacy_key.get_secret_value()
        plain = Gate(replace(self._table, personal={}, on_refused="quarantine"), "", fitting=self._landing.fitting)
        gate = Gate(replace(self._table, personal={}), "", relations=self._landing.relations(None, "references"))
        try:
            protected = protected_again(plain.rows(lambda refuse: self._again(rows, refuse)), self._table, secret)
            batches = list(gate.related(protected))
            gate.refused.update(plain.refused)
        except (TerminalError, pa.ArrowException) as error:
            if len(rows) == 1:
                return {}, {rows[0].row_id: replace(rows[0], reason=str(error))}
            each = [self._read_some([row]) for row in rows]
            return {k: v for taken, _ in each for k, v in taken.items()}, {k: v for _, why in each for k, v in why.items()}
        singles = [batch.slice(number, 1) for batch in batches for number in range(batch.num_rows)]
        if len(rows) == 1:
            (row,) = rows
            why = [replace(row, column=found.column, reason=found.reason) for found in gate.refused.values()]
            return ({row.row_id: singles[0]} if singles else {}), ({row.row_id: why[0]} if why else {})
        return {row_id(_key(single, self._table.key)): single for single in singles}, dict(gate.refused)

    def _again(self, rows: Sequence[QuarantinedRow], refuse: Refuse | None) -> Iterator[pa.RecordBatch]:
        form = rows[0].form
        if form == "arrow":
            for row in rows:
                for batch in pa.ipc.open_stream(row.original):
                    yield _as_today(batch, self._landing.schema)
            return
        assert refuse is not None
        yield from self._snapshot.again(self._table, form, [row.original for row in rows], refuse)

    def _places(self, passing: Sequence[Single]) -> Iterator[tuple[BatchKind, Window | None, list[Single]]]:
        """The rows by the window of the batch that they belong to."""
        if self._table.mode == "append":
            column = time_column(self._table)
            days: dict[Window, list[Single]] = {}
            for row, batch in passing:
                moment = batch.column(column)[0].as_py()
                day = moment.date() if isinstance(moment, datetime) else moment
                days.setdefault(Window.of_day(day), []).append((row, batch))
            for window, chosen in sorted(days.items(), key=lambda item: str(item[0].low)):
                yield "replace", window, chosen
        elif passing:
            yield ("upsert" if self._table.mode == "upsert" else "snapshot"), None, list(passing)

    def _place(self, kind: BatchKind, window: Window | None, chosen: Sequence[Single]) -> None:
        landing, ids = self._landing, [row.row_id for row, _ in chosen]
        fresh = [batch for _, batch in chosen]
        folder = f"day={window.low.date().isoformat()}" if window and window.low else ""
        closed = bool(window and window.low and closed_days(landing.entries, columns_of(landing.schema)).get(window.low.date()))
        batches: Iterable[pa.RecordBatch] = fresh
        schema = landing.schema
        if kind != "upsert":
            previous = landing.previous(kind, window)
            if previous is None and closed:  # a snapshot came after the day's batch: a rebuild's, or a repair's
                schema = _with_lost(schema, schema_of(self._last_snapshot().manifest))
                batches = self._with(self._folded(window), fresh, schema)
            elif previous is None or lacks_columns(previous.manifest, columns_of(landing.schema)):
                self._waiting += ids
                return
            else:
                schema = _with_lost(schema, schema_of(previous.manifest))
                batches = self._with(landing.log.read(previous), fresh, schema)
        head = landing.head
        repeated = landing.relations(window, "unique")
        if repeated is not None:
            batches = repeated.passing(batches, lambda _rows, _expected: None)
        written = landing.write(batches, schema, folder=folder)
        if repeated is not None:
            landing.refuse_unmet(repeated.unmet, window)
        landed = landing.land_written(
            written,
            kind=kind,
            window=window,
            closed=closed,
            schema=schema,
            position=landing.position_with({TAKEN_UP: ",".join(sorted(ids))}),
            only_after=head,
        )
        if not landed:
            raise CommitConflict(
                f"replaying rows of {landing.source.name}.{self._table.name}",
                value="another process landed a batch of the table meanwhile",
                allowed="a log that nobody moved since it was read",
                remedy="Run it again.",
            )
        landing.take_up(ids)
        self._taken += ids

    def _folded(self, window: Window | None) -> Iterator[pa.RecordBatch]:
        """The rows of a day as the whole log has them."""
        column = self._table.event_time
        assert column is not None
        assert window is not None
        with connect_duckdb(threads=1) as connection, self._landing.log.current_rows(connection) as rows:
            low, high = (literal(edge.isoformat()) for edge in (window.low, window.high) if edge is not None)
            within = f"{quoted(column)} >= {low}::timestamptz and {quoted(column)} < {high}::timestamptz"
            for batch in connection.execute(f"select * from {rows.relation} where {within}").to_arrow_reader(65_536):
                yield batch.cast(rows.schema)

    def _last_snapshot(self) -> LogEntry:
        return next(entry for entry in reversed(self._landing.entries) if entry.manifest.kind == "snapshot")

    def _with(
        self, had_before: Iterable[pa.RecordBatch], fresh: Sequence[pa.RecordBatch], schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        """The rows that a window has, and those of `fresh` whose keys are not among them."""
        wanted, had = {row_id(key): (key, batch) for batch in fresh if (key := _key(batch, self._table.key))}, set[str]()
        known = {one: json.loads(key) for one, (key, _) in wanted.items()}
        for batch in seen_among(had_before, known, had, self._table):
            yield _as_today(batch, schema)
        for one, (_, batch) in wanted.items():
            if one not in had:
                yield _as_today(batch, schema)


def _with_lost(schema: pa.Schema, before: pa.Schema) -> pa.Schema:
    """The columns of today, and those that were there before and that the source has lost."""
    return pa.schema([*schema, *(field.with_nullable(True) for field in before if field.name not in schema.names)])


def _key(batch: pa.RecordBatch, key: Sequence[str]) -> str:
    return key_text(batch.select(list(key)).to_pylist()[0].values())


def _as_today(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with the columns and types of today; pa.ArrowInvalid for a value that its type does not hold any more."""
    arrays = [
        _exactly(batch.column(field.name), field) if field.name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _exactly(values: pa.Array, field: pa.Field) -> pa.Array:
    if values.type == field.type or not castable(declared_type(pa.field(field.name, values.type)), declared_type(field)):
        return values.cast(field.type)
    found, exact = exact_values(values, field.type)
    if exact.false_count:
        raise pa.ArrowInvalid(f"column {field.name}: a value is not exactly {declared_type(field)}")
    return found
