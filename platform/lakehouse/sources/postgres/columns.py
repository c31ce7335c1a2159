"""How each column of a Postgres relation is read: its declared type, the SQL that gives it, and the values that it refuses.

The rule of each type is in `mapping.py`. A declared column may ask for another type that holds every value (`string` always
does), or for one whose misfits are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from lakehouse.errors import SourceMismatch
from lakehouse.rows.duck import quoted
from lakehouse.sources.postgres.catalog import CatalogColumn, Relation
from lakehouse.sources.postgres.mapping import decimal_of, rule_of
from lakehouse.spec import Column, Table
from lakehouse.spec.types import arrow_field

_SENT = {
    "bool": "bool",
    "int32": "int4",
    "int64": "int8",
    "float32": "float4",
    "float64": "float8",
    "binary": "bytea",
    "date": "date",
    "timestamp": "timestamptz",
}
"""The Postgres type that DuckDB reads exactly, by declared type; text for all others."""

_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")
_NUMBERS = ("numeric", "money", "int2", "int4", "int8")


@dataclass(frozen=True)
class ReadColumn:
    """One column of a read.

    value: the SQL expression that the server evaluates. refused: an SQL condition that holds for values the type cannot hold, or
    None. flagged: the server must evaluate `refused` while it scans, because the value itself no longer shows it.
    """

    field: pa.Field
    value: str
    refused: str | None = None
    flagged: bool = False


def read_columns(relation: Relation, source: str, table: Table) -> tuple[ReadColumn, ...]:
    """The columns of a declared table, in the source's order, without those that are dropped for privacy.

    Raises SourceMismatch for a name that the relation has not got, or a declared type that its column cannot give.
    """
    _check_names(relation, source, table)
    declared = {column.name: column for column in table.columns}
    return tuple(
        _read_column(column, declared.get(column.name), f"reading table {table.name!r} of source {source!r}")
        for column in relation.columns
        if table.personal.get(column.name) != "drop"
    )


def natural_type(column: CatalogColumn) -> str:
    """The declared type that a column has by itself; an array's is a list of its elements' type."""
    if not column.is_array:
        return _natural(column.type, column.built_in, column.modifier)
    element = _natural(column.element or "", column.element is not None, column.modifier)
    return f"list<{'string' if element == 'binary' else element}>"


def _natural(type_: str, built_in: bool, modifier: int) -> str:
    if built_in and type_ == "numeric":
        return decimal_of(modifier) or "string"
    return rule_of(type_, built_in=built_in).declared


def _check_names(relation: Relation, source: str, table: Table) -> None:
    there = [column.name for column in relation.columns]
    named = {
        **{column.name: "columns" for column in table.columns},
        **dict.fromkeys(table.personal, "personal"),
        **({table.partition.column: "partition"} if table.partition.column else {}),
        **({table.event_time: "event_time"} if table.event_time else {}),
        **({table.cursor: "cursor"} if table.cursor else {}),
        **dict.fromkeys(table.key, "key"),
    }
    for name, field in named.items():
        if name not in there:
            raise SourceMismatch(
                f"reading table {table.name!r} of source {source!r}: {field} names column {name!r}",
                value=f"{relation.schema}.{relation.name} has no such column",
                allowed=", ".join(there) or "none: the role may see no column",
                remedy=f"Correct {field} of the table, or add the column to the source.",
            )


def _read_column(column: CatalogColumn, declared: Column | None, tried: str) -> ReadColumn:
    natural = natural_type(column)
    wanted = "".join(declared.type.split()) if declared else natural
    nullable = not column.not_null and (declared is None or declared.nullable)
    doc = (declared.description if declared else "") or column.comment
    field = arrow_field(column.name, wanted, nullable=nullable, doc=doc)
    name = quoted(column.name)
    if wanted == "string":
        return ReadColumn(field, f"{name}::text")
    if column.built_in and not column.is_array and column.type in _NUMBERS:
        number = _number(column, name, wanted, field)
        if number is not None:
            return number
    if wanted == "binary" and natural == "string":
        return ReadColumn(field, f"convert_to({name}::text, getdatabaseencoding())")
    if wanted == natural or (natural, wanted) in {("float32", "float64"), ("date", "timestamp")}:
        if column.is_array:
            return _array(column, name, wanted, field)
        return _scalar(column, name, wanted, field)
    raise SourceMismatch(
        f"{tried}: column {column.name!r}, declared as {wanted}",
        value=f"{column.spelled} in the source",
        allowed=", ".join(dict.fromkeys((natural, "string", *_also(column, natural)))),
        remedy="Declare one of these types, or leave the column out of `columns`.",
    )


def _also(column: CatalogColumn, natural: str) -> tuple[str, ...]:
    if column.built_in and not column.is_array and column.type in _NUMBERS:
        return "int64", "a decimal(p,s)"
    return ("binary (its bytes in the database's encoding)",) if natural == "string" else ()


def _scalar(column: CatalogColumn, name: str, wanted: str, field: pa.Field) -> ReadColumn:
    if wanted == "timestamp":
        value = {"timestamptz": f"{name}::timestamptz", "timestamp": f"{name}::timestamp", "date": f"{name}::timestamp"}[
            column.type
        ]
        return ReadColumn(field, value, beyond_years(name, column.type))
    value = f"{name}::{_SENT.get(wanted, 'text')}"
    return ReadColumn(field, value, beyond_years(name, "date") if wanted == "date" else None)


def beyond_years(value: str, type_: str) -> str:
    """SQL: the time or date `value` of Postgres type `type_` lies outside the years 1 to 9999, or is infinite."""
    return f"({value} < '0001-01-01'::{type_} or {value} >= '10000-01-01'::{type_})"


def _number(column: CatalogColumn, name: str, wanted: str, field: pa.Field) -> ReadColumn | None:
    """Integers, numerics and money as integers or decimals: what does not fit exactly is refused."""
    number = f"{name}::numeric" if column.type == "money" else name
    if match := _DECIMAL.fullmatch(wanted):
        precision, scale = int(match[1]), int(match[2])
        refused = f"(abs({name}::numeric) >= 1e{precision - scale} or round({name}::numeric, {scale}) <> {name}::numeric)"
        if decimal_of(column.modifier) == wanted and column.type == "numeric":
            # DuckDB takes NaN for zero, and the flag refuses it. Nulling it on the server too would cost a cast of each value.
            return ReadColumn(field, f"{name}::numeric({precision},{scale})", f"({name} = 'NaN')", True)
        return ReadColumn(field, f"case when {refused} then null else {number} end::numeric({precision},{scale})", refused, True)
    if wanted not in ("int32", "int64"):
        return None
    if column.type in ("int2", "int4") or (column.type == "int8" and wanted == "int64"):
        return ReadColumn(field, f"{name}::{_SENT[wanted]}")
    low, high = (-(2**31), 2**31 - 1) if wanted == "int32" else (-(2**63), 2**63 - 1)
    refused = f"({number} < {low} or {number} > {high} or {number} <> trunc({number}))"
    return ReadColumn(field, f"case when {refused} then null else {number} end::{_SENT[wanted]}", refused, True)


def _array(column: CatalogColumn, name: str, wanted: str, field: pa.Field) -> ReadColumn:
    """A one-dimensional array. Decimals travel as text: DuckDB would read their arrays as doubles."""
    element = wanted.removeprefix("list<").removesuffix(">")
    refused = f"(array_ndims({name}) > 1 or array_lower({name}, 1) <> 1)"
    cast = "timestamptz" if element == "timestamp" else _SENT.get(element, "text")
    if element == "timestamp":
        refused = f"({refused} or exists (select from unnest({name}) e where {beyond_years('e', 'timestamptz')}))"
    elif element == "date":
        refused = f"({refused} or exists (select from unnest({name}) e where {beyond_years('e', 'date')}))"
    elif element.startswith("decimal") and column.element == "money":
        refused = f"({refused} or {name}::numeric[] <> {name}::numeric(19,2)[])"
        cast = "numeric[]::text"
    elif element.startswith("decimal"):
        refused = f"({refused} or 'NaN' = any({name}))"
    return ReadColumn(field, f"case when {refused} then null else {name} end::{cast}[]", refused, True)
