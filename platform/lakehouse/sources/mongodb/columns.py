"""Arrow columns of declared types from a chunk of BSON documents.

Which types take what is in `mapping.py`; a value is taken if the declared type is exactly that value, and refused otherwise.
Absent and null are null everywhere. A dotted path goes through objects: it is null where one is absent or null, and refused
where it meets anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.sources.mongodb import bson_scan
from lakehouse.sources.mongodb.bson_scan import Bytes, Chunk, Ints
from lakehouse.sources.mongodb.cutting import Path, without
from lakehouse.sources.mongodb.lockstep import Found, RepeatedField, find_elements, find_fields
from lakehouse.sources.mongodb.values import (
    DAY_MILLISECONDS,
    FIRST_MILLISECOND,
    LAST_MILLISECOND,
    Misfit,
    any_text,
    converter,
    decoded,
)
from lakehouse.spec.types import arrow_field, declared_type, list_element, struct_fields

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class RefusedValue(Exception):
    """A document has a value that its column cannot hold."""

    def __init__(self, column: str, document_id: str, found: str) -> None:
        super().__init__(column)
        self.column = column
        self.document_id = document_id
        self.found = found


@dataclass(frozen=True)
class PathColumn:
    """One column: its Arrow field and where a document has it; the empty path is the document itself. mixed: see `Column`."""

    field: pa.Field
    path: tuple[str, ...]
    mixed: str = "refuse"


def decode(chunk: Chunk, columns: Sequence[PathColumn], personal: Sequence[Path] = ()) -> pa.RecordBatch:
    """The columns of the documents of a chunk; RefusedValue, DamagedData.

    personal: paths that only the columns at them, or under them, may see.
    """
    allowed = [column for column in columns if any(column.path[: len(path)] == path for path in personal)]
    arrays = dict(_arrays(chunk, allowed))
    others = [column for column in columns if column.field.name not in arrays]
    if any(path[: len(column.path)] == column.path for column in others for path in personal):
        try:
            chunk = without(chunk, personal)
        except RepeatedField as repeated:
            raise RefusedValue(repeated.name, "unknown", "the field twice in a document") from None
    arrays.update(_arrays(chunk, others))
    schema = pa.schema([column.field for column in columns])
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def _arrays(chunk: Chunk, columns: Sequence[PathColumn]) -> Iterator[tuple[str, pa.Array]]:
    at_paths = [column for column in columns if column.path]
    left: dict[Path, Bytes] = {}  # of each path that is split, the types of the values that no column has taken yet
    last = {column.path: column for column in at_paths if column.mixed == "split"}
    for column, (types, positions) in zip(at_paths, _find(chunk, at_paths), strict=True):
        try:
            if column.mixed != "split" or last[column.path] is column:
                types = left.get(column.path, types)
                yield column.field.name, _Column(chunk, types, positions, column.field, widen=column.mixed == "widen").array()
                continue
        except _RefusedAt as at:
            raise RefusedValue(column.field.name, _identity(chunk, chunk.starts[at.document]), at.found) from None
        array, passed = _passing(chunk, left.get(column.path, types), positions, column.field)
        left[column.path] = np.where(passed, types, bson_scan.ABSENT).astype(np.uint8)
        yield column.field.name, array
    for column in columns:
        if not column.path:
            yield column.field.name, _whole(chunk)


def _whole(chunk: Chunk) -> pa.Array:
    """Each document as it is."""
    return _slices(chunk, chunk.starts, chunk.i4[chunk.starts], np.ones(len(chunk.starts), bool))


class _RefusedAt(Exception):
    def __init__(self, document: int, found: str) -> None:
        super().__init__(found)
        self.document = document
        self.found = found


def _find(chunk: Chunk, columns: Sequence[PathColumn]) -> list[tuple[Bytes, Ints]]:
    """Type and position of each column's value in each document, objects of dotted paths entered once for all columns in them."""
    total = len(chunk.starts)
    results = [(np.zeros(total, np.uint8), np.zeros(total, np.int64))] * len(columns)
    if columns:
        rows = np.arange(total)
        _enter(chunk, chunk.starts, rows, [(i, column, column.path) for i, column in enumerate(columns)], results)
    return results


