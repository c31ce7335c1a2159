"""Rows and checksums of the lake's and the warehouse's copy of a table, partition by partition, reading what is not known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.verify_record import Parts, Seen
from lakehouse.rows.checksum import partition_checksums, total
from lakehouse.rows.digest import row_digests
from lakehouse.spec import RowChecksum, Source, Table
from lakehouse.tables.engine import TableState
from lakehouse.warehouse.publisher import Published

Scan = Callable[[Collection[str] | None], Iterator[tuple[str, pa.RecordBatch]]]
NOTHING = RowChecksum(0, 0)


@dataclass
class Found:
    """One copy as it was found.

    problem: why it could not be read. there: whether there is a table at all. read: rows that were read now; taken: rows that an
    earlier verification read, the oldest of them at `since`. pieces: what may be recorded.
    """

    sequence: int = 0
    parts: Parts = field(default_factory=dict)
    problem: str = ""
    there: bool = True
    read: int = 0
    taken: int = 0
    since: datetime | None = None
    pieces: dict[str, Seen] = field(default_factory=dict)

    def take(self, seen: Iterable[Seen]) -> None:
        """Count pieces as rows that were not read now."""
        for one in seen:
            self.taken += total(one.parts.values()).rows
            self.since = min(self.since or one.at, one.at)


def read_lake(deployment: Deployment, source: Source, table: Table, state: TableState | None, known: Mapping[str, Seen]) -> Found:
    """The lake's copy at the version of `state`; None: a version without a marker, whose rows say where somebody else wrote."""
    found = Found(state.current.marker.sequence if state else 0)
    version = state.current.version if state else None
    lake = deployment.lake

    def scan(names: Collection[str] | None) -> Iterator[tuple[str, pa.RecordBatch]]:
        return lake.scan_by_partition(source.name, table, partitions=names, version=version)

    with _reading(found):
        _read(found, lake.contents(source.name, table, version=version), known, scan, table)
    return found


def read_warehouse(
    deployment: Deployment,
    source: Source,
    table: Table,
    state: TableState | None,
    known: Mapping[str, Seen],
    ask: Callable[[], Published | None],
) -> Found:
    """The published copy, of which `ask` says where it stands.

    What moved while it was read is not to be recorded: it is left out of the pieces.
    """
    found, warehouse = Found(), deployment.warehouse
    with _reading(found):
        published = ask()
        if published is None or state is None:
            found.problem = "the table was not published yet: run `lakehouse run`"
            found.there = published is not None
            return found
        found.sequence = published.marker.sequence
        schema = state.schema

        def scan(names: Collection[str] | None) -> Iterator[tuple[str, pa.RecordBatch]]:
            return warehouse.scan_by_partition(source.name, table, schema, names)

        _read(found, warehouse.contents(source.name, table), known, scan, table)
        after = warehouse.contents(source.name, table) or {}
        found.pieces = {name: seen for name, seen in found.pieces.items() if after.get(name) == seen.identity}
    return found


def plain_schema(batch: pa.RecordBatch) -> pa.Schema:
    """The schema of a batch whose texts may be dictionaries, as if they were not."""
    return pa.schema([field.with_type(field.type.value_type) if _is_encoded(field) else field for field in batch.schema])


def merged(pieces: Iterable[Parts]) -> Parts:
    """The parts of several pieces, added by name."""
    result: Parts = {}
    for parts in pieces:
        for name, part in parts.items():
            result[name] = result.get(name, NOTHING) + part
    return result


def differing(parts: Parts, reference: Parts) -> tuple[str, ...]:
    """The partitions whose rows are not the same on both sides."""
    names = sorted({*parts, *reference})
    return tuple(name for name in names if parts.get(name, NOTHING) != reference.get(name, NOTHING))


def _read(found: Found, contents: Mapping[str, str] | None, known: Mapping[str, Seen], scan: Scan, table: Table) -> None:
    """Read the pieces whose content is not the known one; `contents` None: nobody can tell, so all of them."""
    now = datetime.now(UTC)
    present = contents or {}
    same = {name: known[name] for name, text in present.items() if text and name in known and known[name].identity == text}
    fresh: dict[str, Parts] = {name: {} for name in present if name not in same}
    if contents is None or fresh:
        for name, batch in scan(sorted(fresh) if same else None):
            digests = row_digests(batch, plain_schema(batch))
            partition_checksums(batch, digests, table.partition, fresh.setdefault(name, {}))
            found.read += batch.num_rows
    found.take(same.values())
    found.pieces = same | {name: Seen(present.get(name, ""), now, parts) for name, parts in fresh.items()}
    found.parts = merged(seen.parts for seen in found.pieces.values())
    found.pieces = {name: seen for name, seen in found.pieces.items() if seen.identity}


@contextmanager
def _reading(found: Found) -> Iterator[None]:
    """Turn what reading raises into the copy's problem."""
    try:
        yield
    except (LakehouseError, OSError, pa.ArrowException) as error:
        found.problem = f"cannot be read: {error}"


def _is_encoded(field: pa.Field) -> bool:
    return bool(pa.types.is_dictionary(field.type))
