"""What happens to the chats in one hour after the load: decided from the seed and the hour's number alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from lakehouse.demo.columns import HOUR, MINUTE, Ints, moment, stream
from lakehouse.demo.documents import CONVERSATIONS_PER_USER_DAY, MILLISECOND, Chats, Messages, models_of, plan_chats, say
from lakehouse.demo.world import World

LATE_HOURS = 3
_LATE_MESSAGES = 3


@dataclass(frozen=True)
class Hour:
    """One simulated hour: its number, counted from 1, and its span `[start, end)` in microseconds since 1970."""

    number: int
    start: int
    end: int

    @classmethod
    def after(cls, until: int, number: int) -> Hour:
        """Hour `number` after midnight `until`."""
        return cls(number, until + (number - 1) * HOUR, until + number * HOUR)

    @property
    def span(self) -> tuple[datetime, datetime]:
        """The span in UTC."""
        return moment(self.start), moment(self.end)


@dataclass(frozen=True)
class ChatHour:
    """Changes to conversations and messages.

    begun: new conversations with their messages. replies: messages of loaded conversations, the last `late` of which have times
    before the hour. grown: place of each loaded conversation that they belong to. updated: its new time of change.
    deleted, archived: places of loaded conversations, or None when none is left.
    """

    begun: Chats
    replies: Messages
    late: int
    grown: Ints
    updated: Ints
    deleted: int | None
    archived: int | None


def chat_hour(world: World, chats: Chats, hour: Hour) -> ChatHour:
    """Decide the hour; `chats` are those of the load."""
    rng = stream(world.plan.seed, "tick", hour.number, "chats")
    total = world.plan.total(CONVERSATIONS_PER_USER_DAY)
    users, us = world.events(rng, world.hourly(total, hour.start), hour.start, hour.end)
    begun = plan_chats(rng, world, users, us, hour.end)

    # One order for all hours: conversations are deleted from its front, archived from its back, and the rest go on.
    order = stream(world.plan.seed, "fates").permutation(len(chats.users))
    gone, tidied = order[: hour.number], order[::-1][: hour.number]
    deleted = int(gone[-1]) if hour.number <= len(order) // 3 else None
    archived = int(tidied[-1]) if hour.number <= len(order) // 3 else None
    alive = np.setdiff1d(order, np.concatenate([gone, tidied]))
    grown = rng.permutation(alive[-200:])[: max(1, len(us) // 2)]

    late = min(_LATE_MESSAGES, len(grown))
    at = np.sort(rng.integers(hour.start, hour.end - MINUTE, len(grown)))
    asked = at // MILLISECOND * MILLISECOND
    answered = asked + rng.integers(2_000, 20_000, len(grown)) * MILLISECOND
    before = hour.start - rng.integers(10 * MINUTE, LATE_HOURS * HOUR, late) // MILLISECOND * MILLISECOND
    created = np.concatenate([np.column_stack([asked, answered]).ravel(), before])
    place = np.concatenate([np.repeat(np.arange(len(grown)), 2), np.arange(late)])
    role = np.concatenate([np.tile([0, 1], len(grown)), np.ones(late, dtype=np.int64)])
    models = models_of(rng, world, chats.users[grown])
    replies = say(rng, [chats.names[index] for index in grown.tolist()], place, created, role, models[place])
    return ChatHour(begun, replies, late, grown, answered, deleted, archived)
