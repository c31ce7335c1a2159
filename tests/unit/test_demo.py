"""The generator of the example application: deterministic, and shaped like life."""

from __future__ import annotations

import hashlib
from collections import Counter
from datetime import date
from io import BytesIO

import bson
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest

from lakehouse.demo import documents, relational
from lakehouse.demo.columns import DAY, HOUR, day_of, microseconds, moment, stream
from lakehouse.demo.hour import Hour, chat_hour
from lakehouse.demo.world import Plan, World

PLAN = Plan(days=14, users=300, until=date(2026, 3, 15), seed=7)


def everything(plan: Plan) -> dict[str, bytes]:
    """All that a load writes, as bytes."""
    world = World(plan)
    chats, sessions = documents.all_chats(world), relational.all_sessions(world)
    tables = {
        "users": relational.all_users(world, sessions),
        "user_usage_stats": relational.all_usage(world, chats),
        "user_sessions": relational.user_sessions(stream(plan.seed, "user_sessions"), world, sessions),
        "api_logs": pa.concat_tables(relational.all_api_logs(world, plan.total(7.15))),
        "user_preferences": relational.all_preferences(world),
    }
    written = {}
    for name, table in tables.items():
        sink = BytesIO()
        pyarrow.csv.write_csv(table, sink)
        written[name] = sink.getvalue()
    conversations = documents.conversation_documents(stream(plan.seed, "c"), world, chats)
    messages = documents.message_documents(stream(plan.seed, "m"), chats.messages, 0, len(chats.messages.created))
    written["conversations"] = b"".join(document.raw for document in conversations)
    written["messages"] = b"".join(document.raw for document in messages)
    return written


@pytest.fixture(scope="module")
def world() -> World:
    return World(PLAN)


@pytest.fixture(scope="module")
def chats(world: World) -> documents.Chats:
    return documents.all_chats(world)


@pytest.fixture(scope="module")
def logs(world: World) -> pa.Table:
    return pa.concat_tables(relational.all_api_logs(world, PLAN.total(relational.API_LOGS_PER_USER_DAY)))


def test_the_same_seed_gives_the_same_bytes() -> None:
    plan = Plan(days=3, users=50, until=date(2026, 3, 15), seed=3)
    first, second = everything(plan), everything(plan)
    assert {name: hashlib.sha256(data).hexdigest() for name, data in first.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in second.items()
    }


def test_another_seed_gives_other_bytes_in_every_table() -> None:
    first = everything(Plan(days=3, users=50, until=date(2026, 3, 15), seed=3))
    second = everything(Plan(days=3, users=50, until=date(2026, 3, 15), seed=4))
    assert [name for name in first if first[name] == second[name]] == []


