"""The digest of a row: 64 bits that every copy of the row gives alike, computed on whole Arrow batches.

All arithmetic is on unsigned integers modulo 2**64. `mix` is the finalizer of SplitMix64, a bijection. A value becomes a word:

- integers, booleans (0, 1), dates (days since 1970), timestamps (microseconds since 1970 UTC): their two's complement;
- floats: the bits of the value as a double, every NaN as 0x7ff8000000000000;
- decimals: of the unscaled integer, `low + mix(high)` over its lower and upper 64 bits;
- texts (UTF-8) and binary: `sum(byte[i] * P**i) + length * L`;
- lists: the same sum over the elements, an element being `mix(word + E)`, or N for a null;
- structs: `mix` of the sum of their fields, each as a column of a row is.

A column that is not null gives `mix(word + salt)`; its salt is the first eight bytes, little-endian, of the SHA-256 of its name.
The digest of a row is `mix(sum of these + R)`. So the order of columns does not matter, and a column that was added later and is
null changes nothing; nor does an integer, a float or a decimal whose type was widened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Words = npt.NDArray[np.uint64]

P = 0x9E3779B97F4A7C15
L = 0xD6E8FEB86659FD93
E = 0xC2B2AE3D27D4EB4F
N = 0x165667B19E3779F9
R = 0x27D4EB2F165667C5
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_NAN = np.uint64(0x7FF8000000000000)
_MASK = 2**64 - 1
_BLOCK = 2**15
"""Bytes or elements that are summed at a time: their products stay in a processor's cache."""
_SHORT = 256
"""Bytes or elements of stretches that are all of one length, up to which multiplying them out costs less than a running sum."""
_LINE = 32
"""Bytes that are summed at once in long texts; a running sum over each byte takes twice as long."""
_LONG = 4 * _LINE
"""Bytes of a text, on average, from which on that pays."""
_SAMPLE = 256
"""Rows that tell whether the texts of a column repeat: of 600 different ones they show 208. A look at more is dear."""
_FEW = 12
"""Bytes of a text, on average, up to which its word costs no more than finding it again."""


def row_digests(batch: pa.RecordBatch | pa.StructArray, schema: pa.Schema) -> Words:
    """The digest of each row over the columns of `schema`, which the batch must have; other columns of it are not looked at.

    A column that came in another type is cast to that of `schema`; one that came as a dictionary costs its distinct values only.
    Raises pyarrow.ArrowInvalid when it cannot be cast, and TypeError for a type that has no digest.
    """
    total = np.full(len(batch), R, np.uint64)
    for field in schema:
        _add(total, batch.column(field.name), field.type, field.name)
    return _mix(total)


def _add(total: Words, column: pa.Array, type_: pa.DataType, name: str) -> None:
    """Add to `total` what a column gives as values of `type_`, 0 where it is null."""
    if column.null_count == len(column):
        return
    encoded = column if pa.types.is_dictionary(column.type) else _repeated(column)
    if encoded is None:
        total += _given(column, type_, name)
        return
    # One more word, 0, for the rows without a value.
    given = np.append(_given(encoded.dictionary, type_, name), np.uint64(0))
    indices = encoded.indices if not encoded.indices.null_count else pc.fill_null(encoded.indices, len(given) - 1)
    total += given.take(indices.to_numpy(zero_copy_only=False))


def _given(column: pa.Array, type_: pa.DataType, name: str) -> Words:
    """What each value of a column gives, 0 for a null."""
    given = _words(column if column.type == type_ else column.cast(type_))
    given += _salt(name)
    _mix(given)
    if column.null_count:
        given *= column.is_valid().to_numpy(zero_copy_only=False)
    return given


def _repeated(column: pa.Array) -> pa.DictionaryArray | None:
    """A column of texts that come again and again, as a dictionary; None for any other column.

    Finding a text again costs a fraction of its word, so a look at the first rows pays.
    """
    if len(column) < 4 * _SAMPLE or not (pa.types.is_string(column.type) or pa.types.is_binary(column.type)):
        return None
    offsets = np.frombuffer(column.buffers()[1], np.int32)
    if offsets[column.offset + len(column)] - offsets[column.offset] < _FEW * len(column):
        return None
    if pc.count_distinct(column.slice(0, _SAMPLE)).as_py() > _SAMPLE * 13 // 16:
        return None
    return column.dictionary_encode()


