"""The column types of a declaration, and the Arrow types that rows have from the raw zone on.

    bool  int32  int64  float32  float64  decimal(p,s)  string  binary  date  timestamp  json  list<T>

`timestamp` is microseconds in UTC, `json` is text in Arrow and in the lake. An Arrow field keeps its declared type under the
metadata key `lakehouse.type`, so that `json` is told from `string`, and its description under `doc`.
"""

from __future__ import annotations

import re

import pyarrow as pa

from lakehouse.errors import DeclarationError

TYPE_KEY = b"lakehouse.type"
DOC_KEY = b"doc"

_SIMPLE: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "json": pa.string(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
_DECIMAL = re.compile(r"decimal\((\d{1,2}),\s*(\d{1,2})\)")
_LIST = re.compile(r"list<(.+)>")
ALLOWED = ", ".join([*_SIMPLE, "decimal(p,s) with 1 <= p <= 38 and 0 <= s <= p", "list<T>"])


def arrow_type(declared: str) -> pa.DataType:
    """The Arrow type of a declared type; DeclarationError when there is no such type."""
    text = declared.strip()
    if text in _SIMPLE:
        return _SIMPLE[text]
    if match := _LIST.fullmatch(text):
        return pa.list_(pa.field("element", arrow_type(match[1])))
    if match := _DECIMAL.fullmatch(text):
        precision, scale = int(match[1]), int(match[2])
        if 1 <= precision <= 38 and scale <= precision:
            return pa.decimal128(precision, scale)
    raise DeclarationError(
        "reading a column type",
        value=declared,
        allowed=ALLOWED,
        remedy="Use one of the allowed types; `string` or `json` hold anything that has a text form.",
    )


def arrow_field(name: str, declared: str, *, nullable: bool = True, doc: str = "") -> pa.Field:
    """An Arrow field that remembers its declared type and description."""
    metadata = {TYPE_KEY: declared.encode()}
    if doc:
        metadata[DOC_KEY] = doc.encode()
    return pa.field(name, arrow_type(declared), nullable=nullable, metadata=metadata)


def declared_type(field: pa.Field) -> str:
    """The declared type of an Arrow field: as recorded, else derived from its Arrow type."""
    if field.metadata and TYPE_KEY in field.metadata:
        return str(field.metadata[TYPE_KEY].decode())
    if pa.types.is_decimal(field.type):
        return f"decimal({field.type.precision},{field.type.scale})"
    if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
        return f"list<{declared_type(field.type.value_field)}>"
    if pa.types.is_large_string(field.type):
        return "string"
    if pa.types.is_large_binary(field.type):
        return "binary"
    for name, arrow in _SIMPLE.items():
        if field.type == arrow:
            return name
    raise DeclarationError(
        f"naming the type of column {field.name!r}",
        value=str(field.type),
        allowed=ALLOWED,
        remedy="Cast the column to an allowed type where it is read.",
    )


def field_doc(field: pa.Field) -> str:
    """The description of an Arrow field, or an empty string."""
    metadata: dict[bytes, bytes] = field.metadata or {}
    return metadata.get(DOC_KEY, b"").decode()
