"""Columns between their three spellings: FieldSpec, Arrow field, DuckDB type."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from lakehouse.rows.duck import quoted
from lakehouse.spec import FieldSpec
from lakehouse.spec.types import arrow_field, declared_type, field_doc, list_element, struct_fields

_DUCK = {
    "bool": "BOOLEAN",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "json": "VARCHAR",
    "binary": "BLOB",
    "date": "DATE",
    "timestamp": "TIMESTAMPTZ",
}


def duck_type(declared: str) -> str:
    """The DuckDB type of a declared type."""
    if (element := list_element(declared)) is not None:
        return duck_type(element) + "[]"
    if (fields := struct_fields(declared)) is not None:
        return "STRUCT(" + ", ".join(f"{quoted(name)} {duck_type(inner)}" for name, inner in fields) + ")"
    return _DUCK.get(declared) or declared.upper()


def arrow_schema(fields: Iterable[FieldSpec]) -> pa.Schema:
    """The Arrow schema of columns, with their declared types and descriptions."""
    return pa.schema([arrow_field(field.name, field.type, nullable=field.nullable, doc=field.doc) for field in fields])


def field_specs(schema: pa.Schema) -> tuple[FieldSpec, ...]:
    """The columns of an Arrow schema."""
    return tuple(FieldSpec(field.name, declared_type(field), field.nullable, field_doc(field)) for field in schema)
