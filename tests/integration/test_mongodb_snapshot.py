"""A run reads MongoDB at one cluster time, by ranges in parallel, where the server can; elsewhere it says that it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
import pytest
from bson import Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from lakehouse.sources import mongodb as mongo
from lakehouse.sources.mongodb import MongoReader, indexes
from lakehouse.sources.mongodb import snapshot as snapshots
from lakehouse.sources.mongodb.snapshot import MongoSnapshot
from lakehouse.sources.mongodb.whole import split
from lakehouse.spec import Column, Source, Table, Window, days

Document = dict[str, Any]

AT = datetime(2025, 11, 1, tzinfo=UTC)
EVENTS = Table(
    "events",
    "append",
    ("id",),
    event_time="at",
    partition=days("at"),
    columns=(Column("id", "int32", path="_id"), Column("at", "timestamp")),
)


class Finds(CommandListener):
    """The queries that were sent."""

    def __init__(self) -> None:
        self.sent: list[Document] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "find":
            self.sent.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


@dataclass
class Watched:
    """A reader whose queries are seen, of a server that is said to be a real replica set."""

    reader: MongoReader
    client: pymongo.MongoClient[Document]
    finds: Finds = field(default_factory=Finds)

    def snapshot(self, **hello: Any) -> MongoSnapshot:
        """A snapshot that trusts the server with what secantusdb takes, but does not do."""
        return MongoSnapshot(self.reader, self.client, {**self.client.admin.command("hello"), **hello}, {"version": "8.0"})


@pytest.fixture
def watched(mongo_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    finds = Finds()
    with pymongo.MongoClient[Document](mongo_database, event_listeners=[finds]) as client:
        database = client.get_default_database()
        database["events"].create_index("at")
        database["events"].insert_many([{"_id": n, "at": AT + timedelta(minutes=7 * n)} for n in range(1_000)])
        monkeypatch.setattr(mongo, "open_client", lambda *_: (client, database.name))
        yield Watched(MongoReader(Source("shop", "mongodb", (EVENTS,)), mongo_database), client, finds)


@pytest.mark.parametrize("window", [Window.of_day(AT.date() + timedelta(days=1)), Window(None, AT + timedelta(days=3))])
def test_a_window_is_read_in_ranges_at_one_cluster_time_and_each_document_once(watched: Watched, window: Window) -> None:
    snapshot = watched.snapshot()
    assert window.high is not None
    first = window.low or AT
    wanted = [n for n in range(1_000) if first <= AT + timedelta(minutes=7 * n) < window.high]
    found = sorted(row["id"] for batch in snapshot.read(EVENTS, window) for row in batch.to_pylist())
    assert found == wanted
    times = {str(command["readConcern"]) for command in watched.finds.sent}
    assert len(times) == 1
    assert "'snapshot'" in times.pop()
    ranges = [command["filter"]["at"] for command in watched.finds.sent if "limit" not in command]
    assert len(ranges) == 8
    assert all({"$gte", "$lte"} == set(one) for one in ranges)


THINGS = Table("things", "snapshot", ("id",), columns=(Column("id", "json", path="_id"), Column("n", "int32")))


@pytest.mark.parametrize("action", ["read", "keys"])
def test_a_whole_collection_is_read_in_ranges_and_each_document_once(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """Whatever its `_id` is: ObjectIds, the least and the greatest among them, and values of other types."""
    monkeypatch.setattr(snapshots, "REPLY_DOCUMENTS", 20)
    start = int(AT.timestamp())
    ids: list[Any] = [ObjectId((start + 60 * n).to_bytes(4, "big") + n.to_bytes(8, "big")) for n in range(900)]
    ids += [ObjectId("0" * 24), ObjectId("f" * 24), *range(40), "text", 1.5, {"a": 1}, AT, True, Int64(2**60)]
    watched.client.get_default_database()["things"].insert_many([{"_id": id_, "n": n} for n, id_ in enumerate(ids)])
    rows = [row for batch in getattr(watched.snapshot(), action)(THINGS) for row in batch.to_pylist()]
    assert len(rows) == len({row["id"] for row in rows}) == len(ids)
    assert action == "keys" or sorted(row["n"] for row in rows) == list(range(len(ids)))
    ranges = [command["filter"]["_id"] for command in watched.finds.sent if "limit" not in command]
    assert sum(set(one) == {"$gte", "$lte"} for one in ranges) == 8
    assert len(ranges) == 9


@pytest.mark.parametrize("ids", [range(1_000), [ObjectId() for _ in range(3)]], ids=["no ObjectIds", "few documents"])
def test_a_collection_that_ranges_would_not_help_is_read_by_one_query(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, ids: list[Any]
) -> None:
    monkeypatch.setattr(snapshots, "REPLY_DOCUMENTS", 20)
    watched.client.get_default_database()["things"].insert_many([{"_id": id_, "n": 1} for id_ in ids])
    assert sum(batch.num_rows for batch in watched.snapshot().read(THINGS)) == len(ids)
    assert [command["filter"] for command in watched.finds.sent if "limit" not in command] == [{}]


def test_the_position_says_the_cluster_time_or_that_there_is_none(watched: Watched) -> None:
    stamp = watched.client.admin.command("hello")["operationTime"]
    detail = watched.snapshot(operationTime=stamp).position.detail
    assert detail["cluster_time"] == f"{stamp.time}.{stamp.inc}"
    assert "consistency" not in detail
    for unable in ({"setName": None}, {"maxWireVersion": 12}):
        hello = {**watched.client.admin.command("hello"), **unable}
        hello = {name: value for name, value in hello.items() if value is not None}
        detail = MongoSnapshot(watched.reader, watched.client, hello, {"version": "4.4"}).position.detail
        assert "cluster_time" not in detail
        assert "one cluster time" in detail["consistency"]


def test_the_embedded_server_is_not_believed_to_hold_a_cluster_time(watched: Watched) -> None:
    with watched.reader.snapshot() as snapshot:
        list(snapshot.read(EVENTS))
    assert "one cluster time" in snapshot.position.detail["consistency"]
    assert all("readConcern" not in command for command in watched.finds.sent)


def test_a_read_preference_in_the_url_is_followed_and_said(mongo_database: str) -> None:
    reader = MongoReader(Source("shop", "mongodb", (EVENTS,)), mongo_database + "&readPreference=secondaryPreferred")
    with reader.snapshot() as snapshot:
        assert snapshot.position.detail["read_preference"] == "SecondaryPreferred"
        assert reader.documents(EVENTS).read_preference.name == "SecondaryPreferred"
    reader.close()


def test_a_secondary_is_trusted_up_to_its_last_write(watched: Watched) -> None:
    position = watched.snapshot(secondary=True, lastWrite={"lastWriteDate": AT}).position
    assert position.bound == AT
    assert position.taken_at > AT
    assert position.detail["member"] == "secondary"


@pytest.mark.parametrize(
    ("keys", "options", "enough"),
    [
        ([("at", 1)], {}, True),
        ([("at", -1), ("other", 1)], {}, True),
        ([("other", 1), ("at", 1)], {}, False),
        ([("at", 1)], {"sparse": True}, False),
        ([("at", 1)], {"partialFilterExpression": {"other": 1}}, False),
    ],
)
def test_only_an_index_that_leads_with_the_field_and_has_every_document_counts(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, keys: list[tuple[str, Any]], options: Document, enough: bool
) -> None:
    watched.client.get_default_database()["events"].drop_indexes()
    watched.client.get_default_database()["events"].create_index(keys, **options)
    assert (watched.reader.warnings(EVENTS) == ()) is enough


def test_a_collection_that_is_not_there_is_not_warned_about(watched: Watched) -> None:
    assert indexes.has_index(watched.client.get_default_database()["nowhere"], "at")


@given(st.integers(-50, 50), st.integers(0, 80), st.tuples(st.integers(-60, 60), st.integers(0, 60)), st.integers(1, 9))
def test_ranges_follow_each_other_and_leave_nothing_out(low: int, length: int, inner: tuple[int, int], parts: int) -> None:
    ranges = split(low, low + length, (inner[0], inner[0] + inner[1]), parts)
    assert [value for first, last in ranges for value in range(first, last + 1)] == list(range(low, low + length + 1))
    assert 1 <= len(ranges) <= parts
    assert all(first <= last for first, last in ranges)
