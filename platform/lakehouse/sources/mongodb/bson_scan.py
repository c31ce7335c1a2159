"""Find fields in many BSON documents at once, in lockstep with numpy (BSON 1.1, bsonspec.org).

All documents of a chunk advance by one element a step: its type byte, its name compared as masked 64-bit words, its size from a
table by type and the length prefix that some types have. The type byte of each document and field tells absent, null and every
other type apart exactly. Nothing outside of a document is taken for a part of it: each element's end is checked against the
document's, and DamagedData is raised for bytes that are not BSON.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

PADDING = 8
"""Bytes after the last document that may be read (not used), beyond the longest name that is looked for."""

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

_STEPS, _FEW = 128, 16
"""After so many steps, so few documents are gone through one by one."""

_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


class RepeatedField(Exception):
    """A document has a field that is looked for twice; `document` is its index, `name` the field."""

    def __init__(self, document: int, name: str) -> None:
        super().__init__(name)
        self.document = document
        self.name = name


class Chunk:
    """Bytes of BSON documents with views of every width at every position; `data` ends with enough padding for `longest`."""

    def __init__(self, documents: bytes, longest: int = 16) -> None:
        self.size = len(documents)
        self.data = documents + bytes(longest + 2 * PADDING)
        self.u1: Bytes = np.frombuffer(self.data, np.uint8)
        self.i4 = self._view("<i4")
        self.u4 = self._view("<u4")
        self.i8 = self._view("<i8")
        self.u8 = self._view("<u8")
        self.f8 = self._view("<f8")

    def _view(self, dtype: str) -> npt.NDArray[Any]:
        width = np.dtype(dtype).itemsize
        return np.ndarray((len(self.data) - width + 1,), dtype, self.data, strides=(1,))

    def starts(self) -> Ints:
        """Where each document of the chunk starts, when they follow each other; DamagedData when they do not fill it."""
        length = struct.Struct("<i").unpack_from
        starts, position = [], 0
        while position < self.size:
            starts.append(position)
            size = length(self.data, position)[0]
            if size < 5:
                break
            position += size
        if position != self.size:
            raise _damaged("a document's length does not fit its batch")
        return np.array(starts, dtype=np.int64)


@dataclass(frozen=True)
class Found:
    """For each name (rows) and document (columns): the BSON type of the value (0: absent) and the position of its first byte."""

    types: Bytes
    positions: Ints


def find_fields(chunk: Chunk, starts: Ints, names: Sequence[str]) -> Found:
    """The fields `names` of the documents that start at `starts`; RepeatedField, DamagedData."""
    keys = [_Key(name) for name in names]
    types = np.zeros((len(names), len(starts)), np.uint8)
    positions = np.zeros((len(names), len(starts)), np.int64)
    if not len(starts):
        return Found(types, positions)
    ends = starts + chunk.i4[starts].astype(np.int64) - 1
    if (ends < starts + 4).any() or (ends >= chunk.size).any() or chunk.u1[ends].any():
        raise _damaged("a document does not end where its length says")
    at = starts + 4
    rows = np.arange(len(starts))
    expected = step = 0
    while len(rows):
        step += 1
        if step > _STEPS and len(rows) <= _FEW:
            _find_one_by_one(chunk, rows, at, ends, names, types, positions)
            break
        type_ = chunk.u1[at]
        if not type_.all():
            over = type_ == 0
            if (at[over] != ends[over]).any():
                raise _damaged("a document ends before its length says")
            rows, at, ends, type_ = rows[~over], at[~over], ends[~over], type_[~over]
            if not len(rows):
                break
        name = at + 1
        word = chunk.u8[name]
        value: Ints | None = None
        left = len(rows)
        for j in (*range(expected, len(keys)), *range(expected)):
            hit = keys[j].matches(chunk, name, word)
            hits = int(np.count_nonzero(hit))
            if not hits:
                continue
            if hits == len(rows):  # the usual case, and a quarter of the work
                _refuse_repeated(types[j], rows, names[j])
                value = name + keys[j].length
                types[j, rows], positions[j, rows] = type_, value
                expected, left = (j + 1) % len(keys), 0
                break
            if value is None:
                value = np.full(len(rows), -1, np.int64)
            chosen = rows[hit]
            _refuse_repeated(types[j], chosen, names[j])
            value[hit] = name[hit] + keys[j].length
            types[j, chosen] = type_[hit]
            positions[j, chosen] = value[hit]
            left -= hits
            if hits * 2 > len(rows):
                expected = (j + 1) % len(keys)
            if not left:
                break
        if value is None:
            value = _after_zero(chunk, name)
        elif left:
            unknown = value < 0
            value[unknown] = _after_zero(chunk, name[unknown])
        at = after_value(chunk, type_, value, ends)
    return Found(types, positions)


def _refuse_repeated(types: Bytes, rows: Ints, name: str) -> None:
    again = types[rows] != 0
    if again.any():
        raise RepeatedField(int(rows[again][0]), name)


def _find_one_by_one(chunk: Chunk, rows: Ints, at: Ints, ends: Ints, names: Sequence[str], types: Bytes, positions: Ints) -> None:
    """The rest of a few documents: for those with very many fields a step of all is dearer than a loop."""
    wanted = {name.encode(): j for j, name in enumerate(names)}
    for row, start, end in zip(rows.tolist(), at.tolist(), ends.tolist(), strict=True):
        for type_, name, value in elements(chunk, start, end):
            j = wanted.get(name)
            if j is None:
                continue
            if types[j, row]:
                raise RepeatedField(row, names[j])
            types[j, row], positions[j, row] = type_, value


@dataclass(frozen=True)
class Elements:
    """The elements of lists, those of one list after those of another, in their order; `owners`: the index of their list."""

    owners: Ints
    types: Bytes
    positions: Ints


def find_elements(chunk: Chunk, starts: Ints) -> Elements:
    """All elements of the lists that start at `starts`, whatever their names are; DamagedData."""
    ends = starts + chunk.i4[starts].astype(np.int64) - 1
    if len(starts) and ((ends < starts + 4).any() or (ends >= chunk.size).any() or chunk.u1[ends].any()):
        raise _damaged("a list does not end where its length says")
    rows, at = np.arange(len(starts)), starts + 4
    found: list[tuple[Ints, Bytes, Ints]] = []
    while len(rows):
        if len(found) > _STEPS and len(rows) <= _FEW:
            for row, start, end in zip(rows.tolist(), at.tolist(), ends.tolist(), strict=True):
                rest = [(type_, value) for type_, _, value in elements(chunk, start, end)]
                found.append(
                    (np.full(len(rest), row), np.array([t for t, _ in rest], np.uint8), np.array([v for _, v in rest], np.int64))
                )
            break
        type_ = chunk.u1[at]
        if not type_.all():
            over = type_ == 0
            if (at[over] != ends[over]).any():
                raise _damaged("a list ends before its length says")
            rows, at, ends, type_ = rows[~over], at[~over], ends[~over], type_[~over]
            if not len(rows):
                break
        value = _after_zero(chunk, at + 1)
        found.append((rows, type_, value))
        at = after_value(chunk, type_, value, ends)
    if not found:
        return Elements(np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int64))
    owners = np.concatenate([owner for owner, _, _ in found])
    order = np.argsort(owners, kind="stable")
    types, positions = np.concatenate([t for _, t, _ in found]), np.concatenate([p for _, _, p in found])
    return Elements(owners[order], types[order], positions[order])


def elements(chunk: Chunk, at: int, end: int) -> Iterator[tuple[int, bytes, int]]:
    """Type, name and position of the value of each element from `at` to the zero byte at `end`, one by one; DamagedData."""
    data = chunk.data
    while type_ := data[at]:
        zero = data.index(0, at + 1)
        value = zero + 1
        size = _SIZES[type_]
        if size < 0:
            raise _damaged(f"an element of the unknown type {type_}")
        after = value + size
        if type_ in _LEASTS:
            length = int.from_bytes(data[value : value + 4], "little", signed=True)
            if length < _LEASTS[type_]:
                raise _damaged("a value's length is too small")
            after += length
        elif type_ == REGEX:
            after = data.index(0, data.index(0, value) + 1) + 1
        if after > end:
            raise _damaged("a value reaches beyond its document")
        yield type_, data[at + 1 : zero], value
        at = after
    if at != end:
        raise _damaged("a document ends before its length says")


class _Key:
    """A name as words: compared eight bytes at a time, its terminating zero included."""

    def __init__(self, name: str) -> None:
        text = name.encode() + b"\0"
        self.length = len(text)
        words = -(-len(text) // 8)
        self.words = np.frombuffer(text.ljust(8 * words, b"\0"), "<u8")
        self.masks = np.frombuffer((b"\xff" * len(text)).ljust(8 * words, b"\0"), "<u8")

    def matches(self, chunk: Chunk, at: Ints, word: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Where the name is this one; word: the first eight bytes of each."""
        hit: npt.NDArray[np.bool_] = (word & self.masks[0]) == self.words[0]
        for i in range(1, len(self.words)):
            if not hit.any():
                break
            hit &= (chunk.u8[np.minimum(at + 8 * i, chunk.size)] & self.masks[i]) == self.words[i]
        return hit


