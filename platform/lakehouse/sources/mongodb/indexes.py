"""Whether a range of a field is read by an index. Without one each window costs a scan of the collection."""

from __future__ import annotations

from typing import Any

from pymongo.errors import OperationFailure

from lakehouse.sources.mongodb.extent import Documents

_VIEW = 166
"""CommandNotSupportedOnView."""


def has_index(documents: Documents, path: str) -> bool:
    """Whether an index leads with the field at `path`; True where that cannot be known: a view, a missing collection.

    One that leaves documents out (partial, sparse) or is hidden does not count: the server may not use it for a range.
    """
    try:
        found: list[dict[str, Any]] = [dict(index) for index in documents.list_indexes()]
    except OperationFailure as error:
        if error.code == _VIEW:
            return True
        raise
    return not found or any(
        next(iter(index["key"].items()), ("", 0))[0] == path
        and index["key"][path] in (1, -1)
        and not (index.get("hidden") or index.get("sparse") or "partialFilterExpression" in index)
        for index in found
    )