def _enter(
    chunk: Chunk,
    starts: Ints,
    rows: Ints,
    wanted: Sequence[tuple[int, PathColumn, Path]],
    results: list[tuple[Bytes, Ints]],
) -> None:
    """Find what is wanted in the objects that start at `starts`, those of the documents `rows`, and in objects in them.

    Not a function within another that calls itself: the two would keep the chunk alive until the garbage is collected.
    """
    names = list(dict.fromkeys(path[0] for _, _, path in wanted))
    found = _fields(chunk, starts, rows, names)
    for i, name in enumerate(names):
        types, positions = found.types[i], found.positions[i]
        deeper = []
        for number, column, path in wanted:
            if path[0] == name and len(path) == 1:
                results[number] = _spread(types, positions, rows, len(chunk.starts))
            elif path[0] == name:
                deeper.append((number, column, path[1:]))
        if not deeper:
            continue
        inside = types == bson_scan.DOCUMENT
        other = ~inside & ~_is_null(types)
        if other.any():
            first = int(np.nonzero(other)[0][0])
            where = f"{_shown(chunk, int(types[first]), int(positions[first]))} at {name!r}, not an object"
            raise RefusedValue(deeper[0][1].field.name, _identity(chunk, chunk.starts[rows[first]]), where)
        _enter(chunk, positions[inside], rows[inside], deeper, results)


_OBJECT_ID = np.dtype([("low", "<i8"), ("high", "<i4")])
"""Its twelve bytes, as two numbers."""


def _fields(chunk: Chunk, starts: Ints, rows: Ints, names: Sequence[str]) -> Found:
    try:
        return find_fields(chunk, starts, names)
    except RepeatedField as repeated:
        raise RefusedValue(repeated.name, _identity(chunk, starts[repeated.document]), "the field twice") from None


def _spread(types: Bytes, positions: Ints, rows: Ints, total: int) -> tuple[Bytes, Ints]:
    if len(types) == total:
        return types, positions
    all_types, all_positions = np.zeros(total, np.uint8), np.zeros(total, np.int64)
    all_types[rows], all_positions[rows] = types, positions
    return all_types, all_positions


def _is_null(types: Bytes) -> Mask:
    null: Mask = (types == bson_scan.ABSENT) | (types == bson_scan.NULL) | (types == bson_scan.UNDEFINED)
    return null


def _value(chunk: Chunk, kind: int, position: int) -> Any:
    types, at = np.array([kind], np.uint8), np.array([position])
    end = int(bson_scan.after_value(chunk, types, at, np.array([chunk.size]))[0])
    return decoded(kind, chunk.data[position:end])


def _shown(chunk: Chunk, kind: int, position: int) -> str:
    """The type and the value, for an error."""
    name = bson_scan.TYPE_NAMES[kind]
    try:
        text = str(_value(chunk, kind, position))
    except Misfit as misfit:
        text = str(misfit)
    return f"{name} {text if len(text) <= 80 else text[:77] + '…'}"


def _identity(chunk: Chunk, start: np.int64) -> str:
    """The `_id` of a document, as its error names it."""
    found = find_fields(chunk, np.array([start]), ["_id"])
    if not found.types[0, 0]:
        return "unknown"
    return str(_value(chunk, int(found.types[0, 0]), int(found.positions[0, 0])))