def test_all_times_lie_in_the_planned_days_and_after_the_sign_up(world: World, chats: documents.Chats) -> None:
    sessions = relational.all_sessions(world)
    start = world.day_start(0)
    for us in (sessions.started, chats.created, chats.messages.created):
        assert us.min() >= start
        assert us.max() < PLAN.end
    assert (sessions.active < PLAN.end).all()
    assert (chats.updated < PLAN.end).all()
    assert (sessions.started >= world.created[sessions.users]).all()
    # MongoDB has whole milliseconds.
    assert (chats.created // 1000 >= world.created[chats.users] // 1000).all()


def test_weekends_are_quiet_and_the_application_grows(logs: pa.Table) -> None:
    days = Counter(moment.date() for moment in logs["created_at"].to_pylist())
    first, second = (sum(n for day, n in days.items() if (day - PLAN.first_day).days // 7 == week) for week in (0, 1))
    assert second > first
    saturday, wednesday = date(2026, 3, 7), date(2026, 3, 4)
    assert days[saturday] < days[wednesday] * 0.75


def test_nights_are_quieter_than_evenings(logs: pa.Table) -> None:
    hours = Counter(moment.hour for moment in logs["created_at"].to_pylist())
    assert hours[3] * 4 < hours[20]


def test_a_few_users_do_much_and_many_do_little(logs: pa.Table) -> None:
    calls = sorted(Counter(logs["clerk_user_id"].drop_null().to_pylist()).values(), reverse=True)
    assert sum(calls[:30]) > 0.35 * sum(calls)
    assert np.median(calls) < calls[0] / 10


def test_calls_have_errors_nulls_and_long_texts(logs: pa.Table) -> None:
    failed = pc.greater_equal(logs["status_code"], 400)
    assert 0.01 < pc.mean(failed).as_py() < 0.15
    assert pc.all(pc.equal(pc.is_valid(logs["error_message"]), failed)).as_py()
    for name in ("clerk_user_id", "ip_address", "user_agent"):
        assert 0 < logs[name].null_count < len(logs) * 0.05
    assert pc.max(pc.utf8_length(logs["error_message"])).as_py() > 1000


def test_conversations_count_their_messages_and_tokens(chats: documents.Chats) -> None:
    said = chats.messages
    assert (np.bincount(said.conversation, minlength=len(chats.users)) == chats.counts).all()
    assert (np.bincount(said.conversation, said.tokens, minlength=len(chats.users)) == chats.tokens).all()
    last = np.zeros(len(chats.users), dtype=np.int64)
    np.maximum.at(last, said.conversation, said.created)
    assert ((chats.updated == last) | chats.archived).all()


def test_usage_counters_agree_with_the_messages(world: World, chats: documents.Chats) -> None:
    usage = relational.all_usage(world, chats)
    counted = usage.filter(pc.equal(usage["month_year"], "2026-03"))
    assert pc.sum(counted["monthly_messages"]).as_py() == len(chats.messages.created)
    assert pc.sum(counted["monthly_tokens"]).as_py() == chats.tokens.sum()
    pairs = zip(usage["clerk_user_id"].to_pylist(), usage["month_year"].to_pylist(), strict=True)
    assert max(Counter(pairs).values()) == 1


def test_documents_have_absent_fields_nulls_unicode_and_metadata_of_any_shape(world: World, chats: documents.Chats) -> None:
    raw = documents.message_documents(stream(1), chats.messages, 0, len(chats.messages.created))
    messages = [bson.decode(document.raw) for document in raw]
    assert any("metadata" not in message for message in messages)
    assert any(message.get("model", "") is None for message in messages)
    assert any("model" not in message for message in messages)
    latencies = [m["metadata"]["latency_ms"] for m in messages if "latency_ms" in m.get("metadata", {})]
    assert {type(value) for value in latencies} == {int, float, str, type(None)}
    assert max(len(message["content"]) for message in messages) > 5000
    assert any(not message["content"].isascii() for message in messages)
    assert len({message["_id"] for message in messages}) == len(messages)
    assert all(message["_id"].generation_time.timestamp() == message["created_at"].timestamp() // 1 for message in messages[:50])


def test_more_api_logs_can_be_asked_for_alone() -> None:
    plan = Plan(days=2, users=20, until=date(2026, 3, 15), seed=7, api_logs=5000)
    world = World(plan)
    assert sum(table.num_rows for table in relational.all_api_logs(world, 5000)) == 5000
    assert len(relational.all_sessions(world).started) < 50


def test_an_hour_is_decided_by_its_number_alone(world: World, chats: documents.Chats) -> None:
    first, again = (chat_hour(world, chats, Hour.after(PLAN.end, 5)) for _ in range(2))
    assert first.deleted == again.deleted
    assert (first.replies.created == again.replies.created).all()
    assert first.begun.names == again.begun.names


def test_no_hour_touches_a_conversation_that_is_gone(world: World, chats: documents.Chats) -> None:
    gone: set[int] = set()
    for number in range(1, 30):
        hour = chat_hour(world, chats, Hour.after(PLAN.end, number))
        assert hour.deleted is not None
        gone.add(hour.deleted)
        assert gone.isdisjoint(hour.grown.tolist())
        assert hour.archived not in gone
    assert len(gone) == 29


def test_late_messages_lie_up_to_three_hours_before_the_hour(world: World, chats: documents.Chats) -> None:
    hour = Hour.after(PLAN.end, 1)
    happening = chat_hour(world, chats, hour)
    late = happening.replies.created[happening.replies.created < hour.start]
    assert len(late) == happening.late > 0
    assert late.min() >= hour.start - 3 * HOUR
    assert {day_of(us) for us in late.tolist()} == {date(2026, 3, 14)}


def test_days_and_moments_are_utc() -> None:
    assert microseconds(date(1970, 1, 2)) == DAY
    assert day_of(DAY - 1) == date(1970, 1, 1)
    assert moment(DAY).isoformat() == "1970-01-02T00:00:00+00:00"
