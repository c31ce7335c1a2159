"""Other columns, another partitioning: what a commit may do to a table of which it keeps no file.

A column of another type is a new field, with an id that no file has; the old versions keep their schema, and their files the old
ids. A partition spec is never changed either: the table gets another one, or goes back to one that it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.update import (
    AddPartitionSpecUpdate,
    AddSchemaUpdate,
    SetCurrentSchemaUpdate,
    SetDefaultSpecUpdate,
    TableUpdate,
)
from pyiceberg.types import NestedField

from lakehouse.spec import FieldSpec, Table
from lakehouse.tables.evolution import wider_type
from lakehouse.tables.iceberg.commit import Unmoved
from lakehouse.tables.iceberg.schema import fields_of, iceberg_type, new_spec, stage_evolution, type_properties


def stage_anew(transaction: Transaction, table: Table, fields: Sequence[FieldSpec]) -> None:
    """Stage the columns and the declared partitioning in a transaction, which goes through only if nobody moved the table."""
    metadata = transaction.table_metadata
    transaction._stage((), (Unmoved.since(metadata),))  # type: ignore[arg-type]  # it knows its own only
    old = fields_of(metadata.schema(), metadata.properties)
    renamed = table.names_today({field.name for field in old})
    today = {renamed.get(field.name, field.name): field for field in old}
    identifying = {renamed.get(name, name) for name in metadata.schema().identifier_field_names()}
    required = {field.name for field in fields if not field.nullable}
    if _can_follow(today, fields) and identifying == (set(table.key) if set(table.key) <= required else set()):
        stage_evolution(transaction, old, fields, renamed)
        transaction._stage(_to_spec(metadata, transaction.table_metadata.schema(), table))
        return
    schema = _schema(metadata, table, today, fields)
    to_schema = AddSchemaUpdate(schema_=schema), SetCurrentSchemaUpdate(schema_id=-1)
    # At once: the spec that was may be of a column that is gone.
    transaction._stage((*to_schema, *_to_spec(metadata, schema, table)))
    wanted, had = type_properties(fields), type_properties(old)
    if wanted:
        transaction.set_properties(wanted)
    if gone := had.keys() - wanted.keys():
        transaction.remove_properties(*gone)


def _can_follow(old: Mapping[str, FieldSpec], new: Sequence[FieldSpec]) -> bool:
    """Whether the columns can become these as any others do: none gone, none narrower, none with another type."""
    types = {field.name: field.type for field in new}
    required = {field.name for field in new if not field.nullable}
    return all(
        name in types and wider_type(field.type, types[name]) == types[name] and not (field.nullable and name in required)
        for name, field in old.items()
    )


def _schema(metadata: TableMetadata, table: Table, old: Mapping[str, FieldSpec], new: Sequence[FieldSpec]) -> Schema:
    """The schema of the new columns. old: the columns of the table by the names that they have today, in its order."""
    known = {name: (field, now) for (name, field), now in zip(old.items(), metadata.schema().fields, strict=True)}
    ids = count(metadata.last_column_id + 1)
    columns = [_column(field, known.get(field.name), ids) for field in new]
    required = {column.name: column.field_id for column in columns if column.required}
    identifier = [required[name] for name in table.key] if set(table.key) <= set(required) else []
    number = max(schema.schema_id for schema in metadata.schemas) + 1
    return Schema(*columns, schema_id=number, identifier_field_ids=identifier)


def _column(field: FieldSpec, known: tuple[FieldSpec, NestedField] | None, ids: count[int]) -> NestedField:
    """A column under the id that it has, if its type is what it was; under a new one otherwise."""
    required, doc = not field.nullable, field.doc or None
    if known is not None and known[0].type == field.type and not (required and known[0].nullable):
        return NestedField(known[1].field_id, field.name, known[1].field_type, required=required, doc=doc)
    number = next(ids)
    return NestedField(number, field.name, iceberg_type(field.type, ids), required=required, doc=doc)


def _to_spec(metadata: TableMetadata, schema: Schema, table: Table) -> tuple[TableUpdate, ...]:
    """What leads a table to the declared partitioning of these columns."""
    wanted = new_spec(table.partition, schema)
    if _terms(wanted) == _terms(metadata.spec()):
        return ()
    for spec in metadata.partition_specs:
        if _terms(spec) == _terms(wanted):
            return (SetDefaultSpecUpdate(spec_id=spec.spec_id),)
    number = max(spec.spec_id for spec in metadata.partition_specs) + 1
    spec = PartitionSpec(*(_field(field, metadata) for field in wanted.fields), spec_id=number)
    return AddPartitionSpecUpdate(spec=spec), SetDefaultSpecUpdate(spec_id=-1)


def _terms(spec: PartitionSpec) -> list[tuple[object, ...]]:
    return [(field.source_id, field.transform, field.name) for field in spec.fields]


def _field(field: PartitionField, metadata: TableMetadata) -> PartitionField:
    """The field under the id that it had in an earlier spec (Iceberg spec, "Partition Evolution"), or under a new one."""
    known = (had for spec in metadata.partition_specs for had in spec.fields)
    same = (had.field_id for had in known if (had.source_id, had.transform) == (field.source_id, field.transform))
    number = next(same, (metadata.last_partition_id or 999) + 1)
    return PartitionField(source_id=field.source_id, field_id=number, transform=field.transform, name=field.name)
