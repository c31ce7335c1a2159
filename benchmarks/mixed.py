"""Documents of mixed shape, the same ones every time: some fields absent or null, numbers of three types, objects and lists."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from bson.int64 import Int64
from bson.objectid import ObjectId

FIRST = datetime(2025, 1, 1, tzinfo=UTC)


def documents(count: int) -> Iterator[dict[str, Any]]:
    """About 420 bytes each; one in ninety has a field of another type, which only a whole document holds."""
    rng = random.Random(7)
    for number in range(count):
        document: dict[str, Any] = {
            "_id": ObjectId(rng.randbytes(12)),
            "created_at": FIRST + timedelta(seconds=number),
            "user": f"user_{rng.getrandbits(32):08x}",
            "kind": rng.choice(["view", "click", "purchase"]),
            "count": rng.choice([number, Int64(number << 33)]),
            "score": rng.random() if rng.random() < 0.8 else number,
            "active": rng.random() < 0.5,
            "profile": {"city": rng.choice(["Praha", "東京", "Lima"]), "age": rng.randrange(90)},
            "tags": [rng.choice(["a", "bb", "ccc"]) for _ in range(rng.randrange(5))],
            "note": rng.randbytes(80).hex(),
            "odd": number if number % 90 else str(number),
        }
        if number % 7 == 0:
            del document["profile"]
        if number % 11 == 0:
            document["user"] = None
        yield document
