"""Key sweep: rows that an `upsert` table still has and the source has not.

The order makes it safe: the lake version and the head of the log are noted first, the source's view is taken after them. So a key
that the lake version has, or a batch of the log that the lake has not applied yet, and that the view has not, was deleted; a row
inserted meanwhile is in none of them. The batch of deleted keys is claimed only if nobody landed anything for the table in
between, else a re-inserted key could be deleted; the next run sweeps again.

A table that is not swept by each run (`sweep_every`) has a note of its last sweep beside its log. It says only when the next one
is due: without it, or with one that cannot be read, that is now.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.gate import keys_of, seen_among
from lakehouse.pipeline.landing import Landing
from lakehouse.raw import RawLog
from lakehouse.rows.duck import borrowed_duckdb, incoming, quoted
from lakehouse.sources.reader import SourceSnapshot
from lakehouse.spec import Source, Table

SWEPT = "swept"
"""The note of the last sweep: when the view of the source was taken that it was made from."""


@dataclass(frozen=True)
class SweepBase:
    """What the table held before the source's view was taken: a lake version, its watermark, and the head of the log."""

    deployment: Deployment
    version: int | None
    watermark: int
    head: int


@dataclass(frozen=True)
class _Missing:
    """Keys that are not in the source's view.

    gone: those that are in the lake, or about to be. fresh: how many of them no batch that waits deletes already; keys: how many
    keys there are in all, but for those. refused: the rows of the quarantine, by id, that are not in the view either.
    """

    gone: pa.Table
    fresh: int
    keys: int
    refused: list[str]


def sweep_base(deployment: Deployment, source: Source, table: Table) -> SweepBase:
    """Note the lake's version and the log's head; call it before the source's view is taken."""
    head = deployment.log(source, table).head()
    state = deployment.lake.state(source.name, table)
    if state is None:
        return SweepBase(deployment, None, 0, head)
    return SweepBase(deployment, state.current.version, state.current.marker.sequence, head)


def next_sweep(log: RawLog, taken_at: datetime) -> datetime | None:
    """When the next sweep of a table is due, by the source's clock; None for one that is due at `taken_at`."""
    if not log.table.sweep_every:
        return None
    try:
        last = datetime.fromisoformat(log.note(SWEPT).decode())
        due = last + log.table.sweep_every
        return due if last <= taken_at < due else None
    except (FileNotFoundError, ValueError, TypeError):
        return None


def sweep_deleted(landing: Landing, snapshot: SourceSnapshot, base: SweepBase, *, now: bool = False) -> None:
    """Land a `delete` batch of the keys that are in the lake of `base`, or about to be, and not in the source's view.

    now: whatever `sweep_every` says. Raises DeletesRefused where they are more than the table allows.
    """
    if not base.head:
        return
    due = None if now else next_sweep(landing.log, snapshot.position.taken_at)
    if due is not None:
        landing.note(f"the next key sweep is due at {due:%Y-%m-%d %H:%M} UTC")
        return
    own = len(landing.claimed)
    if landing.head != base.head + own:
        landing.note("the key sweep was left to the next run: another run landed rows of this table meanwhile")
        return
    schema = pa.schema([landing.schema.field(name) for name in landing.table.key])
    missing = _missing_keys(landing, snapshot, base, schema)
    landing.take_up(missing.refused)
    if not missing.gone.num_rows:
        _note_swept(landing, snapshot)
        return
    landing.check_gone(missing.fresh, missing.keys)
    written = landing.write(missing.gone.to_batches(), schema)
    landed = landing.land_written(written, kind="delete", window=None, closed=False, schema=schema, only_after=base.head + own)
    if not landed:
        landing.note("the key sweep was left to the next run: another run landed rows of this table meanwhile")
        return
    landing.note(f"the key sweep found {missing.gone.num_rows:,} deleted rows")
    _note_swept(landing, snapshot)


def _note_swept(landing: Landing, snapshot: SourceSnapshot) -> None:
    if landing.table.sweep_every:
        landing.keep_note(SWEPT, snapshot.position.taken_at.isoformat())


def _missing_keys(landing: Landing, snapshot: SourceSnapshot, base: SweepBase, schema: pa.Schema) -> _Missing:
    """Compare the keys of the lake, of the log and of the quarantine with those of the source's view."""
    seen, refused = set[str](), keys_of(landing.quarantine.rows(), landing.table) if landing.quarantine else {}
    source_keys = snapshot.keys(landing.table, None if landing.quarantine is None else lambda _: None)
    keys = ", ".join(quoted(name) for name in schema.names)
    settings = base.deployment.settings
    limit, spill = settings.memory_limit_mb, settings.home / "tmp"
    with borrowed_duckdb(threads=1, memory_limit_mb=limit, temp_directory=spill) as connection:
        for name, batches in (
            ("source_keys", seen_among(source_keys, refused, seen, landing.table)),
            ("lake_keys", _landed_keys(landing, base, schema.names)),
            ("deleted_keys", _deleted_keys(landing, base, schema.names)),
        ):
            with incoming(connection, "incoming_keys", (_only(batch, schema) for batch in batches), schema):
                connection.execute(f"create temp table {name} as select {keys} from incoming_keys")
        match = " and ".join(f"l.{quoted(n)} is not distinct from s.{quoted(n)}" for n in schema.names)
        query = f"select distinct l.* from lake_keys l where not exists (select 1 from source_keys s where {match})"
        gone = connection.execute(query).to_arrow_table().cast(schema)
        ids = [one for one in refused if one not in seen]
        if not gone.num_rows:
            return _Missing(gone, 0, 0, ids)
        left = "from (select distinct * from lake_keys) l where not exists (select 1 from deleted_keys s where " + match + ")"
        unseen = f"not exists (select 1 from source_keys s where {match})"
        (found,) = connection.execute(f"select count(*) filter ({unseen}), count(*) {left}").fetchall()
        return _Missing(gone, int(found[0]), int(found[1]), ids)


def _landed_keys(landing: Landing, base: SweepBase, names: list[str]) -> Iterator[pa.RecordBatch]:
    """The keys of the lake version, and of the batches that it has not applied."""
    if base.version is not None:
        yield from base.deployment.lake.scan(landing.source.name, landing.table, version=base.version, columns=names)
    for entry in landing.entries:
        if base.watermark < entry.sequence <= base.head and entry.manifest.kind != "delete":
            yield from landing.log.read(entry, names)


def _deleted_keys(landing: Landing, base: SweepBase, names: list[str]) -> Iterator[pa.RecordBatch]:
    """The keys that a batch deletes which the lake version has not applied."""
    for entry in landing.entries:
        if base.watermark < entry.sequence <= base.head and entry.manifest.kind == "delete":
            yield from landing.log.read(entry, names)


def _only(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([batch.column(name).cast(schema.field(name).type) for name in schema.names], schema=schema)
