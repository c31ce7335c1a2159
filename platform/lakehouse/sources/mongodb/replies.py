"""The replies to a query as chunks of BSON documents.

The driver's own raw batches make a Python object of each document on the way, which takes as long as all the decoding; here a
reply is only looked at for where its documents begin.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, cast

import bson
import numpy as np
from bson.codec_options import CodecOptions
from pymongo.client_session import ClientSession
from pymongo.cursor import RawBatchCursor

from lakehouse.sources.mongodb.bson_scan import ARRAY, DOCUMENT, Chunk, Ints, damaged, elements, following, padded
from lakehouse.sources.mongodb.extent import Documents

_LENGTH = struct.Struct("<i")
_BATCHES = (b"firstBatch", b"nextBatch")


def chunks(
    documents: Documents,
    condition: Mapping[str, Any],
    projection: Mapping[str, int] | None,
    batch_size: int,
    session: ClientSession | None = None,
) -> Iterator[Chunk]:
    """The documents that a condition finds, a chunk for each reply that has any; the cursor is closed with this."""
    with _Cursor(documents, condition, projection, batch_size=batch_size, session=session) as cursor:
        yield from map(_chunk, cursor)


def _chunk(reply: object) -> Chunk:
    """What the cursor gives; the driver types it as a document."""
    return reply if isinstance(reply, Chunk) else following(cast("bytes", reply))


class _Cursor(RawBatchCursor[dict[str, Any]]):
    """The driver's cursor with its way to open a reply replaced. If a later driver does not ask, chunks are made of its own."""

    def _unpack_response(
        self,
        response: Any,
        cursor_id: int | None,
        codec_options: CodecOptions[Mapping[str, Any]],
        user_fields: Mapping[str, Any] | None = None,
        legacy_response: bool = False,
    ) -> list[Any]:
        """The reply as a dictionary, its batch a list of one chunk, or empty."""
        if legacy_response:
            return list(super()._unpack_response(response, cursor_id, codec_options, user_fields, legacy_response))
        return [opened(response.raw_command_response())]


def opened(reply: bytes | memoryview) -> dict[str, Any]:
    """A reply as the driver would decode it, but for the documents of its cursor: these are one chunk, if there are any."""
    data, size = padded(reply), len(reply)
    for type_, name, cursor in elements(data, 4, size - 1):
        if (type_, name) != (DOCUMENT, b"cursor"):
            continue
        for inner, batch, at in elements(data, cursor + 4, cursor + _length(data, cursor) - 1):
            if inner == ARRAY and batch in _BATCHES:
                starts = _documents(data, at)
                rest = _decoded(_without(data, size, cursor, at - len(batch) - 2, at + _length(data, at)))
                rest["cursor"][batch.decode()] = [Chunk(data, size, starts)] if len(starts) else []
                return rest
    return _decoded(data[:size])


def _documents(data: bytes, array: int) -> Ints:
    """Where the documents of the array at `array` start."""
    find, length = data.index, _LENGTH.unpack_from
    at, end = array + 4, array + _length(data, array) - 1
    starts = []
    while at < end:
        start = find(0, at + 1) + 1
        starts.append(start)
        size = length(data, start)[0]
        if size < 5:
            break
        at = start + size
    found = np.array(starts, np.int64)
    if at != end or not _all_documents(data, array + 4, found):
        raise damaged("a batch is not a list of documents")
    return found


def _all_documents(data: bytes, first: int, starts: Ints) -> bool:
    """Whether each element of an array is a document; first: where the first element is."""
    if not len(starts):
        return True
    chunk = Chunk(data, len(data), starts)
    at = np.append(first, (starts + chunk.i4[starts])[:-1])
    return bool((chunk.u1[at] == DOCUMENT).all())


def _without(data: bytes, size: int, cursor: int, begin: int, end: int) -> bytes:
    """A reply of `size` bytes without those from `begin` to `end`, which are in the object at `cursor`."""
    rest = bytearray(data[:begin] + data[end:size])
    for at in (0, cursor):
        _LENGTH.pack_into(rest, at, _length(data, at) - (end - begin))
    return bytes(rest)


def _decoded(reply: bytes) -> dict[str, Any]:
    try:
        return dict(bson.decode(reply))
    except bson.InvalidBSON as error:
        raise damaged(f"a reply that is not BSON: {error}") from None


def _length(data: bytes, at: int) -> int:
    return int(_LENGTH.unpack_from(data, at)[0])
