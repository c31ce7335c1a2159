"""One hour of life in chronochat's Postgres tables: one transaction, and another that began before it and commits after it."""

from __future__ import annotations

from datetime import UTC, date
from typing import Any

import numpy as np
import pyarrow as pa

from lakehouse.demo import databases, relational
from lakehouse.demo.columns import HOUR, MINUTE, SECOND, Ints, Rng, day_of, moment, stream, tokens
from lakehouse.demo.databases import Connection, copy_in
from lakehouse.demo.hour import LATE_HOURS, ChatHour, Hour
from lakehouse.demo.relational import days_of, month_of
from lakehouse.demo.report import Changes
from lakehouse.demo.world import World
from lakehouse.settings import Settings

_LATE_LOGS = 4
_NEW_USERS_PER_USER_DAY = 0.02

_LOGIN = """
update users set last_login_at = v.at, updated_at = v.at
from unnest(%s::text[], %s::timestamptz[]) as v (who, at)
where clerk_user_id = v.who and updated_at < v.at returning created_at"""

# Rows are chosen by a hash of their key and the hour's number: as good as chance, and the same every time.
_CHANGE_TIER = """
update users set subscription_tier = case subscription_tier when 'free' then 'pro' when 'pro' then 'enterprise' else 'free' end,
  updated_at = %(at)s
where id = (select id from users where is_active and updated_at < %(at)s order by md5(id::text || %(number)s || 'tier') limit 1)
returning created_at"""
_CLOSE_ACCOUNT = """
update users set is_active = false, updated_at = %(at)s
where id = (select id from users where is_active and updated_at < %(at)s order by md5(id::text || %(number)s || 'close') limit 1)
returning created_at"""
_END_SESSIONS = """
update user_sessions set last_activity_at = %(at)s, ended_at = %(at)s
where id in (select id from user_sessions where ended_at is null and started_at < %(start)s order by started_at desc, id limit 4)
returning started_at"""
_TOUCH_SESSION = """
update user_sessions set last_activity_at = %(at)s
where id in (select id from user_sessions where ended_at is null and last_activity_at < %(start)s
  order by started_at desc, id limit 2)
returning started_at"""
_DELETE_SESSION = """
delete from user_sessions where id = (select id from user_sessions where started_at < %(start)s
  order by md5(id::text || %(number)s) limit 1)
returning started_at"""
_CHANGE_PREFERENCES = """
update user_preferences set chat_theme = 'dark', temperature = null, updated_at = %(at)s
where id = (select id from user_preferences where updated_at < %(start)s order by md5(id::text || %(number)s || 'change') limit 1)
returning created_at"""
_DELETE_PREFERENCES = """
delete from user_preferences where id = (select id from user_preferences where created_at < %(start)s
  order by md5(id::text || %(number)s) limit 1)
returning created_at"""
_COUNT_USAGE = """
update user_usage_stats u set total_messages = u.total_messages + n.monthly_messages,
  total_conversations = u.total_conversations + n.total_conversations,
  total_tokens_used = u.total_tokens_used + n.monthly_tokens, monthly_messages = u.monthly_messages + n.monthly_messages,
  monthly_tokens = u.monthly_tokens + n.monthly_tokens, updated_at = greatest(u.updated_at, n.updated_at)
from new_usage n where (u.clerk_user_id, u.month_year) = (n.clerk_user_id, n.month_year)
returning u.created_at"""
_BEGIN_USAGE = """
insert into user_usage_stats
select n.id, n.clerk_user_id, n.monthly_messages + coalesce(p.total_messages, 0),
  n.total_conversations + coalesce(p.total_conversations, 0), n.monthly_tokens + coalesce(p.total_tokens_used, 0),
  n.monthly_messages, n.monthly_tokens, n.month_year, n.created_at, n.updated_at
from new_usage n left join lateral (select * from user_usage_stats u where u.clerk_user_id = n.clerk_user_id
  order by u.month_year desc limit 1) p on true
where not exists (select from user_usage_stats u where (u.clerk_user_id, u.month_year) = (n.clerk_user_id, n.month_year))
returning created_at"""


def commit_hour(
    settings: Settings,
    connection: Connection,
    world: World,
    hour: Hour,
    happening: ChatHour,
    changes: dict[str, Changes],
    *,
    only_late: bool,
) -> None:
    """Commit the hour in two transactions, of which the late one began first and ends last.

    only_late: the other one was committed by a tick that was killed before it came to the late one.
    """
    with databases.postgres(settings) as late:
        _write_late(late, world, hour, changes)
        if not only_late:
            _write_hour(connection, world, hour, happening, changes)
            connection.commit()
        late.execute("update demo.state set late_ticks = %s", (hour.number,))
        late.commit()


def _write_late(connection: Connection, world: World, hour: Hour, changes: dict[str, Changes]) -> None:
    """API calls of the hours before, and a visit that began and ended then."""
    rng = stream(world.plan.seed, "tick", hour.number, "late")
    low = hour.start - LATE_HOURS * HOUR
    users, us = world.events(rng, _LATE_LOGS, low, hour.start)
    _insert(connection, "api_logs", relational.api_logs(rng, world, users, us), us, changes, late=True)
    users, us = world.events(rng, 1, low, hour.start)
    sessions = relational.plan_sessions(rng, users, us, hour.start)
    _insert(connection, "user_sessions", relational.user_sessions(rng, world, sessions), us, changes, late=True)


