"""The partition of a row, named as people and every hop name it: `created_at_day=2026-01-31`, `id_bucket=3`, `all`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

import numpy as np
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


def encoded_partitions(batch: pa.RecordBatch, partitioning: Partitioning) -> pa.DictionaryArray:
    """The partition's name of each row, as a dictionary; a name may be in it twice, and no row is without one."""
    if partitioning.column is None:
        return _same(WHOLE, batch.num_rows)
    column = batch.column(partitioning.column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    prefix = partition_prefix(partitioning) + "="
    if partitioning.is_time and (day := _only_day(column)) is not None:
        return _same(prefix + str(_text(pa.array([day]), partitioning)[0]), batch.num_rows)
    if partitioning.is_time:
        column = column.cast(pa.date32())
    elif partitioning.transform == "bucket":
        from pyiceberg_core.transform import bucket

        column = bucket(column, partitioning.buckets)
    encoded = column.dictionary_encode(null_encoding="encode")
    names = pc.binary_join_element_wise(prefix, pc.fill_null(_text(encoded.dictionary, partitioning), "null"), "")
    return pa.DictionaryArray.from_arrays(encoded.indices, names)


def partition_names(batch: pa.RecordBatch, partitioning: Partitioning) -> pa.Array:
    """The partition's name of each row."""
    return encoded_partitions(batch, partitioning).dictionary_decode()


def _text(values: pa.Array, partitioning: Partitioning) -> pa.Array:
    """How values are written in a name; null for a null."""
    if partitioning.is_time:
        return pc.strftime(values, format="%Y-%m-%d" if partitioning.transform == "day" else "%Y-%m")
    return values.cast(pa.string())


def _only_day(column: pa.Array) -> date | None:
    """The day of all values, where they are of one day: then it need not be found for each."""
    if not len(column) or column.null_count:
        return None
    ends = pc.min_max(column)
    try:
        first, last = (ends[name].cast(pa.date32()).as_py() for name in ("min", "max"))
    except (ValueError, OverflowError):  # outside of the years that Python knows
        return None
    return first if first == last else None


def _same(name: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([name]))


def with_partition(batches: Iterable[pa.RecordBatch], partitioning: Partitioning) -> Iterator[pa.RecordBatch]:
    """The same rows with their partition's name in a last column `_partition`."""
    for batch in batches:
        names = partition_names(batch, partitioning)
        schema = batch.schema.append(pa.field(PARTITION, pa.string()))
        yield pa.RecordBatch.from_arrays([*batch.columns, names], schema=schema)
