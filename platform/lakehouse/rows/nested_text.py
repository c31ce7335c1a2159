"""Structs, and lists of them, as JSON text and back: for a copy that has no type which holds them.

Objects with every field in the declared order, null where it is null. What JSON has no exact form for is a string: decimals,
dates and timestamps (ISO 8601, UTC), doubles that are no numbers (`NaN`, `Infinity`, `-Infinity`), bytes (base64).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

Convert = Callable[[Any], Any]

_DUMP = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


def nested_text(values: pa.Array) -> pa.Array:
    """The text of each value of a nested array; null stays null."""
    write = _writer(values.type)
    return pa.array([None if value is None else _DUMP(write(value)) for value in values.to_pylist()], pa.string())


def from_nested_text(values: pa.Array, type_: pa.DataType) -> pa.Array:
    """The values of the nested type that `nested_text` wrote; text or its bytes. A field that the type got since is null."""
    read = _reader(type_)
    return pa.array([None if text is None else read(json.loads(text)) for text in values.to_pylist()], type_)


def _writer(type_: pa.DataType) -> Convert:
    return _converter(type_, _writer, _WRITE)


def _reader(type_: pa.DataType) -> Convert:
    return _converter(type_, _reader, _READ)


def _converter(type_: pa.DataType, inner: Callable[[pa.DataType], Convert], leaves: dict[str, Convert]) -> Convert:
    if pa.types.is_struct(type_):
        fields = [(field.name, _or_none(inner(field.type))) for field in type_]
        return lambda value: {name: convert(value.get(name)) for name, convert in fields}
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        element = _or_none(inner(type_.value_type))
        return lambda value: [element(item) for item in value]
    return leaves.get(_leaf(type_), _same)


def _or_none(convert: Convert) -> Convert:
    if convert is _same:
        return _same
    return lambda value: None if value is None else convert(value)


def _same(value: Any) -> Any:
    return value


def _leaf(type_: pa.DataType) -> str:
    for name, test in _LEAVES.items():
        if test(type_):
            return name
    return "plain"


def _number(value: float) -> Any:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _moment(value: datetime) -> str:
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


_LEAVES: dict[str, Callable[[pa.DataType], bool]] = {
    "float": pa.types.is_floating,
    "decimal": pa.types.is_decimal,
    "timestamp": pa.types.is_timestamp,
    "date": pa.types.is_date,
    "binary": lambda type_: bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_)),
}
_WRITE: dict[str, Convert] = {
    "float": _number,
    "decimal": str,
    "timestamp": _moment,
    "date": date.isoformat,
    "binary": lambda value: base64.b64encode(value).decode(),
}
_READ: dict[str, Convert] = {
    "float": float,
    "decimal": Decimal,
    "timestamp": datetime.fromisoformat,
    "date": date.fromisoformat,
    "binary": base64.b64decode,
}
