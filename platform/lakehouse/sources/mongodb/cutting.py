"""Take fields out of many BSON documents at once: what is personal is not in the document that is kept."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lakehouse.sources.mongodb import bson_scan
from lakehouse.sources.mongodb.bson_scan import Chunk, Ints, after_value, checked_ends, padded
from lakehouse.sources.mongodb.lockstep import find_fields

Path = tuple[str, ...]


def shortest(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The paths without those that lie under another one."""
    every = set(paths)
    return tuple(sorted(path for path in every if not any(path[:depth] in every for depth in range(1, len(path)))))


def without(chunk: Chunk, paths: Iterable[Path]) -> Chunk:
    """The documents of a chunk, one after the other, without the fields at `paths`, everything else byte for byte.

    A path goes through objects only: what a list holds stays (a server that leaves a field out leaves it out of lists too).
    RepeatedField for a document that has a name of a path twice, DamagedData.
    """
    data = bytearray(chunk.data[: chunk.size])
    lengths = np.ndarray((max(0, chunk.size - 3),), "<i4", data, strides=(1,))
    edges = np.zeros(chunk.size + 1, np.int8)
    edges[0] = 1  # what is around the documents goes, too
    edges[chunk.starts] -= 1
    edges[checked_ends(chunk, chunk.starts) + 1] += 1
    for path in shortest(paths):
        at, around = chunk.starts, [chunk.starts]
        for name in path[:-1]:
            found = find_fields(chunk, at, [name])
            inside = found.types[0] == bson_scan.DOCUMENT
            at = found.positions[0][inside]
            around = [*(outer[inside] for outer in around), at]
        found = find_fields(chunk, at, [path[-1]])
        hit = found.types[0] != bson_scan.ABSENT
        if not hit.any():
            continue
        types, values = found.types[0][hit], found.positions[0][hit]
        begins = values - len(path[-1].encode()) - 2
        ends = after_value(chunk, types, values, np.full(len(values), chunk.size))
        edges[begins] += 1
        edges[ends] -= 1
        for outer in around:
            lengths[outer[hit]] -= (ends - begins).astype(np.int32)
    kept = np.cumsum(edges[:-1], dtype=np.int8) == 0
    documents = np.frombuffer(data, np.uint8)[kept].tobytes()
    starts: Ints = np.zeros(len(chunk.starts), np.int64)
    np.cumsum(lengths[chunk.starts][:-1], out=starts[1:])
    return Chunk(padded(documents), len(documents), starts)
