"""The checksum of rows that every copy of a table must agree on: the sum of their digests modulo 2**64 (`rows/digest.py`).

So order does not matter, a doubled row counts twice, and parts add up to the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from lakehouse.rows.digest import Words, row_digests
from lakehouse.spec import RowChecksum

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


def checksums_by(batches: Iterable[pa.RecordBatch], schema: pa.Schema, column: str) -> dict[str, RowChecksum]:
    """Rows and checksum over the columns of `schema`, by the text in `column`."""
    found: dict[str, RowChecksum] = {}
    for batch in batches:
        names = batch.column(column).dictionary_encode()
        codes = names.indices.to_numpy(zero_copy_only=False)
        digests = row_digests(batch, schema)
        order = np.argsort(codes, kind="stable") if len(names.dictionary) > 1 else np.arange(len(codes))
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        for part, start, end in zip(codes[order][starts], starts, [*starts[1:], len(codes)], strict=True):
            name = str(names.dictionary[int(part)])
            found[name] = found.get(name, EMPTY) + RowChecksum(int(end - start), _sum(digests[order[start:end]]))
    return found


def with_digests(batches: Iterable[pa.RecordBatch], schema: pa.Schema, keep: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The columns `keep` of the rows, and a last column `_digest` (uint64) over the columns of `schema`."""
    wider = digest_schema(keep)
    for batch in batches:
        digests = pa.array(row_digests(batch, schema), pa.uint64())
        yield pa.RecordBatch.from_arrays([*(batch.column(name) for name in keep.names), digests], schema=wider)


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
