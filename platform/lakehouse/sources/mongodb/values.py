"""One BSON value as a value of a declared type, one at a time: what the fast path of `columns.py` leaves over.

The rule is the same everywhere: a value is taken if the declared type holds it exactly, and refused otherwise.
"""

from __future__ import annotations

import math
import struct
import uuid
from collections.abc import Callable
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any

import bson
from bson import ObjectId
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128

from lakehouse.sources.mongodb.bson_scan import ARRAY, DOCUMENT, SCOPED_CODE
from lakehouse.sources.mongodb.extended_json import EXACT, json_text
from lakehouse.spec.types import arrow_type

FIRST_MILLISECOND, LAST_MILLISECOND = -62135596800000, 253402300799999
"""The years 1 to 9999."""
DAY_MILLISECONDS = 86_400_000


_NESTED = (DOCUMENT, ARRAY, SCOPED_CODE)


class Misfit(Exception):
    """The declared type cannot hold a value; the message shows it."""


def decoded(kind: int, value: bytes) -> Any:
    """The Python value of a BSON value's bytes (an element without type and name).

    Misfit for text that is not UTF-8, and for an object that is not what it decodes to: of a field that is there twice, the
    driver keeps the last.
    """
    document = struct.pack("<i", len(value) + 7) + bytes((kind, 0)) + value + b"\0"
    try:
        decoded = bson.decode(document, EXACT)
        if kind in _NESTED and len(bson.encode(decoded, codec_options=EXACT)) != len(document):
            raise Misfit("with a field twice in one object, or an obsolete dbPointer")
    except bson.InvalidBSON as error:
        raise Misfit(str(error)) from None
    return decoded[""]


def converter(declared: str) -> Callable[[Any], Any]:
    """A function from a decoded BSON value to what pyarrow takes for the declared type; it raises Misfit."""
    if declared.startswith(("list<", "struct<")):
        return _refused  # what is not a list or an object; those are taken apart in lockstep
    if declared.startswith("decimal"):
        type_ = arrow_type(declared)
        return lambda value: _decimal(value, type_.precision, type_.scale)
    return _CONVERTERS[declared]


def _refused(value: Any) -> Any:
    raise _misfit(value)


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _misfit(value)


def _integer(bits: int) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or (isinstance(value, float) and not value.is_integer()):
            raise _misfit(value)
        number = int(value)
        if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
            raise _misfit(value)
        return number

    return convert


def _float(single: bool) -> Callable[[Any], float]:
    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _misfit(value)
        number = float(value)
        if number != value and not math.isnan(number):
            raise _misfit(value)
        if single and math.isfinite(number):
            try:
                held: float = struct.unpack("<f", struct.pack("<f", number))[0]
            except OverflowError:
                raise _misfit(value) from None
            if held != number:
                raise _misfit(value)
        return number

    return convert


def _decimal(value: Any, precision: int, scale: int) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal128):
        raise _misfit(value)
    number = value.to_decimal() if isinstance(value, Decimal128) else Decimal(value)
    if not number.is_finite():
        raise _misfit(value)
    try:
        return number.quantize(Decimal(1).scaleb(-scale), context=Context(prec=precision, traps=[Inexact, InvalidOperation]))
    except (Inexact, InvalidOperation):
        raise _misfit(value) from None


def _string(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, Binary) and value.subtype == 4 and len(value) == 16:
        return str(uuid.UUID(bytes=bytes(value)))
    raise _misfit(value)


def any_text(value: Any) -> str:
    """What a string column takes of any value: what is text as ever, everything else as Extended JSON."""
    try:
        return _string(value)
    except Misfit:
        return json_text(value)


def _binary(value: Any) -> bytes:
    if isinstance(value, bytes) and not isinstance(value, Binary):
        return value
    raise _misfit(value)


def _timestamp(value: Any) -> int:
    if isinstance(value, DatetimeMS) and FIRST_MILLISECOND <= int(value) <= LAST_MILLISECOND:
        return int(value) * 1000
    raise _misfit(value)


def _date(value: Any) -> int:
    microseconds = _timestamp(value)
    if microseconds % (DAY_MILLISECONDS * 1000):
        raise _misfit(value)
    return microseconds // (DAY_MILLISECONDS * 1000)


def _misfit(value: Any) -> Misfit:
    text = json_text(value)
    return Misfit(text if len(text) <= 80 else text[:77] + "…")


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int32": _integer(32),
    "int64": _integer(64),
    "float32": _float(single=True),
    "float64": _float(single=False),
    "string": _string,
    "json": json_text,
    "binary": _binary,
    "timestamp": _timestamp,
    "date": _date,
}
