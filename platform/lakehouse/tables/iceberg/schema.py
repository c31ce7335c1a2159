"""Between declared columns and an Iceberg schema; the partition spec. Types as in the Iceberg spec, "Schemas and Data Types".

`json` is kept as string; a column whose declared type its Iceberg type does not tell has it in the table property
`lakehouse.type.<column>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

import pyarrow as pa
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Transaction
from pyiceberg.table.update.schema import UpdateSchema
from pyiceberg.transforms import BucketTransform, DayTransform, IdentityTransform, MonthTransform, Transform
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
)

from lakehouse.errors import SchemaChanged, Unsupported
from lakehouse.spec import FieldSpec, Partitioning
from lakehouse.spec.partitioning import Transform as PartitionTransform
from lakehouse.spec.types import list_element, struct_fields
from lakehouse.tables.columns import arrow_schema
from lakehouse.tables.partitions import PartitionScheme

TYPE_PROPERTY = "lakehouse.type."

_SIMPLE: dict[str, IcebergType] = {
    "bool": BooleanType(),
    "int32": IntegerType(),
    "int64": LongType(),
    "float32": FloatType(),
    "float64": DoubleType(),
    "string": StringType(),
    "json": StringType(),
    "binary": BinaryType(),
    "date": DateType(),
    "timestamp": TimestamptzType(),
}
_NAMES = {type_: name for name, type_ in _SIMPLE.items() if name != "json"} | {TimestampType(): "timestamp"}
_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")


def iceberg_type(declared: str, ids: Iterator[int] | None = None) -> IcebergType:
    """The Iceberg type of a declared type; the ids of what is inside of it are preliminary."""
    ids = count(1) if ids is None else ids
    if (element := list_element(declared)) is not None:
        return ListType(element_id=next(ids), element_type=iceberg_type(element, ids), element_required=False)
    if (fields := struct_fields(declared)) is not None:
        return StructType(*(NestedField(next(ids), name, iceberg_type(inner, ids), required=False) for name, inner in fields))
    if match := _DECIMAL.fullmatch(declared):
        return DecimalType(int(match[1]), int(match[2]))
    return _SIMPLE[declared]


def declared_of(type_: IcebergType, column: str) -> str:
    """The declared type that an Iceberg type is kept for; Unsupported for one that this platform never writes."""
    if isinstance(type_, ListType):
        return f"list<{declared_of(type_.element_type, column)}>"
    if isinstance(type_, StructType):
        return "struct<" + ",".join(f"{field.name}:{declared_of(field.field_type, column)}" for field in type_.fields) + ">"
    if isinstance(type_, DecimalType):
        return f"decimal({type_.precision},{type_.scale})"
    if type_ in _NAMES:
        return _NAMES[type_]
    raise Unsupported(
        f"reading column {column!r} of an Iceberg table",
        value=str(type_),
        allowed=", ".join(str(known) for known in _NAMES),
        remedy="Another tool added the column: drop it there, or cast it to one of these types.",
    )


def fields_of(schema: Schema, properties: Mapping[str, str]) -> tuple[FieldSpec, ...]:
    """The columns of an Iceberg schema as they were declared."""
    return tuple(
        FieldSpec(
            field.name,
            _told(field, properties) or declared_of(field.field_type, field.name),
            not field.required,
            field.doc or "",
        )
        for field in schema.fields
    )


def _told(field: NestedField, properties: Mapping[str, str]) -> str | None:
    """The declared type that the table's properties tell of a column; those of another version's column do not fit its own."""
    told = properties.get(TYPE_PROPERTY + field.name)
    fits = told is not None and _shape(iceberg_type(told)) == _shape(field.field_type)
    return told if fits else None


def _shape(type_: IcebergType) -> object:
    """A type without the ids of what is inside of it."""
    if isinstance(type_, ListType):
        return "list", _shape(type_.element_type)
    if isinstance(type_, StructType):
        return "struct", [(field.name, _shape(field.field_type)) for field in type_.fields]
    return type_


def type_properties(fields: Sequence[FieldSpec]) -> dict[str, str]:
    """The table properties for those columns whose Iceberg type does not tell the declared one."""
    return {
        TYPE_PROPERTY + field.name: field.type
        for field in fields
        if declared_of(iceberg_type(field.type), field.name) != field.type
    }


def new_schema(fields: Sequence[FieldSpec], key: Sequence[str]) -> Schema:
    """An Iceberg schema for a table that is created; the key's columns identify rows when none of them can be null."""
    columns = [
        NestedField(
            index, field.name, iceberg_type(field.type, count(1000 * index)), required=not field.nullable, doc=field.doc or None
        )
        for index, field in enumerate(fields, start=1)
    ]
    required = {column.name: column.field_id for column in columns if column.required}
    identifier = [required[name] for name in key] if set(key) <= set(required) else []
    return Schema(*columns, identifier_field_ids=identifier)


