"""The one table of BSON types: which declared types take each, and what becomes of values that these cannot hold.

The table in docs/sources.md is written from here, and a test holds the decoder (`columns.py`, `values.py`) to every cell of it.
A column of type `json` takes everything, as Extended JSON; so does `string` with `mixed="widen"`.
"""

from __future__ import annotations

from dataclasses import dataclass

ANY = "json"
"""The declared type that takes every value."""


@dataclass(frozen=True)
class BsonRule:
    """What takes the values of a BSON type.

    name: as MongoDB's `$type` calls it. declared: the declared types that take it beside `json`, the usual one first; empty where
    only `json` does. refused: for people, the values that these refuse by name. is_null: every column takes it, as null.
    """

    name: str
    declared: tuple[str, ...] = ()
    refused: str = ""
    note: str = ""
    is_null: bool = False


_WHOLE = "by whole numbers and decimals: NaN, infinities, and what they do not hold exactly"

RULES = (
    BsonRule(
        "double", ("float64", "float32", "decimal(p,s)", "int64", "int32"), _WHOLE + "; by float32 also what it would round"
    ),
    BsonRule("string", ("string",), "text that is not UTF-8"),
    BsonRule(
        "object", ("struct<a: int64>",), "a field twice", "a struct of any fields; those that are not named stay in the document"
    ),
    BsonRule("array", ("list<int64>",), note="a list of whatever takes its elements, at any depth"),
    BsonRule(
        "binData", ("binary", "string"), "by binary all but subtype 0, by string all but subtype 4", "subtype 4 is a UUID's text"
    ),
    BsonRule("undefined", note="deprecated", is_null=True),
    BsonRule("objectId", ("string",), note="24 hexadecimal digits"),
    BsonRule("bool", ("bool",)),
    BsonRule("date", ("timestamp", "date"), "years before 1 or after 9999; by date all but midnights in UTC"),
    BsonRule("null", is_null=True),
    BsonRule("regex"),
    BsonRule("dbPointer", note="deprecated"),
    BsonRule("javascript"),
    BsonRule("symbol", ("string",), note="deprecated"),
    BsonRule("javascriptWithScope", note="deprecated"),
    BsonRule(
        "int", ("int32", "int64", "float64", "float32", "decimal(p,s)"), "by float32 and decimals: what they do not hold exactly"
    ),
    BsonRule("timestamp", note="MongoDB's own clock, not a date"),
    BsonRule("long", ("int64", "int32", "float64", "float32", "decimal(p,s)"), "what the declared type does not hold exactly"),
    BsonRule("decimal", ("decimal(p,s)",), "NaN, infinities, and what p and s do not hold exactly"),
    BsonRule("minKey"),
    BsonRule("maxKey"),
)
