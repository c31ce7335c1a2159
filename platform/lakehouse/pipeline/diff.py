"""What is different between two versions of a lake table, row by row.

The format's own metadata says which partitions have other files; only those are read, keys and digests first. Rows are told apart
by the table's key: a row that went to another partition is changed, not removed and added.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

import duckdb
import pyarrow as pa

from lakehouse.errors import WrongUse
from lakehouse.pipeline.deployment import Deployment
from lakehouse.rows.checksum import DIGEST, digest_schema, with_digests
from lakehouse.rows.duck import connect_duckdb, incoming, quoted
from lakehouse.spec import Source, Table

_SIDES = ("before", "after")
_KINDS = "case when b.digest is null then 'added' when a.digest is null then 'removed' else 'changed' end"


@dataclass(frozen=True)
class DiffedVersion:
    """One of the two versions: its number, the sequence of its marker, and when it was committed."""

    version: int
    sequence: int
    committed_at: datetime


@dataclass(frozen=True)
class RowDiff:
    """One row. kind: added, changed or removed. values: by column what it was and what it is, as DuckDB's texts; None is null.

    Of a changed row only the columns that differ are there; `key` is as text too.
    """

    kind: str
    key: dict[str, str | None]
    values: dict[str, tuple[str | None, str | None]]


@dataclass(frozen=True)
class TableDiff:
    """What leads from one version to the other. partitions: those that were read, for their files are others.

    columns: those that only one of the versions has, or that have another type, with both types. rows: the first ones, by key.
    """

    table: str
    before: DiffedVersion
    after: DiffedVersion
    partitions: tuple[str, ...]
    columns: dict[str, tuple[str | None, str | None]]
    added: int
    changed: int
    removed: int
    rows: tuple[RowDiff, ...]


def diff_table(deployment: Deployment, source: Source, table: Table, before: int, after: int | None, *, limit: int) -> TableDiff:
    """Compare two versions (after: None for the current one); at most `limit` rows are shown, all are counted.

    Memory is bounded by the settings: keys and digests spill to the home. Raises WrongUse for a version that is not kept.
    """
    lake = deployment.lake
    history = {each.version: each for each in lake.history(source.name, table)}
    if after is None:
        state = lake.state(source.name, table)
        assert state is not None
        after = state.current.version
    chosen = [before, after]
    for version in chosen:
        if version not in history:
            raise WrongUse(
                f"comparing versions of {source.name}.{table.name}",
                value=str(version),
                allowed="a version that is kept",
                remedy=f"`lakehouse show {source.name}.{table.name}` lists them.",
            )
    contents = [lake.contents(source.name, table, version=version) for version in chosen]
    differing = {name for name, _ in contents[0].items() ^ contents[1].items()}
    settings = deployment.settings
    with connect_duckdb(
        threads=settings.threads, memory_limit_mb=settings.memory_limit_mb, temp_directory=settings.home / "tmp"
    ) as connection:
        comparison = _Comparison(deployment, connection, source, table, chosen, differing)
        counts, rows = comparison.counts(), comparison.rows(limit)
    versions = [DiffedVersion(number, history[number].marker.sequence, history[number].committed_at) for number in chosen]
    return TableDiff(
        table=f"{source.name}.{table.name}",
        before=versions[0],
        after=versions[1],
        partitions=tuple(sorted(differing)),
        columns=_columns(*comparison.schemas),
        added=counts.get("added", 0),
        changed=counts.get("changed", 0),
        removed=counts.get("removed", 0),
        rows=rows,
    )


class _Comparison:
    """Both versions in DuckDB, by key: `before` and `after`, each with a digest of the row."""

    def __init__(
        self,
        deployment: Deployment,
        connection: duckdb.DuckDBPyConnection,
        source: Source,
        table: Table,
        versions: Sequence[int],
        partitions: set[str],
    ) -> None:
        self._lake, self._connection = deployment.lake, connection
        self._source, self._table, self._partitions = source, table, partitions
        self._versions = dict(zip(_SIDES, versions, strict=True))
        self._keys = ", ".join(quoted(name) for name in table.key)
        self.schemas: list[pa.Schema | None] = []
        for side in _SIDES:
            batches = self._scan(side)
            first = next(batches, None)
            self.schemas.append(first.schema if first is not None else None)
            if first is not None:
                self._load(side, chain([first], batches), first.schema)
        for side, schema, other in zip(_SIDES, self.schemas, reversed(_SIDES), strict=True):
            if schema is None and any(self.schemas):
                connection.execute(f"create table {side} as from {other} limit 0")
        if any(self.schemas):
            connection.execute(
                f"create table differing as select {self._keys}, {_KINDS} as kind from before b full join after a using"
                f" ({self._keys}) where b.digest is distinct from a.digest or b.copies is distinct from a.copies"
            )

    def counts(self) -> dict[str, int]:
        """How many rows are of each kind."""
        if not any(self.schemas):
            return {}
        return dict(self._connection.execute("select kind, count(*) from differing group by kind").fetchall())

    def rows(self, limit: int) -> tuple[RowDiff, ...]:
        """The first rows, in the order of their keys."""
        if not any(self.schemas) or not limit:
            return ()
        self._connection.execute(f"create table shown as from differing order by {self._keys} limit {limit}")
        sides = [self._texts(side, schema) for side, schema in zip(_SIDES, self.schemas, strict=True)]
        names = ", ".join(f"cast({quoted(name)} as varchar)" for name in self._table.key)
        shown = self._connection.execute(f"select kind, {names} from shown order by {self._keys}").fetchall()
        return tuple(self._row(kind, key, *(side.get(tuple(key), {}) for side in sides)) for kind, *key in shown)

    def _row(self, kind: str, key: Sequence[str | None], before: dict[str, str | None], after: dict[str, str | None]) -> RowDiff:
        rest = [name for name in (before | after) if name not in self._table.key]
        values = {name: (before.get(name), after.get(name)) for name in rest}
        if kind == "changed":
            values = {name: (old, new) for name, (old, new) in values.items() if old != new}
        return RowDiff(kind, dict(zip(self._table.key, key, strict=True)), values)

    def _texts(self, side: str, schema: pa.Schema | None) -> dict[tuple[str | None, ...], dict[str, str | None]]:
        """The rows to be shown as one version has them, by key, all as texts."""
        if schema is None:
            return {}
        columns = ", ".join(f"cast(r.{quoted(name)} as varchar) as {quoted(name)}" for name in schema.names)
        with incoming(self._connection, "incoming_rows", self._scan(side), schema):
            found = self._connection.execute(
                f"select {columns} from incoming_rows r semi join shown using ({self._keys})"
            ).to_arrow_table()
        return {tuple(row[name] for name in self._table.key): row for row in found.to_pylist()}

    def _load(self, side: str, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
        keys = pa.schema([schema.field(name) for name in self._table.key])
        digested = (with_digests(batch, schema, keys) for batch in batches)
        with incoming(self._connection, "incoming_rows", digested, digest_schema(keys)):
            # A key is there once; if a source broke its own promise, all of its rows are compared together.
            self._connection.execute(
                f"create table {side} as select {self._keys}, sum({DIGEST}::hugeint) as digest, count(*) as copies"
                f" from incoming_rows group by {self._keys}"
            )

    def _scan(self, side: str) -> Iterator[pa.RecordBatch]:
        if not self._partitions:
            return
        yield from self._lake.scan(
            self._source.name, self._table, partitions=sorted(self._partitions), version=self._versions[side]
        )


def _columns(before: pa.Schema | None, after: pa.Schema | None) -> dict[str, tuple[str | None, str | None]]:
    if before is None or after is None:
        return {}
    sides = [{field.name: str(field.type) for field in schema} for schema in (before, after)]
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in sides[0] | sides[1]}
    return {name: types for name, types in pairs.items() if types[0] != types[1]}
