"""Rows of chronochat's Postgres tables, as Arrow tables in the order of the DDL's columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.demo.columns import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Flags,
    Ints,
    Rng,
    addresses,
    day_of,
    microseconds,
    null_where,
    pick,
    some_null,
    stream,
    timestamps,
    tokens,
    uuids,
)
from lakehouse.demo.documents import Chats
from lakehouse.demo.models import MODELS
from lakehouse.demo.words import FIRST_NAMES, LANGUAGES, LAST_NAMES, THEMES, USER_AGENTS, ribbon
from lakehouse.demo.world import World

API_LOGS_PER_USER_DAY = 7.15
SESSIONS_PER_USER_DAY = 0.43
_PREFERENCES_SHARE = 0.85

# endpoint, method, share of calls, usual milliseconds
_ENDPOINTS = (
    ("/api/chat/completions", "POST", 30, 900.0),
    ("/api/chat/stream", "POST", 14, 2400.0),
    ("/api/conversations", "GET", 16, 45.0),
    ("/api/conversations/{id}", "GET", 13, 38.0),
    ("/api/conversations", "POST", 5, 60.0),
    ("/api/conversations/{id}", "DELETE", 1, 70.0),
    ("/api/messages/search", "GET", 4, 180.0),
    ("/api/users/me", "GET", 8, 18.0),
    ("/api/users/me/preferences", "PATCH", 2, 35.0),
    ("/api/usage", "GET", 3, 85.0),
    ("/api/files", "POST", 2, 650.0),
    ("/api/health", "GET", 2, 2.5),
)
_STATUSES = (200, 201, 204, 400, 401, 404, 409, 422, 429, 500, 502, 503)
_USUAL = (90.5, 4.0, 1.5, 0.8, 0.7, 0.9, 0.1, 0.3, 0.5, 0.4, 0.1, 0.2)
_INCIDENT = (60.0, 3.0, 1.0, 0.8, 0.7, 0.9, 0.1, 0.3, 6.0, 12.0, 6.0, 9.2)
_ERRORS = {
    400: "Bad request: field \"messages\" must not be empty",
    401: "Session expired",
    404: "Conversation not found",
    409: "Conflict: conversation was archived meanwhile",
    422: "Unprocessable: content exceeds 32,000 characters – please shorten it",
    429: "Rate limit exceeded; retry after 20s",
    500: "Internal error",
    502: "Upstream provider closed the connection",
    503: "Upstream provider overloaded",
}  # fmt: skip


@dataclass(frozen=True)
class Sessions:
    """Visits: the user, and when each began, was last active and ended (0: open or abandoned), in microseconds."""

    users: Ints
    started: Ints
    active: Ints
    ended: Ints


def incident(world: World, day_start: int) -> tuple[int, int] | None:
    """The span in which the providers were in trouble, on about one day in seven."""
    rng = stream(world.plan.seed, "incident", day_start // DAY)
    if rng.random() > 1 / 7:
        return None
    low = day_start + int(rng.integers(7 * HOUR, 20 * HOUR))
    return low, low + int(rng.integers(20 * MINUTE, 100 * MINUTE))


def api_logs(rng: Rng, world: World, users: Ints, us: Ints) -> pa.Table:
    """API calls of those users at those moments; one in forty without a sign-in."""
    rows = len(us)
    which = rng.choice(len(_ENDPOINTS), rows, p=np.array([e[2] for e in _ENDPOINTS]) / 100.0)
    troubled = np.zeros(rows, dtype=np.bool_)
    for day in np.unique(us // DAY).tolist():
        span = incident(world, day * DAY)
        if span is not None:
            troubled |= (us >= span[0]) & (us < span[1])
    statuses = np.array(_STATUSES, dtype=np.int32)
    usual = statuses[rng.choice(len(statuses), rows, p=np.array(_USUAL) / sum(_USUAL))]
    bad = statuses[rng.choice(len(statuses), rows, p=np.array(_INCIDENT) / sum(_INCIDENT))]
    status = np.where(troubled, bad, usual)
    slow = np.array([e[3] for e in _ENDPOINTS])[which] * np.where(troubled, 4.0, 1.0)
    milliseconds = slow * rng.lognormal(0.0, 0.55, rows)
    # Clients round what they measure, except where the answer was streamed.
    milliseconds = np.where(which == 1, milliseconds, np.round(milliseconds, 3))
    which_array = pa.array(which)
    return pa.table(
        {
            "id": uuids(rng, rows),
            "clerk_user_id": some_null(rng, world.clerk_ids.take(pa.array(users)), 0.025),
            "endpoint": pa.array([e[0] for e in _ENDPOINTS]).take(which_array),
            "method": pa.array([e[1] for e in _ENDPOINTS]).take(which_array),
            "status_code": pa.array(status),
            "response_time_ms": pa.array(milliseconds),
            "ip_address": some_null(rng, addresses(rng, rows), 0.01),
            "user_agent": some_null(rng, pick(rng, USER_AGENTS, rows), 0.02),
            "error_message": _error_messages(rng, status),
            "created_at": timestamps(us),
        }
    )


def _error_messages(rng: Rng, status: Ints) -> pa.Array:
    texts: list[str | None] = [_ERRORS.get(code) for code in _STATUSES]
    places = np.searchsorted(np.array(_STATUSES), status)
    chosen = pa.array(texts, pa.string()).take(pa.array(places))
    # Now and then a server error brings a whole trace.
    traced = np.flatnonzero((status >= 500) & (rng.random(len(status)) < 0.04))
    if len(traced) == 0:
        return chosen
    runs = ribbon().runs(rng.integers(0, 5000, len(traced)), rng.integers(40, 250, len(traced)))
    mask = np.zeros(len(status), dtype=np.bool_)
    mask[traced] = True
    return pc.replace_with_mask(chosen, pa.array(mask), pa.array(["Traceback\n" + text for text in runs]))


def all_api_logs(world: World, total: int) -> Iterator[pa.Table]:
    """API calls of the whole plan, day by day."""
    for number in range(world.plan.days):
        rng = stream(world.plan.seed, "api_logs", number)
        start = world.day_start(number)
        users, us = world.events(rng, world.count_on(number, total), start, start + DAY)
        yield api_logs(rng, world, users, us)


def plan_sessions(rng: Rng, users: Ints, us: Ints, end: int) -> Sessions:
    """Visits that begin at those moments, as they stand at `end`: some still open, some left without a goodbye."""
    length = (np.exp(rng.normal(np.log(8.0), 1.1, len(us))) * MINUTE).astype(np.int64) + SECOND
    active = np.minimum(us + length, end - 1)
    closed = (us + length < end) & (rng.random(len(us)) > 0.07)
    ended = np.where(closed, np.minimum(active + rng.integers(0, 30, len(us)) * SECOND, end - 1), 0)
    return Sessions(users, us, np.where(closed, np.maximum(active, ended), active), ended)


def all_sessions(world: World) -> Sessions:
    """Visits of the whole plan."""
    parts = []
    total = world.plan.total(SESSIONS_PER_USER_DAY)
    for number in range(world.plan.days):
        rng = stream(world.plan.seed, "sessions", number)
        start = world.day_start(number)
        users, us = world.events(rng, world.count_on(number, total), start, start + DAY)
        parts.append(plan_sessions(rng, users, us, world.plan.end))
    return Sessions(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("users", "started", "active", "ended")))


def user_sessions(rng: Rng, world: World, sessions: Sessions) -> pa.Table:
    """Rows of `user_sessions`."""
    rows = len(sessions.started)
    devices = pick(rng, ("desktop", "mobile", "tablet", None), rows, (58, 34, 6, 2))
    return pa.table(
        {
            "id": uuids(rng, rows),
            "clerk_user_id": world.clerk_ids.take(pa.array(sessions.users)),
            "session_id": tokens(rng, rows, "sess_"),
            "ip_address": some_null(rng, addresses(rng, rows), 0.01),
            "user_agent": some_null(rng, pick(rng, USER_AGENTS, rows), 0.02),
            "device_type": devices,
            "started_at": timestamps(sessions.started),
            "last_activity_at": timestamps(sessions.active),
            "ended_at": null_where(timestamps(sessions.ended), sessions.ended == 0),
            "metadata": pa.array(_session_metadata(rng, rows), pa.string()),
        }
    )


def _session_metadata(rng: Rng, rows: int) -> list[str | None]:
    shape = rng.integers(0, 6, rows).tolist()
    number = rng.integers(0, 4000, rows).tolist()
    result: list[str | None] = []
    for kind, value in zip(shape, number, strict=True):
        if kind == 0:
            result.append(None)
        elif kind == 1:
            result.append("{}")
        elif kind == 2:
            result.append(json.dumps({"screen": {"w": 800 + value, "h": 600 + value % 900}, "dpr": 1 + value % 3}))
        elif kind == 3:
            result.append(json.dumps({"referrer": None if value % 3 else f"https://example.org/blog/{value}?q=ü", "utm": []}))
        elif kind == 4:
            result.append(json.dumps({"experiments": [f"exp-{value % 7}", {"arm": "ab"[value % 2], "share": value / 4000}]}))
        else:
            result.append(json.dumps({"ttl": value, "offline": value % 2 == 0, "note": "ça va 👋"}, ensure_ascii=False))
    return result


def users(rng: Rng, clerk_ids: pa.Array, created: Ints, last_login: Ints) -> pa.Table:
    """Rows of `users`; a last login of 0 means never. A login is what moves `updated_at`."""
    rows = len(created)
    first = rng.integers(0, len(FIRST_NAMES), rows)
    last = rng.integers(0, len(LAST_NAMES), rows)
    numbers = rng.integers(1, 10_000, rows).tolist()
    given = [FIRST_NAMES[index] for index in first.tolist()]
    family = [LAST_NAMES[index] for index in last.tolist()]
    handle = [f"{a}.{b}{n}".lower().replace(" ", "") for a, b, n in zip(given, family, numbers, strict=True)]
    images = [f"https://img.example.org/{number}.webp" for number in numbers]
    updated = np.maximum(created, last_login)
    return pa.table(
        {
            "id": uuids(rng, rows),
            "clerk_user_id": clerk_ids,
            "email": some_null(rng, pa.array([f"{name}@example.org" for name in handle], pa.string()), 0.01),
            "username": some_null(rng, pa.array(handle, pa.string()), 0.2),
            "first_name": some_null(rng, pa.array(given, pa.string()), 0.02),
            "last_name": some_null(rng, pa.array(family, pa.string()), 0.12),
            "profile_image_url": some_null(rng, pa.array(images, pa.string()), 0.4),
            "subscription_tier": pick(rng, ("free", "pro", "enterprise"), rows, (82, 15, 3)),
            "is_active": pa.array(rng.random(rows) > 0.03),
            "created_at": timestamps(created),
            "updated_at": timestamps(updated),
            "last_login_at": null_where(timestamps(last_login), last_login == 0),
            "metadata": pa.array(_user_metadata(rng, rows), pa.string()),
        }
    )  # fmt: skip


def _user_metadata(rng: Rng, rows: int) -> list[str]:
    shape = rng.integers(0, 5, rows).tolist()
    number = rng.integers(0, 1000, rows).tolist()
    result = []
    for kind, value in zip(shape, number, strict=True):
        found: dict[str, object] = {}
        if kind in (1, 3):
            found["campaign"] = {"source": ("ads", "友達", "newsletter")[value % 3], "id": value if value % 2 else str(value)}
        if kind in (2, 3):
            found["flags"] = [f"f{value % 5}", value % 2 == 0, None]
        if kind == 4:
            found = {"locale": LANGUAGES[value % len(LANGUAGES)], "score": value / 7, "nested": {"deep": {"er": [[], {}]}}}
        result.append(json.dumps(found, ensure_ascii=False))
    return result


def all_users(world: World, sessions: Sessions) -> pa.Table:
    """Rows of `users` of the whole plan."""
    last_login = np.zeros(world.plan.users, dtype=np.int64)
    np.maximum.at(last_login, sessions.users, sessions.started)
    return users(stream(world.plan.seed, "users"), world.clerk_ids, world.created, last_login)


def user_preferences(rng: Rng, clerk_ids: pa.Array, openai: Flags, created: Ints, updated: Ints) -> pa.Table:
    """Rows of `user_preferences`."""
    rows = len(clerk_ids)
    numbers = rng.integers(0, 1000, rows).tolist()
    extra = [
        json.dumps({"shortcuts": {"send": "ctrl+enter"} if n % 3 else None, "pinned": [f"conv-{n}"] * (n % 4), "größe": n / 10})
        for n in numbers
    ]
    provider = np.where(openai, "openai", "gemini").tolist()
    models = [None if n % 5 == 0 else MODELS[p][n % len(MODELS[p])] for n, p in zip(numbers, provider, strict=True)]
    return pa.table(
        {
            "id": uuids(rng, rows),
            "clerk_user_id": clerk_ids,
            "preferred_ai_provider": pa.array(provider, pa.string()),
            "preferred_model": pa.array(models, pa.string()),
            "temperature": some_null(rng, pa.array(np.round(rng.random(rows) * 2.0, 2)), 0.2),
            "chat_theme": pick(rng, (*THEMES, None), rows),
            "language": pick(rng, LANGUAGES, rows, (45, 12, 10, 8, 8, 7, 5, 3, 2)),
            "email_notifications": pa.array(rng.random(rows) < 0.6),
            "preferences": pa.array(extra, pa.string()),
            "created_at": timestamps(created),
            "updated_at": timestamps(updated),
        }
    )


def all_preferences(world: World) -> pa.Table:
    """Rows of `user_preferences` of the whole plan: of those users who have opened the settings page."""
    rng = stream(world.plan.seed, "preferences")
    who = np.flatnonzero(rng.random(world.plan.users) < _PREFERENCES_SHARE)
    room = world.plan.end - 1 - world.created[who]
    created = world.created[who] + (rng.random(len(who)) ** 6 * room).astype(np.int64)
    updated = created + (rng.random(len(who)) ** 3 * (world.plan.end - 1 - created)).astype(np.int64)
    return user_preferences(rng, world.clerk_ids.take(pa.array(who)), world.prefers_openai[who], created, updated)


def all_usage(world: World, chats: Chats) -> pa.Table:
    """Rows of `user_usage_stats` of the whole plan: counters of the generated messages, over a history before them."""
    rng = stream(world.plan.seed, "usage")
    said = chats.messages
    owners = chats.users[said.conversation]
    total_messages = rng.geometric(0.02, world.plan.users).astype(np.int64)
    total_messages[world.created >= world.day_start(0)] = 0
    total_tokens = total_messages * rng.integers(60, 200, world.plan.users)
    total_conversations = total_messages // 9
    parts = []
    for month, (low, high) in _months(world).items():
        inside = (said.created >= low) & (said.created < high)
        begun = (chats.created >= low) & (chats.created < high)
        messages = np.bincount(owners[inside], minlength=world.plan.users)
        tokens_used = np.bincount(owners[inside], said.tokens[inside], minlength=world.plan.users).astype(np.int64)
        last = np.zeros(world.plan.users, dtype=np.int64)
        np.maximum.at(last, owners[inside], said.created[inside])
        if high <= world.day_start(0):
            messages, tokens_used = total_messages, total_tokens
        else:
            total_messages = total_messages + messages
            total_tokens = total_tokens + tokens_used
        total_conversations = total_conversations + np.bincount(chats.users[begun], minlength=world.plan.users)
        who = np.flatnonzero((world.created < high) & ((messages > 0) | (world.created >= low)))
        created = np.maximum(low, world.created[who]) + rng.integers(0, MINUTE, len(who))
        created = np.minimum(created, min(high, world.plan.end) - 1)
        columns = (total_messages, total_conversations, total_tokens, messages, tokens_used)
        rows = usage_rows(rng, world.clerk_ids.take(pa.array(who)), [c[who] for c in columns], month, created, last[who])
        parts.append(rows)
    return pa.concat_tables(parts)


def usage_rows(rng: Rng, clerk_ids: pa.Array, counters: list[Ints], month: str, created: Ints, last: Ints) -> pa.Table:
    """Rows of `user_usage_stats` of one month; counters in the order of the DDL."""
    names = ("total_messages", "total_conversations", "total_tokens_used", "monthly_messages", "monthly_tokens")
    return pa.table(
        {
            "id": uuids(rng, len(clerk_ids)),
            "clerk_user_id": clerk_ids,
            **{name: pa.array(counter.astype(np.int32)) for name, counter in zip(names, counters, strict=True)},
            "month_year": pa.array([month] * len(clerk_ids), pa.string()),
            "created_at": timestamps(created),
            "updated_at": timestamps(np.maximum(created, last)),
        }
    )


def _months(world: World) -> dict[str, tuple[int, int]]:
    """The months of the plan and the one before, each with its span in microseconds."""
    day = (world.plan.first_day.replace(day=1) - timedelta(days=1)).replace(day=1)
    months = {}
    while microseconds(day) < world.plan.end:
        following = (day + timedelta(days=32)).replace(day=1)
        months[month_of(day)] = (microseconds(day), microseconds(following))
        day = following
    return months


def month_of(day: date) -> str:
    """A month as the application writes it: `2025-11`."""
    return f"{day:%Y-%m}"


def days_of(us: Ints) -> set[date]:
    """The UTC days of some moments."""
    return {day_of(number * DAY) for number in np.unique(us // DAY).tolist()}
