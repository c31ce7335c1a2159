"""Raw batches, old files and their partitions as Spark's relations. Everything here is a plan; nothing is read yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as fn
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.types import ArrayType, DataType, StructType

from lakehouse.spec import FieldSpec, LogEntry
from lakehouse.tables.columns import field_specs, spark_type
from lakehouse.tables.partitions import FIRST_DAY, FIRST_MONTH, LAST_DAY, LAST_MONTH, NULL, PartitionScheme
from lakehouse.tables.spark.work import names_of

PARTITION, SEQUENCE, POSITION = "_partition", "_sequence", "_position"
_FILE_ROWS = 2**40
"""More than the rows of any file: a row's place in its batch is its file's number times this and its place in the file."""


def column(name: str, alias: str = "") -> Column:
    """A column by its name, whatever characters are in it."""
    quoted = "`" + name.replace("`", "``") + "`"
    return fn.col(f"{alias}.{quoted}" if alias else quoted)


def spark_schema(fields: Sequence[FieldSpec]) -> StructType:
    """The columns of files; all may be null, since what reads them says so itself."""
    told = [{"name": f.name, "type": spark_type(f.type), "nullable": True, "metadata": {}} for f in fields]
    return StructType.fromJson({"type": "struct", "fields": told})


def read_files(session: SparkSession, urls: Sequence[str], fields: Sequence[FieldSpec]) -> DataFrame:
    """The rows of Parquet files, read by the executors, in columns as the files call them; folders `key=value` mean nothing."""
    schema = spark_schema([replace(field, name=field.in_files) for field in fields])
    if not urls:
        return session.createDataFrame([], schema)
    return session.read.schema(schema).option("recursiveFileLookup", "true").parquet(*urls)


def batch_rows(session: SparkSession, entry: LogEntry, root: str, schema: pa.Schema) -> DataFrame:
    """The rows of one batch in the columns of `schema` (what it lacks is null), with `_sequence` and `_position`."""
    fields, files = entry.manifest.fields, entry.manifest.files
    frame = read_files(session, [f"{root}/{file.path}" for file in files], fields)
    position = fn.lit(0).cast("long")
    if files:
        numbers = [fn.lit(value) for pair in enumerate(files) for value in (pair[1].path.rpartition("/")[2], pair[0])]
        number = fn.create_map(*numbers)[fn.col("_metadata.file_name")]
        position = number.cast("long") * fn.lit(_FILE_ROWS) + fn.col("_metadata.row_index")
    return frame.select(
        *as_columns([field for field in fields if field.name in schema.names], schema),
        fn.lit(entry.sequence).cast("long").alias(SEQUENCE),
        position.alias(POSITION),
    )


def as_columns(present: Sequence[FieldSpec], schema: pa.Schema) -> list[Column]:
    """The columns of `schema` of a relation that has some of them, in their types or narrower ones."""
    wanted = spark_schema(field_specs(schema))
    had = {field.name: field.dataType for field in spark_schema(present)}
    files = {field.name: field.in_files for field in present}
    return [
        _as_type(column(files[field.name]) if field.name in had else fn.lit(None), had.get(field.name), field.dataType).alias(
            field.name
        )
        for field in wanted
    ]


def _as_type(value: Column, had: DataType | None, wanted: DataType) -> Column:
    """A value in another type; a field of a struct that it had not is null."""
    if had == wanted:
        return value
    if isinstance(had, ArrayType) and isinstance(wanted, ArrayType):
        before, after = had.elementType, wanted.elementType
        return fn.transform(value, lambda element: _as_type(element, before, after))
    if isinstance(had, StructType) and isinstance(wanted, StructType):
        inner = {field.name: field.dataType for field in had}
        fields = [
            _as_type(value.getField(f.name) if f.name in inner else fn.lit(None), inner.get(f.name), f.dataType).alias(f.name)
            for f in wanted
        ]
        return fn.when(value.isNotNull(), fn.struct(*fields))
    return value.cast(wanted)


def union(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of all; they have the same columns."""
    return reduce(DataFrame.unionAll, frames)


def partition_of(scheme: PartitionScheme) -> Column:
    """The partition's name of each row, as `PartitionScheme` has it."""
    partitioning = scheme.partitioning
    if partitioning.column is None:
        return fn.lit(scheme.name(None))
    value = column(partitioning.column)
    if partitioning.transform == "day":
        text = _day_text(fn.unix_date(value.cast("date")), value.cast("date").cast("string"))
    elif partitioning.transform == "month":
        date = value.cast("date")
        text = _month_text((fn.year(date) - 1970) * 12 + fn.month(date) - 1, fn.substring(date.cast("string"), 1, 7))
    else:
        named: Column = _named(scheme)(value)
        return named
    return fn.concat(fn.lit(f"{scheme.field}="), fn.coalesce(text, fn.lit(NULL)))


def _day_text(number: Column, text: Column) -> Column:
    return fn.when(number.between(FIRST_DAY, LAST_DAY), text).otherwise(fn.format_string("%+d", number))


def _month_text(number: Column, text: Column) -> Column:
    return fn.when(number.between(FIRST_MONTH, LAST_MONTH), text).otherwise(fn.format_string("%+d", number))


def _named(scheme: PartitionScheme) -> Any:
    """A function of a column of values: the name of each one's partition, found once for each distinct value."""

    def names(values: pa.Array) -> pa.Array:
        return names_of(scheme, values)

    return arrow_udf(names, "string")  # type: ignore[call-overload]  # the type that is meant is found at run time


def keys_frame(schema: pa.Schema, keys: Sequence[str]) -> pa.Schema:
    """The columns of `schema` that are keys."""
    return pa.schema([schema.field(name) for name in keys])


def same_key(left: str, right: str, keys: Sequence[str]) -> Column:
    """Whether the keys of two relations, by their aliases, are the same; a null is the same as a null."""
    return reduce(Column.__and__, (column(name, left).eqNullSafe(column(name, right)) for name in keys))


def nothing(session: SparkSession, schema: pa.Schema) -> DataFrame:
    """No rows, in the columns of `schema`."""
    return session.createDataFrame([], spark_schema(field_specs(schema)))
