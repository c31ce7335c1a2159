"""From Arrow batches to local Parquet files with their digests: what a batch of the log is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.errors import SchemaChanged, ValueRefused
from lakehouse.rows.checksum import EMPTY, checksum_of
from lakehouse.spec import RawFile, RowChecksum

GROUP_ROWS = 1_000_000
GROUP_BYTES = 16 * 2**20
FILE_BYTES = 512 * 2**20
SAMPLE_ROWS = 5
BATCH_ID_KEY = "lakehouse.batch_id"


@dataclass(frozen=True)
class Written:
    """A batch whose files are in the store and that no log entry names yet.

    sample: its first rows, at most five. began: when its first file was begun (`lakehouse.stores.started`).
    """

    batch_id: str
    files: tuple[RawFile, ...]
    rows: int
    checksum: RowChecksum
    sample: pa.Table
    began: float


@dataclass(frozen=True)
class LocalFile:
    """A finished Parquet file on the local disk."""

    path: Path
    rows: int
    bytes: int
    sha256: str


@dataclass
class Digest:
    """What is known of the rows that have passed so far."""

    checksum: RowChecksum
    sample: pa.Table


def write_files(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path, batch_id: str, digest: Digest
) -> Iterator[LocalFile]:
    """Parquet files of about 512 MB in `folder`, one after the other; rows keep their order. The caller removes each.

    Row groups of about a million rows or 16 MB in memory, whichever comes first: one is encoded while the next is gathered.
    Batches are digested as they come: a third thread would make the others wait for the interpreter more often than it helps.
    `digest` is complete when the last file has come. Raises SchemaChanged for a batch of another schema, ValueRefused
    for a null that the schema forbids. Arrow takes its memory from the C library from here on in this process: its own allocator
    keeps a third more for itself, and is no quicker here.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    groups = _row_groups(map(partial(_passed, schema=schema, batch_id=batch_id, digest=digest), batches))
    first = next(groups, None)
    if first is None:
        return
    with ThreadPoolExecutor(1) as encoder:
        number = 0
        while first is not None:
            path = folder / f"{batch_id}-{number}.parquet"
            rows, first = _write_file(path, first, groups, schema, batch_id, encoder)
            yield LocalFile(path, rows, path.stat().st_size, sha256_of(path))
            number += 1


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_file(
    path: Path, group: pa.Table, groups: Iterator[pa.Table], schema: pa.Schema, batch_id: str, encoder: ThreadPoolExecutor
) -> tuple[int, pa.Table | None]:
    """One file, from this row group on; its rows, and the group that the next file begins with."""
    rows = 0
    plain = schema.with_metadata({BATCH_ID_KEY: batch_id})
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False, "write_statistics": _compared(schema)}
    with pq.ParquetWriter(path, plain, **options) as writer:
        while True:
            written = encoder.submit(_encode, writer, group, plain)
            rows += group.num_rows
            if group.nbytes > GROUP_BYTES:  # one batch of very large values: not two of them at a time
                written.exception()
            del group
            try:
                following = next(groups, None)
            finally:
                written.exception()
            try:
                written.result()
            except (pa.ArrowInvalid, ValueError) as error:
                raise _refused(batch_id, error) from error
            if following is None or path.stat().st_size >= FILE_BYTES:
                return rows, following
            group = following


def _compared(schema: pa.Schema) -> list[str]:
    """The columns whose least and greatest are noted: those of fixed width. Of a long text the writer would hold four copies."""
    return [field.name for field in schema if pa.types.is_primitive(field.type) or pa.types.is_decimal(field.type)]


def _encode(writer: pq.ParquetWriter, group: pa.Table, schema: pa.Schema) -> None:
    writer.write_table(group.cast(schema), row_group_size=GROUP_ROWS)


def _passed(batch: pa.RecordBatch, schema: pa.Schema, batch_id: str, digest: Digest) -> pa.RecordBatch:
    """The batch, when it has the schema; it is in the digest then."""
    if batch.schema.names != schema.names or batch.schema.types != schema.types:
        raise SchemaChanged(
            f"writing batch {batch_id}: rows arrived with another schema",
            value=", ".join(f"{f.name} {f.type}" for f in batch.schema),
            allowed=", ".join(f"{f.name} {f.type}" for f in schema),
            remedy="Read the schema of the source again and extract anew; nothing was landed.",
        )
    digest.checksum = digest.checksum + checksum_of((batch,), schema)
    if digest.sample.num_rows < SAMPLE_ROWS:
        rows = pa.Table.from_arrays(batch.columns, schema=digest.sample.schema).slice(0, SAMPLE_ROWS)
        digest.sample = pa.concat_tables([digest.sample, rows]).slice(0, SAMPLE_ROWS)
    return batch


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for whole in batches:
        for start in range(0, whole.num_rows, GROUP_ROWS):
            batch = whole.slice(start, GROUP_ROWS)
            if held and (rows + batch.num_rows > GROUP_ROWS or size + batch.nbytes > GROUP_BYTES):
                yield _together(held)
                rows = size = 0
            held.append(batch)
            rows += batch.num_rows
            size += batch.nbytes
            del batch
        del whole
    if held:
        yield _together(held)


def _together(batches: list[pa.RecordBatch]) -> pa.Table:
    """The batches as a table; the list is empty then, so that nobody else holds them."""
    table = pa.Table.from_batches(batches)
    batches.clear()
    return table


def _refused(batch_id: str, error: Exception) -> ValueRefused:
    return ValueRefused(
        f"writing batch {batch_id}",
        value=str(error),
        allowed="values that fit the schema, and no null where it forbids one",
        remedy="Correct the declaration of the table; nothing was landed.",
    )


def empty_digest(schema: pa.Schema) -> Digest:
    """The digest of no rows."""
    return Digest(EMPTY, pa.Table.from_batches([], schema))
