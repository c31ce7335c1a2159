"""MongoDB documents arrive exactly, or are refused by name, on a real server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pymongo
import pytest
from bson import Decimal128, Int64, ObjectId, Regex, Timestamp
from bson.binary import Binary
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from lakehouse.errors import ConfigurationError, SourceMismatch, SourceUnavailable, ValueRefused
from lakehouse.sources import SourceReader, open_source
from lakehouse.sources.mongodb import snapshot as snapshots
from lakehouse.sources.mongodb.bson_scan import Chunk
from lakehouse.sources.mongodb.columns import decode
from lakehouse.sources.mongodb.extended_json import EXACT
from lakehouse.sources.mongodb.extent import date_extent
from lakehouse.spec import Column, Source, Table, Window, days
from tests.servers import Deployment

Document = dict[str, Any]

AT = datetime(2025, 11, 1, 12, tzinfo=UTC)
ID = Column("id", "string", path="_id")


def things(*columns: Column, keep_document: bool = False, **fields: Any) -> Table:
    return Table("things", "snapshot", ("id",), columns=(ID, *columns), keep_document=keep_document, **fields)


def events(*columns: Column) -> Table:
    return Table(
        "events", "append", ("id",), event_time="at", partition=days("at"), columns=(ID, Column("at", "timestamp"), *columns)
    )


def insert(url: str, collection: str, documents: Sequence[Document]) -> None:
    with pymongo.MongoClient[Document](url) as client:
        target = client.get_default_database()[collection]
        target.create_index("at")
        target.insert_many(documents)


def reader_of(url: str, table: Table) -> SourceReader:
    return open_source(Source("shop", "mongodb", (table,)), url)


def load(url: str, table: Table, window: Window | None = None) -> list[Document]:
    reader = reader_of(url, table)
    with reader.snapshot() as snapshot:
        rows = [row for batch in snapshot.read(table, window) for row in batch.to_pylist()]
    reader.close()
    return sorted(rows, key=lambda row: str(row["id"]))


def test_documents_of_any_shape_arrive_as_declared(mongo_database: str) -> None:
    oid = ObjectId()
    insert(
        mongo_database,
        "things",
        [
            {"_id": oid, "n": 1, "profile": {"name": "東京", "deep": {"score": 1.5}}, "tags": ["a", "b"], "at": AT, "extra": 1},
            {"_id": "b", "n": Int64(2**63 - 1), "profile": {}, "tags": []},
            {"_id": "c", "n": None, "profile": None, "tags": None, "more": {"than": "declared"}},
            {"_id": "d"},
        ],
    )
    table = things(
        Column("n", "int64"),
        Column("name", "string", path="profile.name"),
        Column("score", "float64", path="profile.deep.score"),
        Column("profile", "json"),
        Column("tags", "list<string>"),
        Column("at", "timestamp"),
    )
    nothing: Document = {"n": None, "name": None, "score": None, "profile": None, "tags": None, "at": None}
    assert load(mongo_database, table) == sorted(
        [
            {
                **nothing,
                "id": str(oid),
                "n": 1,
                "name": "東京",
                "score": 1.5,
                "profile": '{"name":"東京","deep":{"score":1.5}}',
                "tags": ["a", "b"],
                "at": AT,
            },
            {**nothing, "id": "b", "n": 2**63 - 1, "profile": "{}", "tags": []},
            {**nothing, "id": "c"},
            {**nothing, "id": "d"},
        ],
        key=lambda row: str(row["id"]),
    )


def test_json_keeps_what_the_server_keeps(mongo_database: str) -> None:
    value: Document = {
        "long": Int64(2**62 + 1),
        "whole": 1.0,
        "decimal": Decimal128("0.10"),
        "date": AT,
        "oid": ObjectId("0123456789abcdef01234567"),
        "binary": Binary(b"\0", 128),
        "regex": Regex("a", "i"),
        "stamp": Timestamp(1, 2),
        "list": [[], {}, None],
    }
    insert(mongo_database, "things", [{"_id": "a", "v": value}])
    text = load(mongo_database, things(Column("v", "json")))[0]["v"]
    assert text == (
        '{"long":4611686018427387905,"whole":1.0,"decimal":{"$numberDecimal":"0.10"},"date":{"$date":"2025-11-01T12:00:00Z"},'
        '"oid":{"$oid":"0123456789abcdef01234567"},"binary":{"$binary":{"base64":"AA==","subType":"80"}},'
        '"regex":{"$regularExpression":{"pattern":"a","options":"i"}},"stamp":{"$timestamp":{"t":1,"i":2}},"list":[[],{},null]}'
    )
    assert list(json.loads(text)) == list(value)


@pytest.mark.parametrize(
    ("type_", "path", "value", "found"),
    [
        ("int64", None, 1.5, "double 1.5"),
        ("float64", None, Int64(2**53 + 1), "long 9007199254740993"),
        ("string", None, 7, "int 7"),
        ("list<string>", None, ["a", 7], "int 7 in its list"),
        ("string", "v.name", "flat", "string flat at 'v', not an object"),
    ],
)
def test_a_value_of_another_type_is_refused_by_table_field_and_id(
    mongo_database: str, type_: str, path: str | None, value: object, found: str
) -> None:
    insert(mongo_database, "things", [{"_id": "fine"}, {"_id": "odd", "v": value}])
    with pytest.raises(ValueRefused) as error:
        load(mongo_database, things(Column("v", type_, path=path)))
    assert "'things' of source 'shop': field 'v' of the document with _id odd" in error.value.tried
    assert error.value.value == found
    assert '"json"' in error.value.remedy


def test_a_collection_larger_than_a_reply_is_read_whole(mongo_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "REPLY_DOCUMENTS", 10)
    insert(mongo_database, "events", [{"_id": f"{number:03}", "at": AT + timedelta(minutes=number)} for number in range(105)])
    table = events()
    assert [row["id"] for row in load(mongo_database, table)] == [f"{number:03}" for number in range(105)]
    window = Window(AT + timedelta(minutes=20), AT + timedelta(minutes=60))
    assert [row["id"] for row in load(mongo_database, table, window)] == [f"{number:03}" for number in range(20, 60)]


def test_a_dropped_field_never_leaves_the_server(mongo_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    insert(mongo_database, "things", [{"_id": "a", "secret": "s3cret", "profile": {"phone": "s3cret", "name": "n"}, "n": 1}])
    table = things(
        Column("secret", "string"),
        Column("phone", "string", path="profile.phone"),
        Column("profile", "json"),
        Column("n", "int32"),
        personal={"secret": "drop", "phone": "drop"},
    )
    replies: list[bytes] = []

    def seen(reply: Chunk, *arguments: Any) -> Any:
        replies.append(reply.data)
        return decode(reply, *arguments)

    monkeypatch.setattr(snapshots, "decode", seen)
    assert load(mongo_database, table) == [{"id": "a", "profile": '{"name":"n"}', "n": 1}]
    assert b"name" in b"".join(replies)
    assert b"s3cret" not in b"".join(replies)


@pytest.mark.parametrize("action", ["drop", "mask", "tokenise"])
def test_a_personal_field_is_in_no_other_column_and_not_in_the_document(mongo_database: str, action: Any) -> None:
    """Wherever the declaration has it: at the top, in an object that a column keeps whole, in the document itself."""
    put = {"_id": "a", "secret": "s3cret", "profile": {"n": 1, "deep": {"phone": "s3cret", "kept": 2}}, "kept": Int64(2**60)}
    insert(mongo_database, "things", [put, {"_id": "b", "profile": None, "kept": 1.5}])
    table = things(
        Column("secret", "string"),
        Column("phone", "string", path="profile.deep.phone"),
        Column("profile", "json"),
        Column("deep", "json", path="profile.deep"),
        keep_document=True,
        personal={"secret": action, "phone": action},
    )
    rows = load(mongo_database, table)
    assert rows[0].get("phone") == rows[0].get("secret") == (None if action == "drop" else "s3cret")  # protected on landing
    assert json.loads(rows[0]["profile"]) == {"n": 1, "deep": {"kept": 2}}
    assert rows[0]["deep"] == '{"kept":2}'
    kept = {"_id": "a", "profile": {"n": 1, "deep": {"kept": 2}}, "kept": Int64(2**60)}
    assert [row["_document"] for row in rows] == [bson.encode(kept), bson.encode({"_id": "b", "profile": None, "kept": 1.5})]


def test_a_dropped_field_is_not_in_the_objects_of_a_list_either(mongo_database: str) -> None:
    insert(mongo_database, "things", [{"_id": "a", "people": [{"name": "s3cret", "n": 1}, [{"name": "s3cret"}]]}])
    table = things(Column("name", "string", path="people.name"), keep_document=True, personal={"name": "drop"})
    assert b"s3cret" not in load(mongo_database, table)[0]["_document"]


def test_the_document_is_kept_byte_for_byte_whatever_is_declared(mongo_database: str) -> None:
    put: list[Document] = [
        {"_id": "a", "undeclared": Decimal128("NaN"), "n": 1},
        {"_id": "b", "": {"$x": [1, {"a.b": Int64(2)}]}, "n": 2},
    ]
    insert(mongo_database, "things", put)
    rows = load(mongo_database, things(Column("n", "int32"), keep_document=True))
    assert [row["_document"] for row in rows] == [bson.encode(document) for document in put]


@pytest.mark.parametrize("lost", [{}, {"at": None}])
def test_a_document_without_the_date_that_windows_are_cut_by_is_refused(mongo_database: str, lost: Document) -> None:
    insert(mongo_database, "events", [{"_id": "a", "at": AT}])
    reader = reader_of(mongo_database, events())
    reader.check([events()])
    insert(mongo_database, "events", [{"_id": "odd", **lost}])
    with pytest.raises(ValueRefused, match="_id odd"):
        reader.check([events()])
    reader.close()


def test_a_dotted_date_cuts_windows_and_has_an_extent(mongo_database: str) -> None:
    table = Table(
        "events",
        "upsert",
        ("id",),
        cursor="changed",
        columns=(ID, Column("changed", "timestamp", path="meta.changed")),
    )
    insert(mongo_database, "events", [{"_id": str(hour), "meta": {"changed": AT + timedelta(hours=hour)}} for hour in range(5)])
    reader = reader_of(mongo_database, table)
    reader.check([table])
    with reader.snapshot() as snapshot:
        assert snapshot.extent(table, "changed") == (AT, AT + timedelta(hours=4))
    reader.close()
    window = Window(AT + timedelta(hours=1), AT + timedelta(hours=3))
    assert [row["id"] for row in load(mongo_database, table, window)] == ["1", "2"]


def at_days(*numbers: float) -> list[Document]:
    return [{"_id": str(number), "at": AT + timedelta(days=number)} for number in numbers]


@pytest.mark.parametrize(
    "found",
    [
        [0],
        [0, 0.3],
        [-40, -39, -38, 0],
        [-3000, -2, 0],
        [-365_000, 0],
        [*range(-60, 1)],
        [-700_000, 2_900_000],
        [-50, 365],
    ],
)
def test_the_extent_is_exact_wherever_documents_lie(mongo_database: str, found: list[float]) -> None:
    insert(mongo_database, "events", at_days(*found))
    reader = reader_of(mongo_database, events())
    with reader.snapshot() as snapshot:
        for _ in ("looked for", "known from before"):
            assert snapshot.extent(events(), "at") == (AT + timedelta(days=min(found)), AT + timedelta(days=max(found)))
    reader.close()


def test_an_extent_that_is_known_follows_documents_that_come_and_go(mongo_database: str) -> None:
    insert(mongo_database, "events", at_days(0, 1, 2))
    reader = reader_of(mongo_database, events())
    with reader.snapshot() as snapshot, pymongo.MongoClient[Document](mongo_database) as client:
        collection = client.get_default_database()["events"]

        def extent() -> tuple[datetime, datetime] | None:
            return snapshot.extent(events(), "at")

        assert extent() == (AT, AT + timedelta(days=2))
        collection.insert_many(at_days(-5, 9))
        assert extent() == (AT - timedelta(days=5), AT + timedelta(days=9))
        collection.delete_many({"_id": {"$in": ["-5", "9"]}})
        assert extent() == (AT, AT + timedelta(days=2))
        collection.delete_many({"_id": {"$in": ["1", "2"]}})
        assert extent() == (AT, AT)
        collection.delete_many({})
        assert extent() is None
        collection.insert_many(at_days(1))
        assert extent() == (AT + timedelta(days=1), AT + timedelta(days=1))
    reader.close()


def test_the_extent_is_found_with_few_questions(mongo_database: str) -> None:
    """The embedded server answers each in a millisecond; a run asks for the extent of each collection twice."""
    now = datetime.now(UTC).replace(microsecond=0)
    insert(mongo_database, "events", [{"_id": n, "at": now - timedelta(hours=n)} for n in range(1, 24 * 90)])
    asked = Finds()
    monitored = pymongo.MongoClient[Document](mongo_database, event_listeners=[asked])
    documents = monitored.get_default_database().get_collection("events", codec_options=EXACT)
    milliseconds = int(now.timestamp() * 1000)
    for most in (45, 4):
        asked.count = 0
        found = date_extent(documents, "at", milliseconds, limit_stops=False)
        assert found == (milliseconds - 3_600_000 * (24 * 90 - 1), milliseconds - 3_600_000)
        assert asked.count <= most
    assert date_extent(documents, "at", milliseconds, limit_stops=True) == found
    monitored.close()


class Finds(CommandListener):
    """Counts queries."""

    count = 0

    def started(self, event: CommandStartedEvent) -> None:
        self.count += event.command_name == "find"

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


def test_a_list_of_dates_has_no_extent(mongo_database: str) -> None:
    insert(mongo_database, "events", [{"_id": "a", "at": [AT, AT + timedelta(days=1)]}])
    reader = reader_of(mongo_database, events())
    with reader.snapshot() as snapshot, pytest.raises(ValueRefused, match="one date in each document"):
        snapshot.extent(events(), "at")
    reader.close()


def test_the_position_says_that_it_cannot_be_exact(mongo_database: str) -> None:
    reader = reader_of(mongo_database, things())
    with reader.snapshot() as snapshot:
        position = snapshot.position
    reader.close()
    assert not position.exact
    assert "clocks" in position.detail["inexact"]
    assert abs(position.taken_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_undeclared_time_or_key_is_named_before_any_connection() -> None:
    table = Table("events", "upsert", ("id",), cursor="changed", columns=(ID,))
    with pytest.raises(SourceMismatch, match="cursor names column 'changed'"):
        reader_of("mongodb://127.0.0.1:1/nowhere", table).schema(table)


def test_a_url_without_a_database_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigurationError, match="name the database"):
        reader_of("mongodb://127.0.0.1:1/", things()).check([things()])


def test_a_server_that_is_killed_while_it_is_read_is_an_error(
    own_deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "REPLY_DOCUMENTS", 20)
    url = own_deployment.start(["mongodb"]).source_url("chronochat_mongo") + "&serverSelectionTimeoutMS=1000"
    insert(url, "things", [{"_id": str(number), "v": "x" * 1000} for number in range(400)])
    table = things(Column("v", "string"))
    reader = reader_of(url, table)
    with reader.snapshot() as snapshot:
        batches = snapshot.read(table)
        next(batches)
        own_deployment.kill("mongodb")
        with pytest.raises(SourceUnavailable):
            list(batches)
    reader.close()
