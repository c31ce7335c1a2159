"""Columns between their spellings: FieldSpec, Arrow field, DuckDB type, and the JSON of Spark and Delta."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

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

SPARK_NAMES = {
    "bool": "boolean",
    "int32": "integer",
    "int64": "long",
    "float32": "float",
    "float64": "double",
    "string": "string",
    "json": "string",
    "binary": "binary",
    "date": "date",
    "timestamp": "timestamp",
}
"""Spark's names of simple types, by the declared type. Delta took them over: "Schema Serialization Format" in its protocol."""

DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")


def duck_type(declared: str) -> str:
    """The DuckDB type of a declared type."""
    if (element := list_element(declared)) is not None:
        return duck_type(element) + "[]"
    if (fields := struct_fields(declared)) is not None:
        return "STRUCT(" + ", ".join(f"{quoted(name)} {duck_type(inner)}" for name, inner in fields) + ")"
    return _DUCK.get(declared) or declared.upper()


def spark_type(declared: str) -> Any:
    """The type of a declared one, as the JSON of Spark's and of Delta's schemas has it."""
    if (element := list_element(declared)) is not None:
        return {"type": "array", "elementType": spark_type(element), "containsNull": True}
    if (fields := struct_fields(declared)) is not None:
        inner = [{"name": name, "type": spark_type(type_), "nullable": True, "metadata": {}} for name, type_ in fields]
        return {"type": "struct", "fields": inner}
    if match := DECIMAL.fullmatch(declared):
        return f"decimal({match[1]},{match[2]})"
    return SPARK_NAMES[declared]


def arrow_schema(fields: Iterable[FieldSpec]) -> pa.Schema:
    """The Arrow schema of columns, with their declared types and descriptions."""
    return pa.schema([arrow_field(field.name, field.type, nullable=field.nullable, doc=field.doc) for field in fields])


def field_specs(schema: pa.Schema) -> tuple[FieldSpec, ...]:
    """The columns of an Arrow schema."""
    return tuple(FieldSpec(field.name, declared_type(field), field.nullable, field_doc(field)) for field in schema)
