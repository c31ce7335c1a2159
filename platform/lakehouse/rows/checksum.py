"""The checksum of rows that every copy of a table must agree on: the sum of their digests modulo 2**64 (`rows/digest.py`).

So order does not matter, a doubled row counts twice, and parts add up to the whole.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from lakehouse.rows.digest import Words, row_digests
from lakehouse.rows.partition import encoded_partitions
from lakehouse.spec import Partitioning, RowChecksum

EMPTY = RowChecksum(0, 0)
DIGEST = "_digest"
"""The column of digests that `with_digests` adds."""
_BATCH_ROWS = 65_536


def checksum_of(batches: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema) -> RowChecksum:
    """Rows and checksum of Arrow rows over the columns of `schema`; they are taken batch by batch, memory stays flat."""
    rows, value = 0, 0
    for batch in batches.to_batches(max_chunksize=_BATCH_ROWS) if isinstance(batches, pa.Table) else batches:
        rows += batch.num_rows
        value += _sum(row_digests(batch, schema))
    return RowChecksum(rows, value % 2**64)


def partition_checksums(batch: pa.RecordBatch, digests: Words, partitioning: Partitioning, found: dict[str, RowChecksum]) -> None:
    """Add rows and checksum of a batch, whose digests are given, to those of their partitions, by name."""
    names = encoded_partitions(batch, partitioning)
    if not len(digests):
        return
    if len(names.dictionary) == 1:
        _found(found, names.dictionary[0].as_py(), digests)
        return
    codes = names.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    for part, start, end in zip(codes[order][starts], starts, [*starts[1:], len(codes)], strict=True):
        _found(found, names.dictionary[int(part)].as_py(), digests[order[start:end]])


def _found(found: dict[str, RowChecksum], name: str, digests: Words) -> None:
    found[name] = found.get(name, EMPTY) + digests_checksum(digests)


def digests_checksum(digests: Words) -> RowChecksum:
    """Rows and checksum of rows with these digests."""
    return RowChecksum(len(digests), _sum(digests))


def with_digests(batch: pa.RecordBatch, schema: pa.Schema, keep: pa.Schema) -> pa.RecordBatch:
    """The columns `keep` of the rows, and a last column `_digest` (uint64) over the columns of `schema`."""
    digests = pa.array(row_digests(batch, schema), pa.uint64())
    return pa.RecordBatch.from_arrays([*(batch.column(name) for name in keep.names), digests], schema=digest_schema(keep))


def digest_schema(keep: pa.Schema) -> pa.Schema:
    """The schema of `with_digests`."""
    return keep.append(pa.field(DIGEST, pa.uint64()))


def total(parts: Iterable[RowChecksum]) -> RowChecksum:
    """The checksum of the union of disjoint parts."""
    result = EMPTY
    for part in parts:
        result = result + part
    return result


def _sum(digests: Words) -> int:
    return int(np.add.reduce(digests, dtype=np.uint64))
