"""Let one more hour of life happen in the example application's databases."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pymongo.errors
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument

from lakehouse.demo import databases, documents
from lakehouse.demo.columns import Bytes, day_of, moment, stream
from lakehouse.demo.hour import ChatHour, Hour, chat_hour
from lakehouse.demo.relational import days_of
from lakehouse.demo.report import MONGO_COLLECTIONS, POSTGRES_TABLES, Changes, TickReport
from lakehouse.demo.ticking_postgres import commit_hour
from lakehouse.demo.world import World
from lakehouse.errors import WrongUse
from lakehouse.settings import Settings

_DUPLICATE_KEY = 11000


def tick(settings: Settings) -> TickReport:
    """Let the hour after the last one happen; what happens is decided by the load's seed and the hour's number.

    A killed tick is taken up by the next call, which does only what is missing. Raises WrongUse when nothing was loaded, or when
    the hour lies in the future; SourceUnavailable, ConfigurationError.
    """
    with databases.alone(settings), databases.mongo(settings) as database, databases.postgres(settings) as connection:
        in_postgres, in_mongo = databases.postgres_memory(connection), databases.mongo_memory(database)
        connection.commit()
        if in_postgres is None or in_mongo is None or not in_mongo.complete:
            raise WrongUse(
                "letting an hour happen in the example application",
                value="databases without a finished load",
                allowed="one hour after another, after a load",
                remedy="Run `lakehouse demo load` first.",
            )
        plan = in_postgres.plan
        hour = Hour.after(plan.end, min(in_postgres.late_ticks, in_mongo.ticks) + 1)
        _refuse_future(hour)
        world = World(plan)
        chats = documents.all_chats(world)
        happening = chat_hour(world, chats, hour)
        changes = {name: Changes() for name in (*POSTGRES_TABLES, *MONGO_COLLECTIONS)}
        if in_mongo.ticks < hour.number:
            _tick_mongo(database, world, chats, hour, happening, changes)
            databases.remember_in_mongo(database, replace(in_mongo, ticks=hour.number))
        commit_hour(settings, connection, world, hour, happening, changes, only_late=in_postgres.ticks >= hour.number)
    start, end = hour.span
    return TickReport(hour.number, start, end, changes)


def _refuse_future(hour: Hour) -> None:
    start, end = hour.span
    if end > datetime.now(UTC):
        raise WrongUse(
            f"letting hour {hour.number} happen in the example application",
            value=f"{start:%Y-%m-%d %H:%M} to {end:%H:%M} UTC",
            allowed="an hour that has passed",
            remedy="Wait, or load with an earlier `until`.",
        )


def _tick_mongo(
    database: databases.MongoDatabase,
    world: World,
    chats: documents.Chats,
    hour: Hour,
    happening: ChatHour,
    changes: dict[str, Changes],
) -> None:
    """Apply the hour to the collections; doing it twice changes nothing."""
    rng = stream(world.plan.seed, "tick", hour.number, "documents")
    begun, replies = happening.begun, happening.replies
    conversations, messages = changes["conversations"], changes["messages"]
    new_conversations = list(documents.conversation_documents(rng, world, begun))
    conversations.inserted = _insert(database, "conversations", new_conversations)
    conversations.days |= days_of(begun.created)
    for part in (begun.messages, replies):
        found = documents.message_documents(rng, part, 0, len(part.created))
        messages.inserted += _insert(database, "messages", found)
        messages.days |= days_of(part.created)
    messages.late = happening.late

    for place in range(len(happening.grown)):
        said = replies.conversation == place
        index = int(happening.grown[place])
        grew = {"message_count": int(said.sum()), "total_tokens": int(replies.tokens[said].sum())}
        change = {"$inc": grew, "$set": {"updated_at": moment(happening.updated[place])}}
        conversations.updated += _update(database, _id(chats.ids, index), hour, change)
        conversations.days.add(day_of(chats.created[index]))
    if happening.archived is not None:
        change = {"$set": {"is_archived": True, "updated_at": moment(hour.start + 1_000)}}
        done = _update(database, _id(chats.ids, happening.archived), hour, change)
        conversations.updated += done
        conversations.soft_deleted += done
        conversations.days.add(day_of(chats.created[happening.archived]))
    if happening.deleted is not None:
        done = database["conversations"].delete_one({"_id": _id(chats.ids, happening.deleted)}).deleted_count
        conversations.hard_deleted += done
        conversations.days.add(day_of(chats.created[happening.deleted]))


def _id(ids: Bytes, index: int) -> ObjectId:
    return ObjectId(ids[index].tobytes())


def _update(database: databases.MongoDatabase, key: ObjectId, hour: Hour, change: dict[str, Any]) -> int:
    """Change a conversation unless this hour has changed it already."""
    before = {"_id": key, "updated_at": {"$lt": moment(hour.start)}}
    return int(database["conversations"].update_one(before, change).modified_count)


def _insert(database: databases.MongoDatabase, collection: str, found: list[RawBSONDocument]) -> int:
    """Insert documents, leaving those that are there; the number of them all."""
    if not found:
        return 0
    try:
        database[collection].insert_many(found, ordered=False)
    except pymongo.errors.BulkWriteError as error:
        others = [fault for fault in error.details.get("writeErrors", ()) if fault.get("code") != _DUPLICATE_KEY]
        if others or error.details.get("writeConcernErrors"):
            raise
    return len(found)
