"""Documents with values that their columns refuse: found among the others of a chunk, and kept whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import bson
import pyarrow as pa

from lakehouse.sources.mongodb.bson_scan import Chunk
from lakehouse.sources.mongodb.columns import PathColumn, RefusedValue, decode
from lakehouse.sources.mongodb.cutting import Path
from lakehouse.sources.mongodb.extended_json import EXACT, json_text
from lakehouse.sources.reader import RefusedRows
from lakehouse.spec import Table
from lakehouse.spec.declaration import DOCUMENT
from lakehouse.spec.types import arrow_field, declared_type

LeftOut = list[tuple[int, RefusedValue]]
"""Documents of a chunk, by their number in it, and why each was left out."""


def decode_some(chunk: Chunk, columns: Sequence[PathColumn], personal: Sequence[Path]) -> tuple[pa.RecordBatch, LeftOut]:
    """The columns of those documents of a chunk that have no refused value, and the others: found by halving what has one."""
    batches, left_out = list[pa.RecordBatch](), LeftOut()
    waiting = [(0, len(chunk.starts))]
    while waiting:
        first, end = waiting.pop()
        try:
            batches.append(decode(_part(chunk, first, end), columns, personal))
        except RefusedValue as refused:
            if end - first == 1:
                left_out.append((first, refused))
                continue
            middle = (first + end) // 2
            waiting += [(middle, end), (first, middle)]
    schema = pa.schema([column.field for column in columns])
    whole = pa.concat_batches(batches) if batches else pa.RecordBatch.from_pylist([], schema=schema)
    return whole, left_out


def refused_rows(
    table: Table, chunk: Chunk, left_out: LeftOut, columns: Sequence[PathColumn], personal: Sequence[Path]
) -> RefusedRows:
    """Documents as they came, without their personal fields; RefusedValue where such a field cannot be cut out."""
    documents = Chunk(chunk.data, chunk.size, chunk.starts[[number for number, _ in left_out]])
    whole = PathColumn(arrow_field(DOCUMENT, "binary", nullable=False), ())
    time = {"append": table.event_time, "upsert": table.cursor}.get(table.mode)
    names = dict.fromkeys([*table.key, *([time] if time else [])])
    known = [replace(c, field=c.field.with_nullable(True)) for name in names for c in columns if c.field.name == name]
    types = {column.field.name: declared_type(column.field) for column in columns}
    hidden = {c.field.name for c in columns if any(c.path[:1] == path[:1] for path in personal)}
    reasons = [
        f"{'a value that is personal' if why.column in hidden else why.found} in the document with _id {why.document_id},"
        f" and it takes what {types.get(why.column, 'one value')} holds exactly"
        for _, why in left_out
    ]
    parts = [_part(documents, number, number + 1) for number in range(len(left_out))]
    originals = pa.concat_batches([decode(part, [whole], _reached(part, personal)) for part in parts])
    return RefusedRows(
        "bson",
        originals,
        _known(documents, known),
        [why.column for _, why in left_out],
        reasons,
        [_shown(document) for document in originals.column(0).to_pylist()],
    )


def _reached(document: Chunk, personal: Sequence[Path]) -> list[Path]:
    """The personal paths of one document, each only as far as it goes through objects: what is there instead goes whole."""
    start = int(document.starts[0])
    try:
        decoded = bson.decode(document.data[start : start + int(document.i4[start])], EXACT)
    except bson.InvalidBSON:
        return [path[:1] for path in personal]
    found = []
    for path in personal:
        at: Any = decoded
        for depth, name in enumerate(path[:-1], start=1):
            at = at.get(name)
            if not isinstance(at, dict):
                found.append(path if at is None else path[:depth])
                break
        else:
            found.append(path)
    return found


def _shown(document: bytes) -> str:
    try:
        return json_text(bson.decode(document, EXACT))
    except bson.InvalidBSON:
        return ""


def _known(documents: Chunk, columns: Sequence[PathColumn]) -> pa.RecordBatch:
    arrays = []
    for column in columns:
        values = []
        for number in range(len(documents.starts)):
            try:
                values.append(decode(_part(documents, number, number + 1), [column]).column(0))
            except RefusedValue:
                values.append(pa.nulls(1, column.field.type))
        arrays.append(pa.concat_arrays(values))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([column.field for column in columns]))


def _part(chunk: Chunk, first: int, end: int) -> Chunk:
    return chunk if (first, end) == (0, len(chunk.starts)) else Chunk(chunk.data, chunk.size, chunk.starts[first:end])
