"""The column types of a declaration, and the Arrow types that rows have from the raw zone on.

    bool  int32  int64  float32  float64  decimal(p,s)  string  binary  date  timestamp  json  list<T>  struct<name: T, ...>

`timestamp` is microseconds in UTC, `json` is text in Arrow and in the lake. An Arrow field keeps its declared type under the
metadata key `lakehouse.type`, so that `json` is told from `string`, and its description under `doc`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

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
_FIELD = re.compile(r"([^\s:,<>()]+)\s*:(.+)", re.DOTALL)
ALLOWED = ", ".join([*_SIMPLE, "decimal(p,s) with 1 <= p <= 38 and 0 <= s <= p", "list<T>", "struct<name: T, ...>"])


def list_element(declared: str) -> str | None:
    """The declared type of a list's elements; None for a type that is no list."""
    text = declared.strip()
    return text[5:-1].strip() if text.startswith("list<") and text.endswith(">") else None


def struct_fields(declared: str) -> tuple[tuple[str, str], ...] | None:
    """Names and declared types of a struct's fields; None for a type that is no struct. DeclarationError for what is no field."""
    text = declared.strip()
    if not (text.startswith("struct<") and text.endswith(">")):
        return None
    fields: list[tuple[str, str]] = []
    for part in _split(text[7:-1]):
        match = _FIELD.fullmatch(part.strip())
        if match is None or match[1] in (name for name, _ in fields):
            raise DeclarationError(
                f"reading a column type: field {part.strip()!r} of a struct",
                value=declared,
                allowed="name: type, each name once, without spaces and none of : , < > ( )",
                remedy="Write struct<a: int64, b: list<string>>; declare an object with other names as json.",
            )
        fields.append((match[1], match[2].strip()))
    return tuple(fields)


def field_paths(columns: Iterable[tuple[str, str]]) -> frozenset[tuple[str, ...]]:
    """The paths of columns, by name and declared type, and of all fields of structs in them; a list's element has none."""
    found = set[tuple[str, ...]]()
    for name, declared in columns:
        found.add((name,))
        while (element := list_element(declared)) is not None:
            declared = element
        found.update((name, *path) for path in field_paths(struct_fields(declared) or ()))
    return frozenset(found)


def _split(text: str) -> list[str]:
    """The parts between the commas that are in no brackets."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += {"<": 1, "(": 1, ">": -1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def arrow_type(declared: str) -> pa.DataType:
    """The Arrow type of a declared type; DeclarationError when there is no such type."""
    text = declared.strip()
    if text in _SIMPLE:
        return _SIMPLE[text]
    if (element := list_element(text)) is not None:
        return pa.list_(pa.field("element", arrow_type(element)))
    if (fields := struct_fields(text)) is not None:
        return pa.struct([pa.field(name, arrow_type(inner)) for name, inner in fields])
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
    if pa.types.is_struct(field.type):
        return "struct<" + ",".join(f"{inner.name}:{declared_type(inner)}" for inner in field.type) + ">"
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
