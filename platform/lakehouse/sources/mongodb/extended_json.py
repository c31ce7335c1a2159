"""BSON values as JSON text: relaxed Extended JSON v2, written the same way every time.

Objects keep the order of their fields; no spaces; non-ASCII characters as they are. Integers are plain numbers with all their
digits, int64 beyond 2**53 too; doubles are the shortest text that reads back, with a point or an exponent (`1.0` is not `1`).
What JSON has no form for is wrapped as the specification says: `{"$oid":…}`, `{"$date":"…Z"}` (outside the years 1970 to 9999
`{"$date":{"$numberLong":…}}`), `{"$numberDecimal":…}`, `{"$binary":…}`, `{"$numberDouble":"NaN"}`.
(MongoDB specifications, "Extended JSON Version 2.0.0".)
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bson import Code, CodecOptions, ObjectId, json_util
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion, TypeCodec, TypeRegistry
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.json_util import DatetimeRepresentation, JSONMode, JSONOptions


@dataclass(frozen=True)
class Javascript:
    """Code as a value of its own: the driver's `Code` is a string, and would pass for one."""

    code: Code


class _JavascriptCodec(TypeCodec):
    bson_type = Code
    python_type = Javascript

    def transform_bson(self, value: Any) -> Javascript:
        return Javascript(value)

    def transform_python(self, value: Any) -> Code:
        code: Code = value.code
        return code


EXACT: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    type_registry=TypeRegistry([_JavascriptCodec()]),
)
"""Decoding that keeps every value: dates as their milliseconds, binaries with their subtype, code apart from text."""

_OPTIONS = JSONOptions(
    json_mode=JSONMode.RELAXED,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    datetime_representation=DatetimeRepresentation.ISO8601,
    tz_aware=True,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_10000 = 253402300800000


def json_text(value: Any) -> str:
    """The text of a value decoded with `EXACT`."""
    try:
        return _ENCODE(value)
    except ValueError:  # a double that JSON has no number for
        return _ENCODE(_spelled(value))


def _wrapped(value: Any) -> Any:
    if isinstance(value, ObjectId):
        return {"$oid": str(value)}
    if isinstance(value, DatetimeMS):
        return {"$date": _date(int(value))}
    if isinstance(value, Decimal128):
        return {"$numberDecimal": str(value)}
    return json_util.default(value.code if isinstance(value, Javascript) else value, _OPTIONS)


def _date(milliseconds: int) -> Any:
    if not 0 <= milliseconds < _YEAR_10000:
        return {"$numberLong": str(milliseconds)}
    spec = "milliseconds" if milliseconds % 1000 else "seconds"
    return (_EPOCH + timedelta(milliseconds=milliseconds)).replace(tzinfo=None).isoformat(timespec=spec) + "Z"


def _spelled(value: Any) -> Any:
    """The value with the doubles that are no numbers spelled out."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"$numberDouble": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, dict):
        return {name: _spelled(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_spelled(inner) for inner in value]
    return value


_ENCODE = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"), default=_wrapped
).encode
