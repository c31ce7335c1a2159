"""A whole collection in ranges of its `_id`, to be read at the same time.

Most collections have ObjectIds, which begin with the second in which they were made. A comparison matches values of its own type
only; so the ranges hold all ObjectIds, and one more condition holds all that are something else.
"""

from __future__ import annotations

from typing import Any

from bson import ObjectId
from pymongo.client_session import ClientSession

from lakehouse.sources.mongodb.extent import Documents

_LAST = 2**96 - 1
_OBJECT_IDS = {"_id": {"$type": "objectId"}}
_OTHERS = {"_id": {"$not": {"$type": "objectId"}}}
_WITHOUT_ID_INDEX = ("viewOn", "timeseries", "clusteredIndex")


def id_ranges(documents: Documents, parts: int, least: int, session: ClientSession | None = None) -> list[dict[str, Any]]:
    """Conditions that hold each document once, `parts` of them closed ranges of `_id`; one for all where ranges would not pay.

    They do not for fewer documents than `least`, without an index on `_id` (a view), and without ObjectIds.
    """
    options = documents.options()
    if any(name in options for name in _WITHOUT_ID_INDEX) or documents.estimated_document_count() < least:
        return [{}]
    first, last = (_end(documents, direction, session) for direction in (1, -1))
    if first is None or last is None:
        return [{}]
    ranges = split(0, _LAST, (first, last), parts)
    return [*({"_id": {"$gte": _object_id(low), "$lte": _object_id(high)}} for low, high in ranges), _OTHERS]


def split(low: int, high: int, inner: tuple[int, int], parts: int) -> list[tuple[int, int]]:
    """`low` to `high`, both included, in at most `parts` ranges that follow each other and are even within `inner`."""
    first, last = max(low, inner[0]), min(high, inner[1])
    if parts < 2 or last - first < parts:
        return [(low, high)]
    cuts = [first + (last - first) * part // parts for part in range(1, parts)]
    return list(zip([low, *cuts], [*(cut - 1 for cut in cuts), high], strict=True))


def _end(documents: Documents, direction: int, session: ClientSession | None) -> int | None:
    found = documents.find(_OBJECT_IDS, {"_id": 1}, session=session).sort("_id", direction).limit(1)
    return next((int.from_bytes(document["_id"].binary, "big") for document in found), None)


def _object_id(number: int) -> ObjectId:
    return ObjectId(number.to_bytes(12, "big"))