def _write_hour(connection: Connection, world: World, hour: Hour, happening: ChatHour, changes: dict[str, Changes]) -> None:
    rng = stream(world.plan.seed, "tick", hour.number, "rows")
    plan = world.plan
    calls = plan.api_logs or plan.total(relational.API_LOGS_PER_USER_DAY)
    users, us = world.events(rng, world.hourly(calls, hour.start), hour.start, hour.end)
    _insert(connection, "api_logs", relational.api_logs(rng, world, users, us), us, changes)

    arguments = {"at": moment(hour.end - MINUTE), "start": moment(hour.start), "number": hour.number}
    _write_sessions(connection, rng, world, hour, arguments, changes)
    _write_users(connection, rng, world, hour, arguments, changes)
    _write_usage(connection, rng, world, hour, happening, changes)
    _update(connection, "user_preferences", _CHANGE_PREFERENCES, arguments, changes)
    _delete(connection, "user_preferences", _DELETE_PREFERENCES, arguments, changes)
    connection.execute("update demo.state set ticks = %s", (hour.number,))


def _write_sessions(
    connection: Connection, rng: Rng, world: World, hour: Hour, arguments: dict[str, Any], changes: dict[str, Changes]
) -> None:
    """Visits begin, and their users have signed in; others go on, end, or are removed."""
    total = world.plan.total(relational.SESSIONS_PER_USER_DAY)
    users, us = world.events(rng, world.hourly(total, hour.start), hour.start, hour.end)
    sessions = relational.plan_sessions(rng, users, us, hour.end)
    _update(connection, "user_sessions", _END_SESSIONS, arguments, changes)
    _update(connection, "user_sessions", _TOUCH_SESSION, arguments, changes)
    _delete(connection, "user_sessions", _DELETE_SESSION, arguments, changes)
    _insert(connection, "user_sessions", relational.user_sessions(rng, world, sessions), us, changes)
    last = {int(user): moment(at) for user, at in zip(users, us, strict=True)}
    who = world.clerk_ids.take(pa.array(list(last), pa.int64())).to_pylist()
    _update(connection, "users", _LOGIN, (who, list(last.values())), changes)


def _write_users(
    connection: Connection, rng: Rng, world: World, hour: Hour, arguments: dict[str, Any], changes: dict[str, Changes]
) -> None:
    """People sign up and look at their settings; one pays for another plan, one closes the account."""
    rows = world.hourly(max(1, round(_NEW_USERS_PER_USER_DAY * world.plan.users * world.plan.days)), hour.start)
    created: Ints = np.sort(rng.integers(hour.start, hour.end - MINUTE, rows))
    clerk_ids = tokens(rng, rows, "user_")
    never = np.zeros(rows, dtype=np.int64)
    _insert(connection, "users", relational.users(rng, clerk_ids, created, never), created, changes)
    settled = created + rng.integers(1, 50, rows) * SECOND
    openai = rng.random(rows) < 0.5
    preferences = relational.user_preferences(rng, clerk_ids, openai, settled, settled)
    _insert(connection, "user_preferences", preferences, settled, changes)
    _update(connection, "users", _CHANGE_TIER, {**arguments, "at": moment(hour.end - 2 * SECOND)}, changes)
    _update(connection, "users", _CLOSE_ACCOUNT, {**arguments, "at": moment(hour.end - SECOND)}, changes, soft_delete=True)


def _write_usage(
    connection: Connection, rng: Rng, world: World, hour: Hour, happening: ChatHour, changes: dict[str, Changes]
) -> None:
    """The application counts the messages of the hour's new conversations."""
    begun = happening.begun
    who = np.unique(begun.users)
    if len(who) == 0:
        return
    owner = np.searchsorted(who, begun.users[begun.messages.conversation])
    messages = np.bincount(owner, minlength=len(who))
    used = np.bincount(owner, begun.messages.tokens, minlength=len(who)).astype(np.int64)
    conversations = np.bincount(np.searchsorted(who, begun.users), minlength=len(who))
    last = np.zeros(len(who), dtype=np.int64)
    np.maximum.at(last, owner, begun.messages.created)
    counters = [messages, conversations, used, messages, used]
    month = month_of(day_of(hour.start))
    rows = relational.usage_rows(rng, world.clerk_ids.take(pa.array(who)), counters, month, last, last)
    connection.execute("create temporary table new_usage (like user_usage_stats) on commit drop")
    copy_in(connection, "new_usage", rows)
    _update(connection, "user_usage_stats", _COUNT_USAGE, None, changes)
    found = connection.execute(_BEGIN_USAGE).fetchall()
    changes["user_usage_stats"].inserted += len(found)
    changes["user_usage_stats"].days |= _days(found)


def _insert(
    connection: Connection, name: str, rows: pa.Table, us: Ints, changes: dict[str, Changes], *, late: bool = False
) -> None:
    copy_in(connection, name, rows)
    changes[name].inserted += rows.num_rows
    changes[name].late += rows.num_rows if late else 0
    changes[name].days |= days_of(us)


def _update(
    connection: Connection, name: str, statement: str, arguments: Any, changes: dict[str, Changes], *, soft_delete: bool = False
) -> None:
    found = connection.execute(statement.encode(), arguments).fetchall()
    changes[name].updated += len(found)
    changes[name].soft_deleted += len(found) if soft_delete else 0
    changes[name].days |= _days(found)


def _delete(connection: Connection, name: str, statement: str, arguments: Any, changes: dict[str, Changes]) -> None:
    found = connection.execute(statement.encode(), arguments).fetchall()
    changes[name].hard_deleted += len(found)
    changes[name].days |= _days(found)


def _days(found: list[tuple[Any, ...]]) -> set[date]:
    return {row[0].astimezone(UTC).date() for row in found}