def new_spec(partitioning: Partitioning, schema: Schema) -> PartitionSpec:
    """The partition spec of a declared partitioning."""
    if partitioning.column is None:
        return PartitionSpec()
    source = schema.find_field(partitioning.column)
    transform: Transform = {  # type: ignore[type-arg]
        "day": DayTransform(),
        "month": MonthTransform(),
        "bucket": BucketTransform(partitioning.buckets or 1),
        "identity": IdentityTransform(),
    }[partitioning.transform]
    name = PartitionScheme(partitioning, None).field
    return PartitionSpec(PartitionField(source_id=source.field_id, field_id=1000, transform=transform, name=name))


def partitioning_of(spec: PartitionSpec, schema: Schema) -> Partitioning:
    """The partitioning that a spec of ours was declared as; SchemaChanged for another tool's. schema: one that has the column."""
    if not spec.fields:
        return Partitioning()
    field = spec.fields[0]
    column, transform = schema.find_column_name(field.source_id), field.transform
    if isinstance(transform, BucketTransform) and len(spec.fields) == 1:
        return Partitioning("bucket", column, transform.num_buckets)
    names: dict[type, PartitionTransform] = {DayTransform: "day", MonthTransform: "month", IdentityTransform: "identity"}
    if len(spec.fields) > 1 or type(transform) not in names:
        raise SchemaChanged(
            "reading how an Iceberg table is partitioned",
            value=f"{spec.fields}",
            allowed="one field by day, month, bucket or identity, or none",
            remedy="Another tool has changed the partition spec: change it back there.",
        )
    return Partitioning(names[type(transform)], column)


def check_spec(tried: str, found: PartitionSpec, partitioning: Partitioning, schema: Schema) -> None:
    """SchemaChanged when a table is partitioned in another way than it is declared now."""
    wanted = new_spec(partitioning, schema)
    if [(field.source_id, field.transform) for field in found.fields] != [
        (field.source_id, field.transform) for field in wanted.fields
    ]:
        raise SchemaChanged(
            tried,
            value=f"the table is partitioned by {found.fields or 'nothing'}",
            allowed=f"the declared partitioning: {wanted.fields or 'nothing'}",
            remedy="Declare the partitioning that it has; or run `lakehouse rebuild` on the table: it is folded anew in the "
            "declared one.",
        )


def stage_evolution(
    transaction: Transaction, old: Sequence[FieldSpec], new: Sequence[FieldSpec], renamed: Mapping[str, str]
) -> None:
    """Stage the changes from `old` to `new` columns in a transaction on a table that has `old`.

    renamed: of the columns that have another name among the new ones, that name by the old one.
    """
    before = {renamed.get(field.name, field.name): field for field in old}
    if tuple(old) == tuple(new):
        return
    with transaction.update_schema() as update:
        required = {field.name for field in new if not field.nullable}
        identifiers = {renamed.get(name, name) for name in transaction.table_metadata.schema().identifier_field_names()}
        if not identifiers <= required:
            update.set_identifier_fields()
        for field in new:
            known = before.get(field.name)
            if known is None:
                update.add_column(field.name, iceberg_type(field.type), doc=field.doc or None)
                continue
            if known.name != field.name:
                update.rename_column(known.name, field.name)
            _stage_type(update, (known.name,), known.type, field.type)
            if field.doc != known.doc:
                update.update_column(known.name, doc=field.doc)
            if field.nullable and not known.nullable:
                update.make_column_optional(known.name)
    wanted, had = type_properties(new), type_properties(old)
    if added := {name: value for name, value in wanted.items() if had.get(name) != value}:
        transaction.set_properties(added)
    if gone := had.keys() - wanted.keys():
        transaction.remove_properties(*gone)


def _stage_type(update: UpdateSchema, path: tuple[str, ...], old: str, new: str) -> None:
    """Stage what a column's declared type has come to, or that of a field inside of it."""
    if iceberg_type(old) == iceberg_type(new):
        return
    elements, structs = (list_element(old), list_element(new)), (struct_fields(old), struct_fields(new))
    if elements[0] is not None and elements[1] is not None:
        _stage_type(update, (*path, "element"), elements[0], elements[1])
    elif structs[0] is not None and structs[1] is not None:
        known = dict(structs[0])
        for name, inner in structs[1]:
            if name in known:
                _stage_type(update, (*path, name), known[name], inner)
            else:
                update.add_column((*path, name), iceberg_type(inner))
    else:
        update.update_column(path, iceberg_type(new))


def file_schema(schema: Schema, properties: Mapping[str, str]) -> pa.Schema:
    """The Arrow columns of a data file, each with the id of its Iceberg field as `PARQUET:field_id`, what is inside of it too."""
    columns = arrow_schema(fields_of(schema, properties))
    return pa.schema(
        [
            _with_id(columns.field(field.name).with_metadata(None), field.field_id, field.field_type).with_nullable(
                not field.required
            )
            for field in schema.fields
        ]
    )


def _with_id(field: pa.Field, field_id: int, type_: IcebergType) -> pa.Field:
    inner = field.type
    if isinstance(type_, ListType):
        inner = pa.list_(_with_id(field.type.value_field, type_.element_id, type_.element_type))
    elif isinstance(type_, StructType):
        inner = pa.struct([_with_id(field.type.field(child.name), child.field_id, child.field_type) for child in type_.fields])
    return pa.field(field.name, inner, field.nullable, {b"PARQUET:field_id": str(field_id).encode()})
