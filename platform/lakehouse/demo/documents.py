"""Documents of chronochat's MongoDB collections: first the skeleton of all chats as vectors, then BSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import bson
import numpy as np
import numpy.typing as npt
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument

from lakehouse.demo.columns import DAY, HOUR, SECOND, Bytes, Flags, Ints, Rng, random_bytes, stream
from lakehouse.demo.models import MODELS, OFFERED
from lakehouse.demo.words import TAGS, ribbon
from lakehouse.demo.world import World

CONVERSATIONS_PER_USER_DAY = 0.365
ROLES = ("user", "assistant", "system")
MILLISECOND = 1000
_NO_MODEL = len(OFFERED)
_LONG_SHARE = 0.002


@dataclass(frozen=True)
class Messages:
    """Messages as vectors, in the order of time; times in microseconds, whole milliseconds as BSON has them.

    conversation: place in `names`. role: in ROLES. model: in OFFERED, or one more for none. first and length: the text, as a run
    of the ribbon's sentences. ids: object ids, 12 bytes each.
    """

    names: list[str]
    conversation: Ints
    created: Ints
    role: Ints
    model: Ints
    first: Ints
    length: Ints
    tokens: Ints
    ids: Bytes


@dataclass(frozen=True)
class Chats:
    """Conversations as vectors, in the order in which they began, and their messages; times as in Messages."""

    users: Ints
    created: Ints
    updated: Ints
    archived: Flags
    counts: Ints
    tokens: Ints
    names: list[str]
    ids: Bytes
    messages: Messages


def plan_chats(rng: Rng, world: World, users: Ints, us: Ints, end: int) -> Chats:
    """Conversations that begin at those moments, with all their messages before `end`."""
    begun = us // MILLISECOND * MILLISECOND
    wanted = np.clip(rng.lognormal(1.98, 0.78, len(us)), 1, 160).astype(np.int64) + 1
    conversation = np.repeat(np.arange(len(us)), wanted)
    place = np.arange(len(conversation)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    has_system = (rng.random(len(us)) < 0.3)[conversation]
    turn = place - has_system
    role = np.where(turn < 0, 2, turn % 2)
    created = begun[conversation] + _since_start(rng, place, role, wanted)
    kept = created < end
    order = np.flatnonzero(kept)[np.argsort(created[kept], kind="stable")]
    conversation, role, created = conversation[order], role[order], created[order]
    names = [f"conv_{raw.tobytes().hex()}" for raw in random_bytes(rng, len(us), 8)]
    messages = say(rng, names, conversation, created, role, models_of(rng, world, users)[conversation])
    last = np.zeros(len(us), dtype=np.int64)
    np.maximum.at(last, conversation, created)
    archived = rng.random(len(us)) < 0.04
    tidied = last + rng.integers(1, 48, len(us)) * HOUR
    archived &= tidied < end
    return Chats(
        users=users,
        created=begun,
        updated=np.where(archived, tidied, last),
        archived=archived,
        counts=np.bincount(conversation, minlength=len(us)),
        tokens=np.bincount(conversation, messages.tokens, minlength=len(us)).astype(np.int64),
        names=names,
        ids=object_ids(rng, begun),
        messages=messages,
    )


def _since_start(rng: Rng, place: Ints, role: Ints, wanted: Ints) -> Ints:
    """Microseconds since the conversation began: answers within seconds, questions later, now and then the next day."""
    seconds = np.where(role == 1, rng.lognormal(1.3, 0.7, len(place)), rng.lognormal(3.6, 0.9, len(place)))
    pause = np.where(rng.random(len(place)) < 0.012, rng.random(len(place)) * 27 * 3600, 0.0)
    gap = ((seconds + pause) * 1000).astype(np.int64) * MILLISECOND
    gap[place == 0] = 0
    gap[(place == 1) & (role == 0)] = MILLISECOND
    summed: Ints = np.cumsum(gap)
    begin = np.cumsum(wanted) - wanted
    since: Ints = summed - np.repeat(summed[begin], wanted)
    return since


def models_of(rng: Rng, world: World, users: Ints) -> Ints:
    """The model of each conversation, mostly of the provider that its user prefers."""
    openai = world.prefers_openai[users] ^ (rng.random(len(users)) < 0.12)
    gemini_models, openai_models = len(MODELS["gemini"]), len(MODELS["openai"])
    of_gemini = rng.choice(gemini_models, len(users), p=[0.6, 0.28, 0.12])
    of_openai = gemini_models + rng.choice(openai_models, len(users), p=[0.5, 0.25, 0.15, 0.1])
    return np.where(openai, of_openai, of_gemini).astype(np.int64)


def say(rng: Rng, names: list[str], conversation: Ints, created: Ints, role: Ints, model: Ints) -> Messages:
    """Messages with something in them: answers longer than questions, and a few very long."""
    rows = len(created)
    length = np.where(role == 1, rng.integers(2, 9, rows), rng.integers(1, 4, rows))
    length = np.where(rng.random(rows) < _LONG_SHARE, rng.integers(60, 600, rows), length)
    first = rng.integers(0, ribbon().sentences - 1, rows)
    begin, end = ribbon().spans(first, length)
    unknown = (role == 2) | (rng.random(rows) < 0.002)
    return Messages(
        names=names,
        conversation=conversation,
        created=created,
        role=role,
        model=np.where(unknown, _NO_MODEL, model),
        first=first,
        length=length,
        tokens=np.maximum((end - begin) * 10 // 37, 1),
        ids=object_ids(rng, created),
    )


def all_chats(world: World) -> Chats:
    """The chats of the whole plan."""
    total = world.plan.total(CONVERSATIONS_PER_USER_DAY)
    parts = []
    for number in range(world.plan.days):
        start = world.day_start(number)
        rng = stream(world.plan.seed, "conversations", number)
        parts.append(world.events(rng, world.count_on(number, total), start, start + DAY))
    users, us = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return plan_chats(stream(world.plan.seed, "chats"), world, users, us, world.plan.end)


def object_ids(rng: Rng, us: Ints) -> Bytes:
    """Object ids of shape (rows, 12): seconds, five bytes of the process, a counter (BSON specification, ObjectId)."""
    raw = np.empty((len(us), 12), dtype=np.uint8)
    raw[:, :4] = (us // SECOND).astype(">u4").view(np.uint8).reshape(-1, 4)
    raw[:, 4:9] = random_bytes(rng, 1, 5)
    counter = (int(rng.integers(0, 1 << 24)) + np.arange(len(us))) % (1 << 24)
    raw[:, 9:] = counter.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    return raw


def datetimes(us: Ints) -> list[Any]:
    """Microseconds as naive UTC datetimes, the form that BSON encodes fastest."""
    values: npt.NDArray[np.datetime64] = (us // MILLISECOND).astype("datetime64[ms]")
    return list(values.tolist())


def conversation_documents(rng: Rng, world: World, chats: Chats) -> Iterator[RawBSONDocument]:
    """Documents of `conversations`; some fields are absent or null, and metadata has any shape."""
    rows = len(chats.users)
    text = ribbon().runs(rng.integers(0, ribbon().sentences - 1, rows), np.ones(rows, dtype=np.int64))
    summaries = ribbon().runs(rng.integers(0, ribbon().sentences - 9, rows), rng.integers(1, 8, rows))
    clerk_ids = world.clerk_ids.take(chats.users).to_pylist()
    created, updated = datetimes(chats.created), datetimes(chats.updated)
    counts, tokens, archived = chats.counts.tolist(), chats.tokens.tolist(), chats.archived.tolist()
    shape = rng.integers(0, 1000, rows).tolist()
    for n in range(rows):
        kind = shape[n]
        document: dict[str, Any] = {
            "_id": ObjectId(chats.ids[n].tobytes()),
            "conversation_id": chats.names[n],
            "user_id": clerk_ids[n],
            "title": None if kind % 33 == 0 else text[n][:60],
            "summary": summaries[n] if kind % 5 < 2 else None,
            "created_at": created[n],
            "updated_at": updated[n],
            "message_count": counts[n],
            "total_tokens": tokens[n],
            "metadata": conversation_metadata(kind),
            "tags": [TAGS[(kind + step) % len(TAGS)] for step in range(kind % 4)],
            "is_archived": archived[n],
        }
        if kind % 5 == 4:
            del document["summary"]
        if kind % 40 == 1:
            del document["tags"]
        yield RawBSONDocument(bson.encode(document))


def conversation_metadata(kind: int) -> dict[str, Any]:
    """Metadata of any shape, by a number from 0 to 999."""
    if kind % 4 == 0:
        return {}
    if kind % 4 == 1:
        return {"source": "web", "folder": None if kind % 8 == 1 else f"Ordner {kind % 12}"}
    if kind % 4 == 2:
        return {"source": "mobile", "client": {"version": [4, kind % 9], "beta": kind % 3 == 0}, "score": kind / 8}
    return {"imported": True, "from": {"app": "旧アプリ", "ids": [kind, str(kind), {"legacy": kind}]}, "score": kind}


def message_documents(rng: Rng, messages: Messages, low: int, high: int) -> list[RawBSONDocument]:
    """Documents of messages number `low` to `high`."""
    part = slice(low, high)
    content = ribbon().runs(messages.first[part], messages.length[part])
    created = datetimes(messages.created[part])
    shape = rng.integers(0, 1000, len(content)).tolist()
    names, ids = messages.names, messages.ids[part].tobytes()
    found = []
    columns = zip(
        messages.conversation[part].tolist(),
        messages.role[part].tolist(),
        messages.model[part].tolist(),
        messages.tokens[part].tolist(),
        shape,
        strict=True,
    )
    for n, (conversation, role, model, tokens, kind) in enumerate(columns):
        document: dict[str, Any] = {
            "_id": ObjectId(ids[12 * n : 12 * n + 12]),
            "conversation_id": names[conversation],
            "role": ROLES[role],
            "content": content[n],
            "created_at": created[n],
        }
        if model != _NO_MODEL:
            document["provider"], document["model"] = OFFERED[model]
        elif kind % 2:
            document["model"] = None
        document["tokens"] = tokens
        metadata = message_metadata(kind)
        if metadata is not None:
            document["metadata"] = metadata
        found.append(RawBSONDocument(bson.encode(document)))
    return found


def message_metadata(kind: int) -> dict[str, Any] | None:
    """Metadata of any shape, or none, by a number from 0 to 999."""
    if kind < 450:
        return None
    if kind < 600:
        return {"latency_ms": kind if kind % 2 else kind + 0.5}
    if kind < 700:
        return {"attachments": [{"name": f"résumé {kind}.pdf", "bytes": kind * 1_000_003}], "latency_ms": None}
    if kind < 800:
        return {"client": {"os": "iOS", "flags": {"dark": True, "size": kind}}, "rating": "👍" if kind % 2 else -1}
    if kind < 990:
        return {}
    return {"trace": [[kind, [str(kind)]], {"span": {"id": f"{kind:08x}", "parent": None}}], "latency_ms": str(kind)}
