"""Fill the example application's databases: deterministic, idempotent, and safe to kill at any moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from importlib.resources import files
from itertools import islice

import pyarrow as pa
import pymongo.errors

from lakehouse.demo import databases, documents, relational
from lakehouse.demo.columns import stream
from lakehouse.demo.databases import Memory, copy_in, in_words, plan_record
from lakehouse.demo.report import Loading, LoadReport
from lakehouse.demo.world import Plan, World
from lakehouse.errors import WrongUse
from lakehouse.settings import Settings

OnEvent = Callable[[Loading], None]
_DOCUMENTS = 4000


def load(
    settings: Settings,
    *,
    days: int = 14,
    users: int = 2000,
    until: date | None = None,
    seed: int = 7,
    api_logs: int | None = None,
    on_event: OnEvent | None = None,
) -> LoadReport:
    """Fill `chronochat` (Postgres) and `chronochat_mongo` (MongoDB) with `days` UTC days of life that end before `until`.

    until: by default yesterday, so that there is room for a day of ticks; a load that is there already keeps its own.
    api_logs: how many API calls to make, by default in proportion to users and days (about 200,000).
    Each database is loaded or not: a killed load leaves Postgres empty and MongoDB marked, and the next one starts that part
    again. Raises WrongUse when other data is there, SourceUnavailable, ConfigurationError.
    """
    _check(days, users, seed, api_logs)
    with databases.alone(settings), databases.mongo(settings) as database, databases.postgres(settings) as connection:
        in_postgres, in_mongo = databases.postgres_memory(connection), databases.mongo_memory(database)
        finished = [memory for memory in (in_postgres, in_mongo) if memory is not None and memory.complete]
        plan = Plan(days, users, until or (finished[0].plan.until if finished else _yesterday()), seed, api_logs)
        for memory in finished:
            _compare(memory.plan, plan)
        if in_postgres is not None and in_mongo is not None and in_mongo.complete:
            return LoadReport({**in_postgres.rows, **in_mongo.rows}, plan.until, already_loaded=True)

        world = World(plan)
        chats = documents.all_chats(world)
        tell = on_event or (lambda event: None)
        with ThreadPoolExecutor(1) as other:
            mongo_part = None
            if in_mongo is None or not in_mongo.complete:
                mongo_part = other.submit(_load_mongo, database, world, chats, tell)
            rows = in_postgres.rows if in_postgres else _load_postgres(connection, world, chats, tell)
            connection.commit()
            rows = rows | (mongo_part.result() if mongo_part else in_mongo.rows if in_mongo else {})
    return LoadReport(rows, plan.until, already_loaded=False)


def _yesterday() -> date:
    return datetime.now(UTC).date() - timedelta(days=1)


def _check(days: int, users: int, seed: int, api_logs: int | None) -> None:
    limits = {"days": (days, 1, 3650), "users": (users, 10, 1_000_000), "seed": (seed, 0, 2**32)}
    if api_logs is not None:
        limits["api_logs"] = (api_logs, days, 1_000_000_000)
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise WrongUse(
                f"loading the example data: {name}",
                value=value,
                allowed=f"{low:,} to {high:,}",
                remedy=f"Choose {name} in that range.",
            )


def _compare(found: Plan, wanted: Plan) -> None:
    if found != wanted:
        raise WrongUse(
            f"loading the example data with {in_words(wanted)}",
            value=f"loaded already with {in_words(found)}",
            allowed="the same parameters again, which changes nothing",
            remedy="Use those parameters, or start again with `lakehouse down --wipe` and `lakehouse up`.",
        )


def _load_postgres(connection: databases.Connection, world: World, chats: documents.Chats, tell: OnEvent) -> dict[str, int]:
    """Schema, rows, indexes and memory in one transaction, which the caller commits."""
    folder = files("lakehouse.demo")
    connection.execute((folder / "chronochat.sql").read_bytes())
    sessions = relational.all_sessions(world)
    total = world.plan.api_logs or world.plan.total(relational.API_LOGS_PER_USER_DAY)
    rows: dict[str, int] = {}

    def copy(name: str, parts: Iterator[pa.Table], expected: int) -> None:
        rows[name] = 0
        for part in parts:
            copy_in(connection, name, part)
            rows[name] += part.num_rows
            tell(Loading(name, rows[name], expected))

    copy("users", iter([relational.all_users(world, sessions)]), world.plan.users)
    usage = relational.all_usage(world, chats)
    copy("user_usage_stats", iter([usage]), usage.num_rows)
    visits = relational.user_sessions(stream(world.plan.seed, "user_sessions"), world, sessions)
    copy("user_sessions", iter([visits]), visits.num_rows)
    preferences = relational.all_preferences(world)
    copy("user_preferences", iter([preferences]), preferences.num_rows)
    copy("api_logs", relational.all_api_logs(world, total), total)
    connection.execute((folder / "chronochat_indexes.sql").read_bytes())
    connection.execute(
        "create schema demo; create table demo.state (plan jsonb not null, rows jsonb not null,"
        " ticks integer not null default 0, late_ticks integer not null default 0)"
    )
    connection.execute(
        "insert into demo.state (plan, rows) values (%s, %s)", (json.dumps(plan_record(world.plan)), json.dumps(rows))
    )
    return rows


def _load_mongo(database: databases.MongoDatabase, world: World, chats: documents.Chats, tell: OnEvent) -> dict[str, int]:
    """Collections, indexes and documents, between two marks: one that they are ours and unfinished, one that they are whole."""
    databases.remember_in_mongo(database, Memory(world.plan, {}, complete=False, ticks=0, late_ticks=0))
    rows = {"conversations": len(chats.users), "messages": len(chats.messages.created)}
    for name in rows:
        database.drop_collection(name)
    found = documents.conversation_documents(stream(world.plan.seed, "conversation_documents"), world, chats)
    written = 0
    while batch := list(islice(found, _DOCUMENTS)):
        database["conversations"].insert_many(batch, ordered=False)
        written += len(batch)
        tell(Loading("conversations", written, rows["conversations"]))
    for low in range(0, rows["messages"], _DOCUMENTS):
        high = min(low + _DOCUMENTS, rows["messages"])
        rng = stream(world.plan.seed, "message_documents", low)
        database["messages"].insert_many(documents.message_documents(rng, chats.messages, low, high), ordered=False)
        tell(Loading("messages", high, rows["messages"]))
    _index(database, "conversations", ("created_at", "updated_at", "conversation_id"))
    _index(database, "messages", ("created_at",))
    databases.remember_in_mongo(database, Memory(world.plan, rows, complete=True, ticks=0, late_ticks=0))
    return rows


def _index(database: databases.MongoDatabase, collection: str, fields: tuple[str, ...]) -> None:
    """Index a filled collection.

    The embedded server makes every entry of a new index durable by itself, unless a transaction holds them together: 5 s instead
    of minutes for 100,000 documents. MongoDB refuses the transaction, and needs none.
    """
    with database.client.start_session() as session:
        for field in fields:
            try:
                with session.start_transaction():
                    database[collection].create_index(field, session=session)
            except pymongo.errors.OperationFailure:
                database[collection].create_index(field)
