"""What the raw log of a table gives under today's declaration: read before a rebuild does anything, and once more while it does.

The log holds what the source gave at the time. Its fold, in the types that it came with, must be the lake's table as it stands,
rows and checksum; then each value is taken in the type of today, and personal columns are protected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import get_args

import pyarrow as pa

from lakehouse.errors import DamagedData, TransientError, WrongUse
from lakehouse.pipeline.deployment import Deployment
from lakehouse.raw import standing
from lakehouse.rows.checksum import checksum_of
from lakehouse.rows.duck import connect_duckdb, quoted
from lakehouse.rows.privacy import check_privacy, plain_values, protected_again
from lakehouse.rows.recast import castable, check_castable, recast
from lakehouse.spec import BatchKind, History, LogEntry, Marker, RowChecksum, Source, Table
from lakehouse.spec.declaration import TableFormat
from lakehouse.spec.types import arrow_field, declared_type, field_doc
from lakehouse.tables.engine import TableState
from lakehouse.tables.evolution import wider_type

_KINDS: dict[str, set[BatchKind]] = {
    "append": {"replace", "snapshot"},
    "upsert": {"upsert", "delete", "snapshot"},
    "snapshot": {"snapshot"},
}


@dataclass(frozen=True)
class Reading:
    """The fold of a log up to its head.

    landed: its rows in the types that they came with, and their schema; key: by which they were folded, which is not the declared
    one where the lake was built by another. schema: the columns as they are to be. plain: of personal columns, the values that
    are not protected yet. notes: what could not be compared, and why.
    """

    head: int
    entries: tuple[LogEntry, ...]
    key: tuple[str, ...]
    landed: RowChecksum
    landed_schema: pa.Schema
    schema: pa.Schema
    plain: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def retyped(self) -> dict[str, tuple[str, str]]:
        """The columns that get another type: what it was, and what it is to be."""
        types = {name: declared_type(self.landed_schema.field(name)) for name in self.schema.names}
        found = {column.name: (types[column.name], declared_type(column)) for column in self.schema}
        return {name: pair for name, pair in found.items() if pair[0] != pair[1]}

    @property
    def dropped(self) -> tuple[str, ...]:
        """The columns that are not to be there any more."""
        return tuple(name for name in self.landed_schema.names if name not in self.schema.names)

    def changes_rows(self, table: Table) -> bool:
        """Whether rows are to be others than the log gives by itself: then they are landed."""
        return bool(self.retyped or self.dropped or self.plain or set(self.key) != set(table.key))


def read_log(deployment: Deployment, source: Source, table: Table) -> Reading:
    """Read the whole log, and see whether every value can be what is declared; nothing is changed.

    Raises WrongUse for an empty log or one of another mode, DamagedData when its fold is not the lake's table, SchemaChanged and
    ValueRefused for what cannot be had in today's types, WrongUse for documents that would show a personal field.
    """
    name = f"{source.name}.{table.name}"
    _refuse_history(source, table)
    entries = deployment.log(source, table).entries()
    _check_log(name, table, entries)
    today, notes = _source_schema(deployment, source, table)
    key, found, landed, more = _folded_as_the_lake(deployment, source, table, entries)
    schema = _wanted(table, landed, today)
    remedy = f"Declare the type that it has, or another table of the same relation= beside {name}: it is read anew."
    check_castable(f"rebuilding {name}", remedy, landed, schema)
    _check_privacy(deployment, table, schema)
    reading = Reading(entries[-1].sequence, tuple(entries), key, found, landed, schema, notes=(*notes, *more))
    if not (reading.retyped or table.personal):
        return reading
    plain: dict[str, int] = {}
    with landed_rows(deployment, source, table, reading) as rows:
        for batch in rows:
            for column, count in plain_values(recast(f"rebuilding {name}", batch, schema, key), table).items():
                plain[column] = plain.get(column, 0) + count
    _check_documents(name, source, plain)
    return replace(reading, plain=plain)


@contextmanager
def landed_rows(deployment: Deployment, source: Source, table: Table, reading: Reading) -> Iterator[Iterator[pa.RecordBatch]]:
    """The rows that the log folds to, in the types that they came with."""
    folded = replace(table, key=reading.key)
    with _fold(deployment, source, folded, reading.head) as (batches, _):
        yield batches


def todays_rows(
    deployment: Deployment, source: Source, table: Table, reading: Reading, rows: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The same rows as they are declared now."""
    secret, tried = deployment.settings.privacy_key.get_secret_value(), f"rebuilding {source.name}.{table.name}"
    typed = (recast(tried, batch, reading.schema, reading.key) for batch in rows)
    return protected_again(typed, table, secret)


