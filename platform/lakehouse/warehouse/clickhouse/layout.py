"""How a lake table looks in ClickHouse: types, keys, partitions, and the statements that make it so. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from lakehouse.errors import Unsupported
from lakehouse.rows.partition import partition_prefix
from lakehouse.spec import Partitioning, Table
from lakehouse.spec.types import declared_type, field_doc

ABSENT = "__absent"
"""Ends the name of the hidden column that tells a null list from an empty one, which ClickHouse can't."""

_SIMPLE = {
    "bool": "Bool",
    "int32": "Int32",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
    "string": "String",
    "json": "String",
    "binary": "String",
    "date": "Date32",
    "timestamp": "DateTime64(6, 'UTC')",
}
_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")


@dataclass(frozen=True)
class ClickHouseColumn:
    """One column as `system.columns` has it. `hidden`: not in `SELECT *` (MATERIALIZED), true in rows older than it is."""

    name: str
    type: str
    comment: str = ""
    hidden: bool = False

    @property
    def definition(self) -> str:
        """What stands in CREATE TABLE and ADD COLUMN."""
        default = " MATERIALIZED true" if self.hidden else ""
        comment = f" COMMENT {literal(self.comment)}" if self.comment else ""
        return f"{quoted(self.name)} {self.type}{default}{comment}"


@dataclass(frozen=True)
class Layout:
    """Columns and keys of a published table. `keys` names the keys as they were written, to tell when they change."""

    columns: tuple[ClickHouseColumn, ...]
    partition_by: str
    order_by: str
    nullable_key: bool

    @property
    def keys(self) -> str:
        """Partition and sort key in one line."""
        return f"{self.partition_by} / {self.order_by}"

    def create(self, relation: str, comment: str) -> str:
        """The CREATE TABLE statement."""
        columns = ",\n    ".join(column.definition for column in self.columns)
        settings = "\nSETTINGS allow_nullable_key = 1" if self.nullable_key else ""
        return (
            f"CREATE TABLE {relation} (\n    {columns}\n)\nENGINE = MergeTree\nPARTITION BY {self.partition_by}\n"
            f"ORDER BY ({self.order_by}){settings}\nCOMMENT {literal(comment)}"
        )

    def changes_from(self, current: Sequence[ClickHouseColumn]) -> list[str] | None:
        """ALTER clauses that turn `current` columns into these; None when the table must be rebuilt.

        New columns that may be null and comments are altered; anything else is a rebuild.
        """
        before = {column.name: column for column in current}
        after = {column.name: column for column in self.columns}
        if before.keys() - after.keys():
            return None
        clauses = []
        for name, column in after.items():
            old = before.get(name)
            if old is None:
                if not (column.type.startswith("Nullable(") or column.hidden or name + ABSENT in after):
                    return None
                clauses.append(f"ADD COLUMN {column.definition}")
            elif (old.type, old.hidden) != (column.type, column.hidden):
                return None
            elif old.comment != column.comment:
                clauses.append(f"COMMENT COLUMN {quoted(name)} {literal(column.comment)}")
        return clauses


def layout_of(table: Table, schema: pa.Schema) -> Layout:
    """The layout of a table with this schema.

    Sorted by event time, then key; partitioned as declared, natively. Key columns are not nullable: a null in one is refused.
    """
    order = [*([table.event_time] if table.event_time else []), *(name for name in table.key if name != table.event_time)]
    columns = []
    for field in schema:
        columns.append(ClickHouseColumn(field.name, column_type(field, required=field.name in table.key), field_doc(field)))
        if is_list(field.type) and field.nullable:
            columns.append(ClickHouseColumn(field.name + ABSENT, "Bool", f"Whether {field.name} is null.", hidden=True))
    in_keys = {*order, table.partition.column} - set(table.key) - {None}
    return Layout(
        tuple(columns),
        partition_expression(table.partition),
        ", ".join(quoted(name) for name in order),
        nullable_key=any(schema.field(name).nullable for name in in_keys),
    )


def column_type(field: pa.Field, *, required: bool = False) -> str:
    """ClickHouse's type of an Arrow field. A list is never nullable there: see ABSENT."""
    type_ = _type(declared_type(field), field.type)
    if is_list(field.type) or required or not field.nullable:
        return type_
    return f"Nullable({type_})"


def is_list(type_: pa.DataType) -> bool:
    """Whether values of the type become arrays: those of lists without structs."""
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_)) and not is_text(type_)


def is_text(type_: pa.DataType) -> bool:
    """Whether values of the type are kept as text (`lakehouse.rows.nested_text`): those of structs, and of lists with them.

    A ClickHouse tuple cannot be null, and neither can a list in it.
    """
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return is_text(type_.value_type)
    return bool(pa.types.is_struct(type_))


def _type(declared: str, type_: pa.DataType) -> str:
    if is_text(type_):
        return "String"
    if declared in _SIMPLE:
        return _SIMPLE[declared]
    if match := _DECIMAL.fullmatch(declared):
        return f"Decimal({match[1]}, {match[2]})"
    if is_list(type_):
        return f"Array({column_type(type_.value_field)})"
    raise Unsupported(
        f"giving a column of type {declared} a place in ClickHouse",
        value=str(type_),
        allowed=f"{', '.join(_SIMPLE)}, decimal(p,s), list<T>, struct<name: T>",
        remedy="Declare the column with an allowed type.",
    )


def partition_expression(partitioning: Partitioning) -> str:
    """The PARTITION BY expression; each partition of the lake is one of ClickHouse's."""
    if partitioning.column is None:
        return "tuple()"
    column = quoted(partitioning.column)
    return {
        "day": f"toYYYYMMDD({column})",
        "month": f"toYYYYMM({column})",
        "identity": column,
        "bucket": f"icebergBucket({partitioning.buckets}, {column})",
    }[partitioning.transform]


def partition_value(name: str, table: Table, schema: pa.Schema) -> str | None:
    """What DROP PARTITION calls the partition `name`; None when it cannot be told, so that the whole table must be copied.

    The name of a null partition and that of the text `null` are the same; dates before 1900 and after 2299 share a partition in
    some versions of ClickHouse; identities of other types than text, integers, booleans and dates are written in several ways.
    """
    partitioning = table.partition
    if partitioning.column is None:
        return "tuple()"
    prefix = partition_prefix(partitioning) + "="
    if not name.startswith(prefix):
        return None
    value = name.removeprefix(prefix)
    kind = declared_type(schema.field(partitioning.column))
    if value == "null":
        return None if kind in ("string", "json") and partitioning.transform == "identity" else "tuple(NULL)"
    if partitioning.is_time:
        return _time_value(value)
    if partitioning.transform == "bucket":
        return value if value.isdecimal() else None
    if kind == "date":
        return literal(value)
    if kind in ("int32", "int64") and re.fullmatch(r"-?\d+", value):
        return value
    if kind == "bool" and value in ("true", "false"):
        return value
    return literal(value) if kind in ("string", "json") else None


def _time_value(value: str) -> str | None:
    if not re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", value) or not 1900 <= int(value[:4]) <= 2299:
        return None
    return value.replace("-", "")


def quoted(name: str) -> str:
    """`name` as an identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    """`text` as a string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
