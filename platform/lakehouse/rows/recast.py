"""Rows that were landed, with columns of other types: every value exactly what it was, or refused with its row.

A value is cast there and back; what does not come back as it was is not held exactly. Some pairs of types are refused as such:
the text of a time or of a double is the source's business, and no double is exactly a decimal.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import SchemaChanged, ValueRefused
from lakehouse.spec.types import declared_type, list_element

_WHOLE = {"int32", "int64"}
_FLOATS = {"float32", "float64"}
_TO = {
    "bool": {"string"},
    "int32": {"int64", "float64", "float32", "decimal", "string"},
    "int64": {"int32", "float64", "float32", "decimal", "string"},
    "float32": {"float64", "int32", "int64"},
    "float64": {"float32", "int32", "int64"},
    "decimal": {"decimal", "int32", "int64", "string"},
    "string": {"int32", "int64", "decimal", "bool", "date", "binary"},
    "json": {"string"},
    "binary": {"string"},
    "date": {"timestamp", "string"},
    "timestamp": {"date"},
}
"""The types that values of a type can be cast to exactly, if they are such values. A struct is what it is."""


def check_castable(tried: str, remedy: str, landed: pa.Schema, wanted: pa.Schema) -> None:
    """Raise SchemaChanged for the first column whose values cannot be had in its wanted type, whatever they are."""
    for field in wanted:
        found, type_ = declared_type(landed.field(field.name)), declared_type(field)
        if not castable(found, type_):
            allowed = ", ".join(sorted(_TO.get(_family(found), ()))) or found
            raise SchemaChanged(
                f"{tried}: column {field.name!r}", value=f"{found} in the raw log, {type_} now", allowed=allowed, remedy=remedy
            )


def recast(tried: str, batch: pa.RecordBatch, schema: pa.Schema, key: Sequence[str]) -> pa.RecordBatch:
    """The columns of `schema` in its types; ValueRefused names column, value and key of the first row that has no such value.

    The types must be castable (`check_castable`).
    """
    columns = [_column(tried, batch, field, key) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(tried: str, batch: pa.RecordBatch, field: pa.Field, key: Sequence[str]) -> pa.Array:
    values = batch.column(field.name)
    if values.type == field.type:
        return values
    cast = _there_and_back(values, field.type)
    if cast is not None:
        return cast
    # Taken, not sliced: a slice of lists is cast with all that the others hold.
    place = next(at for at in range(len(values)) if _there_and_back(values.take(pa.array([at])), field.type) is None)
    row = ", ".join(f"{name}={batch.column(name)[place].as_py()!r}" for name in key)
    raise ValueRefused(
        f"{tried}: column {field.name!r}",
        value=f"{values[place].as_py()!r} in the row with {row}",
        allowed=f"what {declared_type(field)} holds exactly",
        remedy="Declare a type that holds it, or correct the row in the source and run `lakehouse run` under the earlier "
        "declaration. Nothing was changed.",
    )


def exact_values(values: pa.Array, type_: pa.DataType) -> tuple[pa.Array, pa.BooleanArray]:
    """The values in another type, null where one is not exactly there, and for each whether it is. The types must be castable."""
    cast = _there_and_back(values, type_)
    if cast is not None:
        return cast, pa.array([True] * len(values), pa.bool_())
    # Taken, not sliced: a slice of lists is cast with all that the others hold.
    single = [_there_and_back(values.take(pa.array([place])), type_) for place in range(len(values))]
    fitted = [pa.nulls(1, type_) if one is None else one for one in single]
    return pa.concat_arrays(fitted), pa.array([one is not None for one in single], pa.bool_())


def _there_and_back(values: pa.Array, type_: pa.DataType) -> pa.Array | None:
    """The values in another type; None when one of them is not exactly there."""
    try:
        cast = _cast(values, type_)
        back = _cast(cast, values.type)
    except pa.ArrowInvalid:
        return None
    same = pc.equal(back, values) if not pa.types.is_nested(values.type) else None
    if same is None:
        return cast if back.equals(values) else None
    if pa.types.is_floating(values.type):
        same = pc.or_(same, pc.and_(pc.is_nan(back), pc.is_nan(values)))
    return cast if pc.all(same, min_count=0).as_py() and back.null_count == values.null_count else None


def _cast(values: pa.Array, type_: pa.DataType) -> pa.Array:
    """As Arrow casts, which asks of a decimal for whole numbers that it holds all of them."""
    if pa.types.is_integer(values.type) and pa.types.is_decimal(type_):
        return values.cast(pa.decimal128(38, type_.scale)).cast(type_)
    return values.cast(type_)


def castable(found: str, type_: str) -> bool:
    """Whether values of one declared type can be exactly values of another."""
    if found == type_:
        return True
    elements = list_element(found), list_element(type_)
    if elements[0] is not None and elements[1] is not None:
        return castable(elements[0], elements[1])
    return _family(type_) in _TO.get(_family(found), ())


def _family(declared: str) -> str:
    return "decimal" if declared.startswith("decimal(") else declared
