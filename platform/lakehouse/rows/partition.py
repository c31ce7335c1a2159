"""The partition of a row, named as people and every hop name it: `created_at_day=2026-01-31`, `id_bucket=3`, `all`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.spec import Partitioning

PARTITION = "_partition"
WHOLE = "all"


def partition_prefix(partitioning: Partitioning) -> str:
    """The name of the partition field, as Iceberg has it: `created_at_day`; an identity keeps the column's name."""
    if partitioning.transform == "identity":
        return str(partitioning.column)
    return f"{partitioning.column}_{partitioning.transform}"


def partition_names(batch: pa.RecordBatch, partitioning: Partitioning) -> pa.Array:
    """The partition's name of each row."""
    if partitioning.column is None:
        return pa.array([WHOLE], pa.string()).take(pa.array([0] * batch.num_rows, pa.int32()))
    column = batch.column(partitioning.column)
    if partitioning.transform == "day":
        values = pc.strftime(column, format="%Y-%m-%d")
    elif partitioning.transform == "month":
        values = pc.strftime(column, format="%Y-%m")
    elif partitioning.transform == "bucket":
        from pyiceberg_core.transform import bucket

        values = bucket(column, partitioning.buckets).cast(pa.string())
    else:
        values = column.cast(pa.string())
    prefix = partition_prefix(partitioning) + "="
    return pc.binary_join_element_wise(prefix, pc.fill_null(values, "null"), "")


def with_partition(batches: Iterable[pa.RecordBatch], partitioning: Partitioning) -> Iterator[pa.RecordBatch]:
    """The same rows with their partition's name in a last column `_partition`."""
    for batch in batches:
        names = partition_names(batch, partitioning)
        schema = batch.schema.append(pa.field(PARTITION, pa.string()))
        yield pa.RecordBatch.from_arrays([*batch.columns, names.cast(pa.string())], schema=schema)
