"""BSON as bytes and numpy arrays: a chunk of documents, the types, and where a value ends (BSON 1.1, bsonspec.org).

Nothing outside of a document is taken for a part of it: each element's end is checked against the document's, and DamagedData is
raised for bytes that are not BSON.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lakehouse.errors import DamagedData

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

ABSENT, DOUBLE, STRING, DOCUMENT, ARRAY, BINARY, UNDEFINED, OBJECT_ID, BOOL, DATE, NULL = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
REGEX, DB_POINTER, CODE, SYMBOL, SCOPED_CODE, INT32, TIMESTAMP, INT64, DECIMAL128 = 11, 12, 13, 14, 15, 16, 17, 18, 19
MAX_KEY, MIN_KEY = 127, 255

TYPE_NAMES = {
    DOUBLE: "double", STRING: "string", DOCUMENT: "object", ARRAY: "array", BINARY: "binData", UNDEFINED: "undefined",
    OBJECT_ID: "objectId", BOOL: "bool", DATE: "date", NULL: "null", REGEX: "regex", DB_POINTER: "dbPointer", CODE: "javascript",
    SYMBOL: "symbol", SCOPED_CODE: "javascriptWithScope", INT32: "int", TIMESTAMP: "timestamp", INT64: "long",
    DECIMAL128: "decimal", MAX_KEY: "maxKey", MIN_KEY: "minKey",
}  # fmt: skip
"""The names that MongoDB's `$type` uses."""

PADDING = 16
"""Bytes after the last document, zeros, that may be read and are never used: searches and words end in them."""

_FIXED = np.full(256, -1, np.int64)
"""Bytes of a value by type, without what its length prefix counts; -1: no such type."""
_PREFIXED = np.zeros(256, bool)
"""Whether a value begins with a 32-bit length."""
for _type, _bytes, _prefixed in (
    (DOUBLE, 8, 0), (STRING, 4, 1), (DOCUMENT, 0, 1), (ARRAY, 0, 1), (BINARY, 5, 1), (UNDEFINED, 0, 0), (OBJECT_ID, 12, 0),
    (BOOL, 1, 0), (DATE, 8, 0), (NULL, 0, 0), (REGEX, 0, 0), (DB_POINTER, 16, 1), (CODE, 4, 1), (SYMBOL, 4, 1),
    (SCOPED_CODE, 0, 1), (INT32, 4, 0), (TIMESTAMP, 8, 0), (INT64, 8, 0), (DECIMAL128, 16, 0), (MAX_KEY, 0, 0), (MIN_KEY, 0, 0),
):  # fmt: skip
    _FIXED[_type] = _bytes
    _PREFIXED[_type] = bool(_prefixed)

_LEAST = np.zeros(256, np.int64)
"""The least value that a length prefix may have, by type."""
_LEAST[[STRING, CODE, SYMBOL, DB_POINTER]] = 1
_LEAST[[DOCUMENT, ARRAY]] = 5
_LEAST[SCOPED_CODE] = 14

_SIZES: list[int] = _FIXED.tolist()
_LEASTS = {type_: int(_LEAST[type_]) for type_ in range(256) if _PREFIXED[type_]}

_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


class Chunk:
    """Bytes with BSON documents in them, and views of every width at every position. starts: where each document begins."""

    def __init__(self, data: bytes, size: int, starts: Ints) -> None:
        """data: `size` bytes with the documents, and at least PADDING bytes more."""
        self.size = size
        self.data = data
        self.starts = starts
        self.u1: Bytes = np.frombuffer(data, np.uint8)
        self.i4 = self._view("<i4")
        self.i8 = self._view("<i8")
        self.u8 = self._view("<u8")
        self.f8 = self._view("<f8")

    def _view(self, dtype: str) -> npt.NDArray[Any]:
        width = np.dtype(dtype).itemsize
        return np.ndarray((len(self.data) - width + 1,), dtype, self.data, strides=(1,))


def padded(documents: bytes | bytearray | memoryview) -> bytes:
    """A copy that a chunk can be made of."""
    return b"".join((documents, bytes(PADDING)))