def log_checksum(deployment: Deployment, source: Source, table: Table, upto: int) -> RowChecksum:
    """Rows and checksum of the log's fold up to a sequence, by a reading of its files alone."""
    return _checksum(deployment, source, table, upto)[0]


def _checksum(deployment: Deployment, source: Source, table: Table, upto: int) -> tuple[RowChecksum, pa.Schema]:
    with _fold(deployment, source, table, upto) as (batches, schema):
        return checksum_of(batches, schema), schema


@contextmanager
def _fold(
    deployment: Deployment, source: Source, table: Table, upto: int
) -> Iterator[tuple[Iterator[pa.RecordBatch], pa.Schema]]:
    settings = deployment.settings
    with (
        connect_duckdb(
            threads=settings.threads, memory_limit_mb=settings.memory_limit_mb, temp_directory=settings.home / "tmp" / "rebuild"
        ) as connection,
        deployment.log(source, table).current_rows(connection, upto=upto) as rows,
    ):
        reader = connection.execute(f"select * from {rows.relation}").to_arrow_reader(65536)
        yield (batch.cast(rows.schema) for batch in reader), rows.schema


def _refuse_history(source: Source, table: Table) -> None:
    if isinstance(table, History):
        raise WrongUse(
            f"rebuilding {source.name}.{table.name}",
            value="a history",
            allowed="the table whose history it is: its history follows it",
            remedy=f"Run `lakehouse rebuild {source.name}.{table.of.name}`.",
        )


def refuse_lost_history(source: Source, table: Table, reading: Reading) -> None:
    """WrongUse for a table with a history whose rows are to be others: older states could not be had in the types of today."""
    if table.history and reading.changes_rows(table):
        changed = [*reading.retyped, *reading.dropped, *reading.plain]
        raise WrongUse(
            f"rebuilding {source.name}.{table.name}, which has a history",
            value=f"other rows than the log gives: {', '.join(changed) or 'another key'}",
            allowed="another partitioning or format: the history is folded from the whole log, as it came",
            remedy="Declare another table of the same relation= beside it, or leave history out; it begins with the rebuild.",
        )


def _check_log(name: str, table: Table, entries: Sequence[LogEntry]) -> None:
    if not entries:
        raise WrongUse(
            f"rebuilding {name}",
            value="a table without a raw log",
            allowed="a table that was extracted",
            remedy=f"Run `lakehouse run --select {name}`: it is built as it is declared.",
        )
    kinds = {entry.manifest.kind for entry in entries} - _KINDS[table.mode]
    if kinds:
        raise WrongUse(
            f"rebuilding {name}",
            value=f"a raw log with batches of the kind {', '.join(sorted(kinds))}",
            allowed=f"the kinds of an {table.mode} table: {', '.join(sorted(_KINDS[table.mode]))}",
            remedy="The mode of a table cannot be changed: declare another table of the same relation= beside it.",
        )


def _source_schema(deployment: Deployment, source: Source, table: Table) -> tuple[pa.Schema | None, list[str]]:
    """The columns as the source gives them now; None, and why, where it does not answer."""
    try:
        with closing(deployment.reader(source)) as reader:
            reader.check([table])
            return reader.schema(table), []
    except TransientError as error:
        return None, [f"the source does not answer ({error.value}): types are those of the declaration and of the log alone"]


def _wanted(table: Table, landed: pa.Schema, today: pa.Schema | None) -> pa.Schema:
    """The columns as they are to be.

    One that the declaration names has its type. Another one follows the source where it could not by itself, and stays as wide as
    it was; one that the source has not got any more stays.
    """
    declared = {column.name: arrow_field(column.name, column.type) for column in table.columns}
    fields = []
    for had in landed:
        if table.personal.get(had.name) == "drop":
            continue
        now = today.field(had.name) if today is not None and had.name in today.names else None
        type_ = _type(declared_type(had), declared.get(had.name), now)
        nullable = had.nullable or (now is not None and now.nullable)
        doc = field_doc(now) if now is not None else field_doc(had)
        fields.append(arrow_field(had.name, type_, nullable=nullable, doc=doc))
    return pa.schema(fields)


def _type(had: str, declared: pa.Field | None, now: pa.Field | None) -> str:
    if declared is not None:
        wanted = declared_type(pa.field("", declared.type)) if declared_type(declared) != "json" else "json"
        follows = wider_type(had, wanted)
        return had if follows is not None and (follows == wanted or not castable(had, wanted)) else wanted
    if now is None or wider_type(had, declared_type(now)) is not None:
        return had
    return declared_type(now)