@cache
def _salt(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def _mix(words: Words) -> Words:
    """In place."""
    words ^= words >> _SHIFTS[0]
    words *= _MIX[0]
    words ^= words >> _SHIFTS[1]
    words *= _MIX[1]
    words ^= words >> _SHIFTS[2]
    return words


def _words(column: pa.Array) -> Words:
    """A new array of the word of each value; anything where it is null."""
    type_ = column.type
    for is_kind, words in _KINDS:
        if is_kind(type_):
            return words(column)
    raise TypeError(f"no digest for {type_}")


def _fixed(column: pa.Array, dtype: Any, per_value: int = 1) -> npt.NDArray[Any]:
    """The values' own memory, nulls and all."""
    start, count = column.offset * per_value, len(column) * per_value
    return np.frombuffer(column.buffers()[1], dtype)[start : start + count]


def _integers(column: pa.Array) -> Words:
    return _fixed(column, column.type.to_pandas_dtype()).astype(np.int64).view(np.uint64)


def _booleans(column: pa.Array) -> Words:
    return _integers(column.cast(pa.uint8()))


def _dates(column: pa.Array) -> Words:
    return _fixed(column, np.int32).astype(np.int64).view(np.uint64)


def _timestamps(column: pa.Array) -> Words:
    exact = column if column.type.unit == "us" else column.cast(pa.timestamp("us", column.type.tz))
    return _fixed(exact, np.uint64).copy()


def _floats(column: pa.Array) -> Words:
    values = _fixed(column, column.type.to_pandas_dtype()).astype(np.float64)
    words = values.view(np.uint64)
    words[np.isnan(values)] = _NAN
    return words


def _decimals(column: pa.Array) -> Words:
    pairs = _fixed(column, np.uint64, 2).reshape(-1, 2)
    words: Words = _mix(pairs[:, 1].copy())
    words += pairs[:, 0]
    return words


def _bytes(column: pa.Array) -> Words:
    type_ = column.type
    if not (pa.types.is_string(type_) or pa.types.is_binary(type_)):
        column = column.cast(pa.binary() if pa.types.is_large_binary(type_) or _is_other_binary(type_) else pa.string())
    _, offsets, data = column.buffers()
    edges = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return _sequences(content, edges)


def _is_other_binary(type_: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_binary(type_) or pa.types.is_binary_view(type_))


def _lists(column: pa.Array) -> Words:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    elements = column.flatten()
    words = np.full(len(elements), N, np.uint64)
    if elements.null_count < len(elements):
        found = _words(elements)
        found += np.uint64(E)
        _mix(found)
        words = np.where(elements.is_valid().to_numpy(zero_copy_only=False), found, words) if elements.null_count else found
    return _sequences(words, edges)


def _structs(column: pa.StructArray) -> Words:
    total = np.zeros(len(column), np.uint64)
    for field, values in zip(column.type, column.flatten(), strict=True):
        _add(total, values, field.type, field.name)
    return _mix(total)


def _sequences(values: npt.NDArray[Any], edges: npt.NDArray[np.int64]) -> Words:
    """`sum(value[i] * P**i) + length * L` of each stretch of `values` between two edges."""
    lengths = np.diff(edges)
    result = lengths.view(np.uint64) * np.uint64(L)
    powers, inverses = _powers()
    length = int(lengths.max(initial=0))
    there = lengths == length
    if 0 < length <= _SHORT and length * np.count_nonzero(there) == edges[-1] - edges[0]:
        _add_alike(result, there, values[edges[0] : edges[-1]].reshape(-1, length), powers)
        return result
    if values.dtype == np.uint8 and edges[-1] - edges[0] >= _LONG * len(lengths):
        _add_lines(result, values, edges)
        return result
    at, count = 0, len(result)
    while at < count:
        low = int(edges[at])
        until = int(np.searchsorted(edges, low + _BLOCK, "right")) - 1
        if until <= at:
            result[at : at + 1] += _long(values[low : int(edges[at + 1])])
            at += 1
            continue
        high = int(edges[until])
        sums = np.zeros(high - low + 1, np.uint64)
        np.cumsum(values[low:high] * powers[: high - low], out=sums[1:])
        inside = edges[at : until + 1] - low
        found = sums[inside]
        result[at:until] += (found[1:] - found[:-1]) * inverses[inside[:-1]]
        at = until
    return result


def _add_alike(result: Words, there: npt.NDArray[np.bool_], stretches: npt.NDArray[Any], powers: Words) -> None:
    """Add the sums of stretches of one length: identifiers and tokens are such. there: which there are; others are empty."""
    count, length = max(1, _BLOCK // stretches.shape[1]), stretches.shape[1]
    found = np.empty(len(stretches), np.uint64)
    for start in range(0, len(stretches), count):
        part = stretches[start : start + count].astype(np.uint64)
        np.einsum("ij,j->i", part, powers[:length], out=found[start : start + count])
    if len(found) == len(result):
        result += found
    else:
        result[there] += found


def _add_lines(result: Words, content: npt.NDArray[np.uint8], edges: npt.NDArray[np.int64]) -> None:
    """Add the sums of long texts: running sums over lines of 32 bytes, and what is left of a line at each edge."""
    _, inverses = _powers()
    line_powers, line_inverses = _line_powers()
    room = np.empty(_BLOCK * _LINE, np.uint8)
    sums = np.zeros(_BLOCK + 1, np.uint64)
    at, count = 0, len(result)
    while at < count:
        low = int(edges[at])
        until = int(np.searchsorted(edges, low + (_BLOCK - 1) * _LINE, "right")) - 1
        if until <= at:
            result[at : at + 1] += _long(content[low : int(edges[at + 1])])
            at += 1
            continue
        size = int(edges[until]) - low
        whole = size // _LINE + 1
        room[:size], room[size : whole * _LINE] = content[low : low + size], 0
        lines = room[: whole * _LINE].reshape(-1, _LINE)
        np.cumsum(_line_sums(lines) * line_powers[:whole], out=sums[1 : whole + 1])
        inside = edges[at : until + 1] - low
        line, over = inside // _LINE, inside % _LINE
        begun = lines.take(line, axis=0)
        begun *= np.arange(_LINE) < over[:, None]
        found = sums[line] + _line_sums(begun) * line_powers[line]
        result[at:until] += (found[1:] - found[:-1]) * (line_inverses[line] * inverses[over])[:-1]
        at = until


def _line_sums(lines: npt.NDArray[np.uint8]) -> Words:
    """The sum of each line by itself."""
    powers = _powers()[0][:_LINE]
    found = np.empty(len(lines), np.uint64)
    step = _BLOCK // _LINE
    for start in range(0, len(lines), step):
        np.einsum("ij,j->i", lines[start : start + step].astype(np.uint64), powers, out=found[start : start + step])
    return found


def _long(values: npt.NDArray[Any]) -> np.uint64:
    """The sum for one stretch that is longer than a block."""
    powers, _ = _powers()
    total = 0
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        total += int(np.add.reduce(block * powers[: len(block)])) * pow(P, start, 2**64)
    return np.uint64(total & _MASK)


@cache
def _powers() -> tuple[Words, Words]:
    """P**i and P**-i for the places of a block."""
    powers = np.full(_BLOCK, P, np.uint64)
    inverses = np.full(_BLOCK + 1, pow(P, -1, 2**64), np.uint64)
    powers[0] = inverses[0] = 1
    return np.cumprod(powers, dtype=np.uint64), np.cumprod(inverses, dtype=np.uint64)


@cache
def _line_powers() -> tuple[Words, Words]:
    """P**(32 * i) and its inverses for the lines of a block."""
    powers = np.full(_BLOCK, pow(P, _LINE, 2**64), np.uint64)
    inverses = np.full(_BLOCK, pow(P, -_LINE, 2**64), np.uint64)
    powers[0] = inverses[0] = 1
    return np.cumprod(powers, dtype=np.uint64), np.cumprod(inverses, dtype=np.uint64)


_KINDS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], Words]], ...] = (
    (pa.types.is_integer, _integers),
    (pa.types.is_boolean, _booleans),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_date32, _dates),
    (pa.types.is_floating, _floats),
    (pa.types.is_decimal128, _decimals),
    (lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t), _bytes),
    (lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or _is_other_binary(t), _bytes),
    (lambda t: pa.types.is_list(t) or pa.types.is_large_list(t), _lists),
    (pa.types.is_struct, _structs),
)