def following(documents: bytes) -> Chunk:
    """A chunk of documents that follow each other; DamagedData when they do not fill it."""
    data, size = padded(documents), len(documents)
    length = struct.Struct("<i").unpack_from
    starts, position = [], 0
    while position < size:
        starts.append(position)
        step = length(data, position)[0]
        if step < 5:
            break
        position += step
    if position != size:
        raise damaged("a document's length does not fit its batch")
    return Chunk(data, size, np.array(starts, np.int64))


def checked_ends(chunk: Chunk, starts: Ints) -> Ints:
    """Where the documents or lists that start at `starts` have their last byte, a zero; DamagedData."""
    ends: Ints = starts + chunk.i4[starts] - 1
    if len(starts) and ((ends < starts + 4).any() or (ends >= chunk.size).any() or chunk.u1[ends].any()):
        raise damaged("a document does not end where its length says")
    return ends


def elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes, int]]:
    """Type, name and position of the value of each element from `at` to the zero byte at `end`, one by one; DamagedData."""
    while type_ := data[at]:
        zero = data.index(0, at + 1)
        value = zero + 1
        size = _SIZES[type_]
        if size < 0:
            raise damaged(f"an element of the unknown type {type_}")
        after = value + size
        if type_ in _LEASTS:
            length = int.from_bytes(data[value : value + 4], "little", signed=True)
            if length < _LEASTS[type_]:
                raise damaged("a value's length is too small")
            after += length
        elif type_ == REGEX:
            after = data.index(0, data.index(0, value) + 1) + 1
        if after > end:
            raise damaged("a value reaches beyond its document")
        yield type_, data[at + 1 : zero], value
        at = after
    if at != end:
        raise damaged("a document ends before its length says")


def after_zero(chunk: Chunk, at: Ints) -> Ints:
    """The position after the next zero byte from each of `at`; the padding ends every search."""
    result = at.copy()
    active = np.arange(len(at))
    while len(active):
        word = chunk.u8[np.minimum(result[active], chunk.size)]
        zeros = (word - _ONES) & ~word & _HIGHS
        found = zeros != 0
        lowest = zeros[found] & (~zeros[found] + np.uint64(1))
        result[active[found]] += np.log2(lowest.astype(np.float64)).astype(np.int64) // 8 + 1
        result[active[~found]] += 8
        active = active[~found]
    return result


def after_value(chunk: Chunk, types: Bytes, at: Ints, ends: Ints) -> Ints:
    """The position after each value; DamagedData when one is not of a known type or reaches beyond its document."""
    if len(types) and (types == types[0]).all():
        return _after_values(chunk, int(types[0]), at, ends)
    size = _FIXED[types]
    if (size < 0).any():
        raise damaged(f"an element of the unknown type {int(types[size < 0][0])}")
    if (at > ends).any():
        raise damaged("a name reaches beyond its document")
    prefixed = _PREFIXED[types]
    if prefixed.any():
        length = chunk.i4[at].astype(np.int64)
        if (prefixed & (length < _LEAST[types])).any():
            raise damaged("a value's length is too small")
        size = size + np.where(prefixed, length, 0)
    after = at + size
    regex = types == REGEX
    if regex.any():
        after[regex] = after_zero(chunk, after_zero(chunk, at[regex]))
    if (after > ends).any():
        raise damaged("a value reaches beyond its document")
    return after


def _after_values(chunk: Chunk, type_: int, at: Ints, ends: Ints) -> Ints:
    """The same for values of one type."""
    size = _SIZES[type_]
    if size < 0:
        raise damaged(f"an element of the unknown type {type_}")
    if (at > ends).any():
        raise damaged("a name reaches beyond its document")
    if type_ == REGEX:
        after = after_zero(chunk, after_zero(chunk, at))
    elif type_ in _LEASTS:
        length = chunk.i4[at]
        if (length < _LEASTS[type_]).any():
            raise damaged("a value's length is too small")
        after = at + length + size
    else:
        after = at + size
    if (after > ends).any():
        raise damaged("a value reaches beyond its document")
    return after


def damaged(what: str) -> DamagedData:
    return DamagedData(
        "decoding BSON",
        value=what,
        allowed="documents as bsonspec.org describes them",
        remedy="Look at the collection with `validate`, then read it again.",
    )
