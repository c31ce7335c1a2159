"""Rows on their way to ClickHouse and back, so that they come back as they went: null lists, text, types."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import ValueRefused
from lakehouse.rows.nested_text import from_nested_text, nested_text
from lakehouse.warehouse.clickhouse.layout import ABSENT, is_list, is_text, quoted


def insert_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of inserted rows: the table's own, and for each list that may be null whether it is."""
    absent = [pa.field(field.name + ABSENT, pa.bool_(), nullable=False) for field in _nullable_lists(schema)]
    return pa.schema([*(field.with_type(_plain(field.type)) for field in schema), *absent]).remove_metadata()


def to_clickhouse(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of the lake, in the order of `schema`, as it is inserted; ValueRefused for a null inside nested lists."""
    target = insert_schema(schema)
    arrays = [
        nested_text(batch.column(field.name))
        if is_text(field.type)
        else _cast(batch.column(field.name), target.field(field.name).type)
        for field in schema
    ]
    for field in _nullable_lists(schema):
        column = batch.column(field.name)
        if is_list(field.type.value_field.type) and column.flatten().null_count:
            raise ValueRefused(
                f"publishing column {field.name!r}",
                value="null in place of an inner list",
                allowed="lists inside of a list that are not null: ClickHouse has no null list",
                remedy="Declare the column as json.",
            )
        arrays.append(pc.is_null(column))
    return pa.RecordBatch.from_arrays(arrays, schema=target)


def select_list(schema: pa.Schema, repeated: Collection[str] = ()) -> str:
    """What to select for `from_clickhouse`; the columns of texts `repeated` are asked for as dictionaries."""
    names = [*schema.names, *(field.name + ABSENT for field in _nullable_lists(schema))]
    own = (f"toLowCardinality({quoted(name)}) AS {quoted(name)}" if name in repeated else quoted(name) for name in names)
    return ", ".join(own)


def from_clickhouse(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of `select_list(schema)`, as it was in the lake."""
    arrays = []
    for field in schema:
        column = batch.column(field.name)
        if is_list(field.type) and field.nullable:
            absent = batch.column(field.name + ABSENT)
            column = pc.if_else(absent, pa.scalar(None, column.type), column)
        if is_text(field.type):
            column = from_nested_text(column, field.type)
        arrays.append(_cast(column, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def encoded_from_clickhouse(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The same values, for digests: dictionaries and the bytes of texts stay as they came."""
    texts = {field.name for field in schema if pa.types.is_string(field.type)}
    others = from_clickhouse(batch, pa.schema([field for field in schema if field.name not in texts]))
    columns = [(batch if name in texts else others).column(name) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, names=schema.names)


def readable(table: pa.Table) -> pa.Table:
    """A result with its text as text: ClickHouse's String may hold any bytes, so it comes as binary."""
    for index, field in enumerate(table.schema):
        type_ = _as_text(field.type)
        if type_ == field.type:
            continue
        try:
            column = table.column(index).cast(type_)
        except pa.ArrowInvalid:
            continue
        table = table.set_column(index, field.with_type(type_), column)
    return table


def _as_text(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_binary(type_):
        return pa.string()
    if is_list(type_):
        return pa.list_(type_.value_field.with_type(_as_text(type_.value_type)))
    return type_


def _nullable_lists(schema: pa.Schema) -> list[pa.Field]:
    return [field for field in schema if is_list(field.type) and field.nullable]


def _plain(type_: pa.DataType) -> pa.DataType:
    if is_text(type_):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(type_) else type_


def _cast(column: pa.Array, type_: pa.DataType) -> pa.Array:
    return column if column.type == type_ else column.cast(type_)