def _after_zero(chunk: Chunk, at: Ints) -> Ints:
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
        raise _damaged(f"an element of the unknown type {int(types[size < 0][0])}")
    if (at > ends).any():
        raise _damaged("a name reaches beyond its document")
    prefixed = _PREFIXED[types]
    if prefixed.any():
        length = chunk.i4[at].astype(np.int64)
        if (prefixed & (length < _LEAST[types])).any():
            raise _damaged("a value's length is too small")
        size = size + np.where(prefixed, length, 0)
    after = at + size
    regex = types == REGEX
    if regex.any():
        after[regex] = _after_zero(chunk, _after_zero(chunk, at[regex]))
    if (after > ends).any():
        raise _damaged("a value reaches beyond its document")
    return after


def _after_values(chunk: Chunk, type_: int, at: Ints, ends: Ints) -> Ints:
    """The same for values of one type."""
    size = _SIZES[type_]
    if size < 0:
        raise _damaged(f"an element of the unknown type {type_}")
    if (at > ends).any():
        raise _damaged("a name reaches beyond its document")
    if type_ == REGEX:
        after = _after_zero(chunk, _after_zero(chunk, at))
    elif type_ in _LEASTS:
        length = chunk.i4[at]
        if (length < _LEASTS[type_]).any():
            raise _damaged("a value's length is too small")
        after = at + length + size
    else:
        after = at + size
    if (after > ends).any():
        raise _damaged("a value reaches beyond its document")
    return after


def _damaged(what: str) -> DamagedData:
    return DamagedData(
        "decoding BSON",
        value=what,
        allowed="documents as bsonspec.org describes them",
        remedy="Look at the collection with `validate`, then read it again.",
    )