class _Column:
    """One column of a chunk on its way to Arrow: what numpy can take at once, then the rest one by one."""

    def __init__(
        self, chunk: Chunk, types: Bytes, positions: Ints, field: pa.Field, *, widen: bool = False, passes: bool = False
    ) -> None:
        """widen: text takes every value. passes: what does not fit is null, and told in `passed`."""
        self.chunk = chunk
        self.types = types
        self.positions = positions
        self.field = field
        self.declared = declared_type(field)
        self.null = _is_null(types)
        self.passed = np.zeros(len(types), bool)
        self.convert = any_text if widen else converter(self.declared)
        self.passes = passes

    def array(self) -> pa.Array:
        """The Arrow array; _RefusedAt names the first document with a value that does not fit."""
        if not self.field.nullable and self.null.any():
            raise _RefusedAt(int(np.nonzero(self.null)[0][0]), "nothing where a value is required")
        if (element := list_element(self.declared)) is not None:
            return self.lists(element)
        if (fields := struct_fields(self.declared)) is not None:
            return self.structs(fields)
        build = _BUILD.get(self.declared, _Column._one_by_one)
        array: pa.Array = build(self)
        return array

    def where(self, *kinds: int) -> Mask:
        """Which documents have a value of one of these types."""
        found: Mask = self.types == kinds[0]
        for kind in kinds[1:]:
            found |= self.types == kind
        return found

    def fixed(self, view: Any, mask: Mask) -> Any:
        """Values of fixed width where `mask`, zero elsewhere."""
        if mask.all():
            return view[self.positions]
        values = np.zeros(len(mask), view.dtype)
        values[mask] = view[self.positions[mask]]
        return values

    def rest(self, done: Mask) -> tuple[Ints, list[Any]]:
        """The documents that are neither null nor done, and their values converted one by one."""
        left = np.nonzero(~done & ~self.null)[0]
        if not len(left):
            return left, []
        positions = self.positions[left]
        ends = bson_scan.after_value(self.chunk, self.types[left], positions, np.full(len(left), self.chunk.size))
        values = []
        for document, kind, start, end in zip(
            left.tolist(), self.types[left].tolist(), positions.tolist(), ends.tolist(), strict=True
        ):
            try:
                values.append(self.convert(decoded(kind, self.chunk.data[start:end])))
            except Misfit as misfit:
                if not self.passes:
                    raise _RefusedAt(document, f"{bson_scan.TYPE_NAMES[kind]} {misfit}") from None
                self.passed[document] = True
        self.null |= self.passed
        return left[~self.passed[left]], values

    def finish(self, values: Any, done: Mask) -> pa.Array:
        """The array of fixed-width values, the rest filled in."""
        left, others = self.rest(done)
        if len(left):
            values[left] = np.array(others, dtype=values.dtype)
        mask = self.null if self.null.any() else None
        if self.declared == "timestamp":
            return pa.array(values, mask=mask).view(self.field.type)
        return pa.array(values, self.field.type, mask=mask)

    def bools(self) -> pa.Array:
        done = self.where(bson_scan.BOOL)
        return self.finish(self.fixed(self.chunk.u1, done).astype(bool), done)

    def integers(self) -> pa.Array:
        narrow = self.where(bson_scan.INT32)
        if self.declared == "int32":
            return self.finish(self.fixed(self.chunk.i4, narrow).astype(np.int32), narrow)
        wide = self.where(bson_scan.INT64)
        values = self.fixed(self.chunk.i8, wide)
        values[narrow] = self.chunk.i4[self.positions[narrow]]
        return self.finish(values, narrow | wide)

    def doubles(self) -> pa.Array:
        double, narrow = self.where(bson_scan.DOUBLE), self.where(bson_scan.INT32)
        values = self.fixed(self.chunk.f8, double)
        values[narrow] = self.chunk.i4[self.positions[narrow]]
        return self.finish(values, double | narrow)

    def times(self) -> pa.Array:
        done = self.where(bson_scan.DATE)
        values = self.fixed(self.chunk.i8, done)
        done &= (values >= FIRST_MILLISECOND) & (values <= LAST_MILLISECOND)
        if self.declared == "date":
            done &= values % DAY_MILLISECONDS == 0
            return self.finish(np.where(done, values // DAY_MILLISECONDS, 0).astype(np.int32), done)
        return self.finish(np.where(done, values, 0) * 1000, done)

    def strings(self) -> pa.Array:
        text, ids = self.where(bson_scan.STRING), self.where(bson_scan.OBJECT_ID)
        if not text.any() and ids.any():
            return self._with_rest(self._hex(ids), ids)
        lengths = np.where(text, self.chunk.i4[self.positions], 0).astype(np.int64)
        try:
            array = _slices(self.chunk, self.positions + 4, lengths - 1, text).cast(pa.string())
        except pa.ArrowInvalid:  # text that is not UTF-8: one by one, to name the document
            text = np.zeros(len(text), bool)
            array = pa.nulls(len(text), pa.string())
        return self._with_rest(array, text)

    def binaries(self) -> pa.Array:
        done = self.where(bson_scan.BINARY)
        done[done] = self.chunk.u1[self.positions[done] + 4] == 0  # other subtypes are no mere bytes
        lengths = np.where(done, self.chunk.i4[self.positions], 0)
        return self._with_rest(_slices(self.chunk, self.positions + 5, lengths, done), done)

    def lists(self, element: str) -> pa.Array:
        inside = self.where(bson_scan.ARRAY)
        self.rest(inside)
        documents = np.nonzero(inside)[0]
        found = find_elements(self.chunk, self.positions[documents])
        owners = documents[found.owners]
        try:
            values = _Column(self.chunk, found.types, found.positions, arrow_field("element", element)).array()
        except _RefusedAt as at:
            raise _RefusedAt(int(owners[at.document]), f"{at.found} in its list") from None
        offsets = np.zeros(len(inside) + 1, np.int32)
        np.cumsum(np.bincount(owners, minlength=len(inside)), out=offsets[1:])
        return pa.ListArray.from_arrays(pa.array(offsets), values, type=self.field.type, mask=pa.array(~inside))

    def structs(self, fields: Sequence[tuple[str, str]]) -> pa.Array:
        inside = self.where(bson_scan.DOCUMENT)
        self.rest(inside)
        rows = np.nonzero(inside)[0]
        try:
            found = find_fields(self.chunk, self.positions[rows], [name for name, _ in fields])
        except RepeatedField as repeated:
            raise _RefusedAt(int(rows[repeated.document]), f"object with the field {repeated.name!r} twice") from None
        children = []
        for i, (name, declared) in enumerate(fields):
            types, positions = _spread(found.types[i], found.positions[i], rows, len(inside))
            try:
                children.append(_Column(self.chunk, types, positions, arrow_field(name, declared)).array())
            except _RefusedAt as at:
                raise _RefusedAt(at.document, f"{at.found} at {name!r} in its object") from None
        return pa.StructArray.from_arrays(children, fields=list(self.field.type), mask=pa.array(~inside))

    def _hex(self, ids: Mask) -> pa.Array:
        """ObjectIds as 24 hexadecimal digits."""
        raw = np.zeros(len(ids), _OBJECT_ID)
        positions = self.positions[ids]
        raw["low"][ids], raw["high"][ids] = self.chunk.i8[positions], self.chunk.i4[positions + 8]
        offsets = np.arange(0, 24 * len(ids) + 1, 24, dtype=np.int32)
        array = pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(raw.tobytes().hex().encode()))
        return array if ids.all() else pc.if_else(pa.array(ids), array, None)

    def _with_rest(self, array: pa.Array, done: Mask) -> pa.Array:
        left, others = self.rest(done)
        if not len(left):
            return array
        place = np.arange(len(done))
        place[left] = len(done) + np.arange(len(left))
        return pa.concat_arrays([array, pa.array(others, array.type)]).take(pa.array(place))

    def _one_by_one(self) -> pa.Array:
        return self._with_rest(pa.nulls(len(self.types), self.field.type), np.zeros(len(self.types), bool))


def _passing(chunk: Chunk, types: Bytes, positions: Ints, field: pa.Field) -> tuple[pa.Array, Mask]:
    """A column with null for what its type does not hold, and where that was."""
    column = _Column(chunk, types, positions, field, passes=True)
    try:
        return column.array(), column.passed
    except _RefusedAt:  # in a list or an object: each document by itself
        if len(types) == 1:
            return pa.nulls(1, field.type), np.ones(1, bool)
    parts = [_passing(chunk, types[i : i + 1], positions[i : i + 1], field) for i in range(len(types))]
    return pa.concat_arrays([array for array, _ in parts]), np.concatenate([passed for _, passed in parts])


def _slices(chunk: Chunk, starts: Ints, lengths: Ints, mask: Mask) -> pa.Array:
    """Bytes of the chunk as a binary array: every second slot of an array over the whole chunk, whose offsets must not fall."""
    offsets = np.empty(2 * len(starts), np.int32)
    lows, highs = offsets[0::2], offsets[1::2]
    if whole := bool(mask.all()):
        lows[:], highs[:] = starts, starts + lengths
    else:
        highs[:] = np.where(mask, starts + lengths, 0)
        np.maximum.accumulate(highs, out=highs)
        lows[:] = np.where(mask, starts, highs)
    every = pa.BinaryArray.from_buffers(
        pa.binary(), max(0, 2 * len(starts) - 1), [None, pa.py_buffer(offsets), pa.py_buffer(chunk.data)]
    )
    return every.take(pa.array(np.arange(0, 2 * len(starts), 2), mask=None if whole else ~mask))


_BUILD: dict[str, Callable[[_Column], pa.Array]] = {
    "bool": _Column.bools,
    "int32": _Column.integers,
    "int64": _Column.integers,
    "float64": _Column.doubles,
    "timestamp": _Column.times,
    "date": _Column.times,
    "string": _Column.strings,
    "binary": _Column.binaries,
}
