"""Whatever BSON allows arrives: in the kept document byte for byte, in a typed column exactly, or refused by name.

From the embedded server where it accepts the document, from the bytes themselves where it does not.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import bson
import pyarrow as pa
import pymongo
import pytest
from bson import Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.codec_options import CodecOptions
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pymongo.errors import PyMongoError

from lakehouse.errors import ValueRefused
from lakehouse.sources import open_source
from lakehouse.sources.mongodb.bson_scan import following
from lakehouse.sources.mongodb.columns import PathColumn, RefusedValue, decode
from lakehouse.spec import Column, Source, Table
from lakehouse.spec.types import arrow_field

RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


def element(type_: int, name: bytes, value: bytes) -> bytes:
    return bytes([type_]) + name + b"\0" + value


def document(identity: int, *elements: bytes) -> bytes:
    body = element(0x10, b"_id", struct.pack("<i", identity)) + b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def text(value: bytes) -> bytes:
    return struct.pack("<i", len(value) + 1) + value + b"\0"


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"end": 1}
    for _ in range(levels):
        value = {"in": value}
    return value


SPECIAL_DECIMALS = [
    "NaN",
    "-NaN",
    "sNaN",
    "Infinity",
    "-Infinity",
    "-0",
    "0E+6111",
    "1E-6176",
    "9.999999999999999999999999999999999E+6144",
]
EVERYTHING: dict[str, Any] = {
    "double": [0.1, -0.0, float("nan"), float("inf"), 5e-324],
    "string": "naïve 🦆 \0 end",
    "object": {"": {"$set": 1, "a.b": 2, ".": 3, "$": 4}},
    "binary": [b"", Binary(b"x" * 16, 3), Binary(b"x" * 16, 4), Binary(b"\xff", 5), Binary(b"\xff", 6), Binary(b"\xff", 128)],
    "oid": ObjectId("0123456789abcdef01234567"),
    "bool": [True, False, None],
    "date": [DatetimeMS(value) for value in (-(2**63), -62135596800001, -1, 0, 253402300800000, 2**63 - 1)],
    "regex": Regex("^a.*\\/", "imx"),
    "code": [Code("f()"), Code("f()", {"a": Int64(1)})],
    "int": [-(2**31), 2**31 - 1],
    "long": [Int64(2**53 + 1), Int64(2**63 - 1), Int64(-(2**63))],
    "stamp": Timestamp(2**32 - 1, 2**32 - 1),
    "decimal": [Decimal128(value) for value in SPECIAL_DECIMALS],
    "ends": [MinKey(), MaxKey()],
}
DEPRECATED = document(
    2,
    element(0x06, b"undefined", b""),
    element(0x0E, b"symbol", text(b"s")),
    element(0x0C, b"pointer", text(b"db.c") + bytes(12)),
    element(0x02, b"n", text(b"last")),
)
DOCUMENTS = {
    "every type": bson.encode({"_id": 1, **EVERYTHING, "n": "last"}),
    "deprecated types": DEPRECATED,
    "text that is not UTF-8": document(3, element(0x02, b"wrong", text(b"a\xff\xc3")), element(0x02, b"n", text(b"last"))),
    "a field twice": document(
        4, *[element(0x10, b"twice", struct.pack("<i", i)) for i in (1, 2)], element(0x02, b"n", text(b"last"))
    ),
    "a name that is not UTF-8": document(5, element(0x10, b"\xff\xfe", struct.pack("<i", 1)), element(0x02, b"n", text(b"last"))),
    "odd names": bson.encode({"_id": 6, "$top": 1, "a.b": 2, "": 3, "n": "last", "N": 4, "n ": 5, "_document": 6}),
    "deep": bson.encode({"_id": 7, "deep": nested(90), "n": "last"}),
    "deeper than a server nests": bson.encode({"_id": 8, "deep": nested(150), "n": "last"}),
    "100,000 fields": bson.encode({"_id": 9, **{f"field_{number}": number for number in range(100_000)}, "n": "last"}),
    "nearly 16 MB": bson.encode({"_id": 10, "big": b"\xff" * (16 * 2**20 - 200), "n": "last"}),
}
TABLE = Table(
    "things",
    "snapshot",
    ("id",),
    columns=(Column("id", "int32", path="_id"), Column("n", "string")),
)


def from_server(url: str, documents: Sequence[bytes]) -> tuple[list[bytes], pa.Table]:
    """What the server says that it keeps, and the rows that are read of it."""
    with pymongo.MongoClient[Any](url) as client:
        collection = client.get_default_database().get_collection("things", codec_options=RAW)
        for raw in documents:
            collection.insert_one(RawBSONDocument(raw))
        kept = [bytes(found.raw) for found in collection.find().sort("_id")]
    reader = open_source(Source("shop", "mongodb", (TABLE,)), url)
    with reader.snapshot() as snapshot:
        rows = pa.Table.from_batches(list(snapshot.read(TABLE)), schema=reader.schema(TABLE))
    reader.close()
    return kept, rows.sort_by("id")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_kept_byte_for_byte(mongo_database: str, name: str) -> None:
    raw = DOCUMENTS[name]
    columns = [
        PathColumn(arrow_field("id", "int32"), ("_id",)),
        PathColumn(arrow_field("n", "string"), ("n",)),
        PathColumn(arrow_field("_document", "binary"), ()),
    ]
    batch = decode(following(raw), columns)
    identity = struct.unpack_from("<i", raw, 4 + 5)[0]
    assert batch.to_pylist() == [{"id": identity, "n": "last", "_document": raw}]
    try:
        kept, rows = from_server(mongo_database, [raw])
    except PyMongoError:
        return  # the server does not take it; from bytes it was read
    assert rows["_document"].to_pylist() == kept
    assert rows["n"].to_pylist() == ["last"]


def test_a_document_of_every_type_comes_back_from_the_server_as_it_went(mongo_database: str) -> None:
    names = ["odd names", "deep", "100,000 fields", "nearly 16 MB"]
    known = {**EVERYTHING, "date": [DatetimeMS(value) for value in (-1, 0, 1)]}  # the embedded server takes no others
    put = [bson.encode({"_id": 1, **known, "n": "last"}), *(DOCUMENTS[name] for name in names)]
    kept, rows = from_server(mongo_database, put)
    assert kept == put
    assert rows["_document"].to_pylist() == kept


@pytest.mark.parametrize("value", [Decimal128(value) for value in SPECIAL_DECIMALS])
def test_a_special_decimal_is_exact_as_json_and_refused_as_a_number(value: Decimal128) -> None:
    raw = bson.encode({"_id": 1, "v": value})
    found = decode(following(raw), [PathColumn(arrow_field("v", "json"), ("v",))])["v"].to_pylist()
    assert found == [f'{{"$numberDecimal":"{value}"}}']
    if str(value) in ("-0", "0E+6111"):
        assert decode(following(raw), [PathColumn(arrow_field("v", "decimal(38,9)"), ("v",))])["v"].to_pylist() == [0]
        return
    with pytest.raises(RefusedValue, match="v"):
        decode(following(raw), [PathColumn(arrow_field("v", "decimal(38,9)"), ("v",))])


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("float64", Int64(2**53 + 1)),
        ("date", DatetimeMS(1)),
        ("int32", Int64(2**31)),
        ("string", Code("f()")),
    ],
)
def test_what_a_type_cannot_hold_is_refused_by_the_id_of_its_document(mongo_database: str, type_: str, value: Any) -> None:
    with pymongo.MongoClient[Any](mongo_database) as client:
        client.get_default_database()["things"].insert_many([{"_id": 1}, {"_id": 77, "v": value}])
    table = Table("things", "snapshot", ("id",), columns=(Column("id", "int32", path="_id"), Column("v", type_)))
    reader = open_source(Source("shop", "mongodb", (table,)), mongo_database)
    with reader.snapshot() as snapshot, pytest.raises(ValueRefused, match="_id 77"):
        list(snapshot.read(table))
    reader.close()


@pytest.mark.parametrize("levels", [90, 150, 5_000])
def test_a_deeply_nested_value_is_json_or_refused_and_never_a_crash(levels: int) -> None:
    raw = bson.encode({"_id": 1}) + document(2, element(0x03, b"v", _deep(levels)))
    column = PathColumn(arrow_field("v", "json"), ("v",))
    if levels < 5_000:
        assert decode(following(raw), [column])["v"].to_pylist()[1].count("{") == levels + 1
        return
    with pytest.raises(RefusedValue, match="v") as error:
        decode(following(raw), [column])
    assert error.value.document_id == "2"


def _deep(levels: int) -> bytes:
    value = bson.encode({})
    for _ in range(levels):
        body = element(0x03, b"in", value)
        value = struct.pack("<i", len(body) + 5) + body + b"\0"
    return value