def _check_privacy(deployment: Deployment, table: Table, schema: pa.Schema) -> None:
    check_privacy(table, schema, deployment.settings.privacy_key.get_secret_value())


def _check_documents(name: str, source: Source, plain: dict[str, int]) -> None:
    if plain and source.kind == "mongodb":
        raise WrongUse(
            f"rebuilding {name}: {', '.join(plain)} became personal after documents were landed",
            value="documents in the raw log that show it, in columns of json and `_document` too",
            allowed="a change that the columns alone can follow",
            remedy=f"Run `lakehouse run --select {name} --full`: the source is read again, and its rows take the place of those.",
        )


def _folded_as_the_lake(
    deployment: Deployment, source: Source, table: Table, entries: Sequence[LogEntry]
) -> tuple[tuple[str, ...], RowChecksum, pa.Schema, list[str]]:
    """By which key the log folds to the lake's table; rows, checksum and schema of the fold at the log's head."""
    head, state, keys = entries[-1].sequence, built_state(deployment, source, table), _keys(table, entries)
    renamed = state is not None and deployment.lake.has_old_names(source.name, state[0])
    if state is None or renamed:
        why = "columns were renamed since the lake was built" if renamed else "the lake has not got the table"
        found, schema = _checksum(deployment, source, replace(table, key=keys[0]), head)
        return keys[0], found, schema, [f"{why}: the log alone says what it holds"]
    marker = state[1].current.marker
    for key in keys:
        folded = replace(table, key=key)
        at_marker, schema = _checksum(deployment, source, folded, marker.sequence)
        if not _is(at_marker, marker):
            continue
        found = at_marker
        if marker.sequence != head:
            found, schema = _checksum(deployment, source, folded, head)
        if set(key) != set(table.key):
            _check_unique(deployment, source, folded, table.key, head)
        return key, found, schema, []
    raise DamagedData(
        f"rebuilding {source.name}.{table.name}",
        value=f"the raw log folds to other rows than the lake has at sequence {marker.sequence}: {marker.rows:,} rows, "
        f"checksum {marker.checksum}, by no key that is known ({'; '.join(', '.join(key) for key in keys)})",
        allowed="a table that is the fold of its log",
        remedy=f"Under the earlier declaration run `lakehouse verify {source.name}.{table.name} --deep` and `lakehouse repair`. "
        "Where the key was changed and no deleted row tells the old one, declare another table of the same relation= instead.",
    )


def built_state(deployment: Deployment, source: Source, table: Table) -> tuple[Table, TableState] | None:
    """The lake's table as it stands: in the declared format, or in the one that it had before; None for none."""
    for format_ in sorted(get_args(TableFormat), key=lambda name: name != table.format):
        as_built = replace(table, format=format_)
        state = deployment.lake.state(source.name, as_built)
        if state is not None:
            return as_built, state
    return None


def _check_unique(deployment: Deployment, source: Source, table: Table, key: Sequence[str], upto: int) -> None:
    """WrongUse when two rows have one value of the new key, or one has none."""
    names = ", ".join(quoted(name) for name in key)
    nulls = " or ".join(f"{quoted(name)} is null" for name in key)
    with (
        connect_duckdb(memory_limit_mb=deployment.settings.memory_limit_mb) as connection,
        deployment.log(source, table).current_rows(connection, upto=upto) as rows,
    ):
        query = f"select {names}, count(*) from {rows.relation} group by all having count(*) > 1 or {nulls} limit 1"
        found = connection.execute(query).fetchone()
    if found is not None:
        raise WrongUse(
            f"rebuilding {source.name}.{table.name} by the key {', '.join(key)}",
            value=f"{found[-1]} rows with {', '.join(f'{name}={value!r}' for name, value in zip(key, found, strict=False))}",
            allowed="a key that every row has, and no two rows share",
            remedy=f"Declare the key that it has, {', '.join(table.key)}, or another one.",
        )


def _keys(table: Table, entries: Sequence[LogEntry]) -> list[tuple[str, ...]]:
    """The keys by which the log may have been folded: the declared one, and those that batches of deleted rows consist of."""
    deleted = {
        tuple(field.name for field in entry.manifest.fields) for entry in standing(entries) if entry.manifest.kind == "delete"
    }
    keys = [table.key, *sorted(key for key in deleted if set(key) != set(table.key))]
    return [key for key in keys if all(set(key) <= set(names) for names in deleted)] or keys[:1]


def _is(found: RowChecksum, marker: Marker) -> bool:
    return (found.rows, found.hex) == (marker.rows, marker.checksum)
