"""Loading the example application into real databases, and letting it live on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pymongo
import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pydantic import SecretStr
from pymongo.database import Database

import assets
from lakehouse.demo import Loading, LoadReport, TickReport, databases, documents, load, tick, ticking, ticking_postgres
from lakehouse.demo.columns import stream
from lakehouse.demo.report import MONGO_COLLECTIONS, POSTGRES_TABLES
from lakehouse.demo.world import Plan, World
from lakehouse.errors import ConfigurationError, SourceUnavailable, WrongUse
from lakehouse.settings import Settings, SourceSettings
from lakehouse.sources import open_source

PLAN = Plan(days=3, users=40, until=date(2026, 3, 15), seed=7)
Row = dict[str, Any]
Rows = dict[str, dict[Any, Row]]


def loaded(settings: Settings, **changes: Any) -> LoadReport:
    """Load the small plan."""
    arguments: dict[str, Any] = {"days": PLAN.days, "users": PLAN.users, "until": PLAN.until, "seed": PLAN.seed}
    return load(settings, **(arguments | changes))


@pytest.fixture
def demo(settings_of: Callable[..., Settings], postgres_database: str, mongo_database: str) -> Settings:
    """Settings that lead to two empty databases."""
    return settings_of(chronochat=postgres_database, chronochat_mongo=mongo_database)


@pytest.fixture
def settings_of(postgres: Settings) -> Callable[..., Settings]:
    """Makes settings with the given sources."""

    def make(**urls: str) -> Settings:
        return postgres.model_copy(update={"sources": {name: SourceSettings(url=SecretStr(url)) for name, url in urls.items()}})

    return make


def mongo(settings: Settings) -> Database[Row]:
    client: pymongo.MongoClient[Row] = pymongo.MongoClient(settings.source_url("chronochat_mongo"), tz_aware=True)
    return client.get_default_database()


def rows_of(settings: Settings) -> Rows:
    """Every row of every table by its key."""
    found: Rows = {}
    with psycopg.connect(settings.source_url("chronochat"), row_factory=psycopg.rows.dict_row) as connection:
        connection.execute("set timezone = 'UTC'")
        for name in POSTGRES_TABLES:
            found[name] = {row["id"]: row for row in connection.execute(f"select * from {name}".encode())}
    for name in MONGO_COLLECTIONS:
        found[name] = {row["_id"]: row for row in mongo(settings)[name].find()}
    return found


def one(settings: Settings, query: str) -> Any:
    """The one value that a query gives."""
    with psycopg.connect(settings.source_url("chronochat")) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_what_was_loaded_is_what_was_generated(demo: Settings) -> None:
    report = loaded(demo)
    chats = documents.all_chats(World(PLAN))
    raw = mongo(demo)["messages"].with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
    found = [document.raw for document in raw.find().sort("_id")]
    generated = documents.message_documents(stream(PLAN.seed, "message_documents", 0), chats.messages, 0, report.rows["messages"])
    assert found == sorted((document.raw for document in generated), key=lambda data: RawBSONDocument(data)["_id"])
    assert {name: len(rows) for name, rows in rows_of(demo).items()} == report.rows
    assert not report.already_loaded


def test_both_databases_have_what_the_declaration_asks_for(demo: Settings) -> None:
    loaded(demo)
    for source in assets.SOURCES:
        reader = open_source(source, demo.source_url(source.name))
        try:
            reader.check(source.tables)
        finally:
            reader.close()


def test_a_second_load_does_nothing(demo: Settings) -> None:
    first = loaded(demo)
    before = rows_of(demo)
    again = loaded(demo)
    assert again.already_loaded
    assert (again.rows, again.until) == (first.rows, first.until)
    assert rows_of(demo) == before


def test_a_second_load_keeps_the_end_of_the_first_when_it_names_none(demo: Settings) -> None:
    loaded(demo)
    assert loaded(demo, until=None).until == PLAN.until


def test_data_ends_yesterday_when_nothing_is_said(demo: Settings) -> None:
    assert loaded(demo, until=None, days=1, users=10).until == datetime.now(UTC).date() - timedelta(days=1)


@pytest.mark.parametrize("change", [{"days": 4}, {"users": 41}, {"seed": 8}, {"until": date(2026, 3, 16)}, {"api_logs": 500}])
def test_a_load_with_other_parameters_says_what_is_there(demo: Settings, change: dict[str, Any]) -> None:
    loaded(demo)
    with pytest.raises(WrongUse) as refused:
        loaded(demo, **change)
    assert "days=3, users=40, until=2026-03-15, seed=7" in str(refused.value)
    assert "down --wipe" in refused.value.remedy


@pytest.mark.parametrize(("name", "value"), [("days", 0), ("users", 3), ("seed", -1), ("api_logs", 1)])
def test_parameters_out_of_range_are_refused_by_name(demo: Settings, name: str, value: int) -> None:
    with pytest.raises(WrongUse, match=name):
        loaded(demo, **{name: value})


def test_progress_reaches_the_rows_of_every_table(demo: Settings) -> None:
    events: list[Loading] = []
    report = loaded(demo, on_event=events.append)
    assert {event.table: event.rows for event in events} == report.rows
    assert {event.table: event.total for event in events} == report.rows


def test_tables_of_someone_else_are_left_alone(demo: Settings, postgres_database: str) -> None:
    with psycopg.connect(postgres_database) as connection:
        connection.execute("create table users (name text); insert into users values ('theirs')")
    with pytest.raises(WrongUse, match="did not make"):
        loaded(demo)
    assert one(demo, "select string_agg(name, '') from users") == "theirs"
    assert mongo(demo).list_collection_names() == []


def test_collections_of_someone_else_are_left_alone(demo: Settings) -> None:
    mongo(demo)["messages"].insert_one({"theirs": True})
    with pytest.raises(WrongUse, match="did not make"):
        loaded(demo)
    assert [row["theirs"] for row in mongo(demo)["messages"].find()] == [True]
    assert one(demo, "select count(*) from pg_tables where schemaname = 'public'") == 0


def test_a_killed_load_can_be_started_again(demo: Settings) -> None:
    program = """
import sys
from datetime import date
from lakehouse.demo import load
from lakehouse.settings import load_settings
load(load_settings(), days=4, users=600, until=date(2026, 3, 15), on_event=lambda event: print(event, flush=True))
"""
    urls = {f"LAKEHOUSE_SOURCES__{name.upper()}__URL": demo.source_url(name) for name in ("chronochat", "chronochat_mongo")}
    with subprocess.Popen([sys.executable, "-c", program], env=os.environ | urls, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("messages: ") for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    state = mongo(demo)["demo_state"].find_one()
    assert state is not None
    assert not state["complete"]
    with pytest.raises(WrongUse, match="demo load"):
        tick(demo)

    # What the killed one was asked for does not bind the next.
    report = loaded(demo) if one(demo, "select to_regclass('demo.state') is null") else loaded(demo, days=4, users=600)
    assert not report.already_loaded
    assert {name: len(rows) for name, rows in rows_of(demo).items()} == report.rows


def changed(before: Rows, after: Rows, name: str) -> tuple[set[Any], set[Any], set[Any]]:
    """Keys of the rows that were inserted, updated and deleted."""
    old, new = before[name], after[name]
    return new.keys() - old.keys(), {key for key in new.keys() & old.keys() if new[key] != old[key]}, old.keys() - new.keys()


DAY_COLUMN = {"user_sessions": "started_at"}


def test_a_tick_does_what_it_reports(demo: Settings) -> None:
    loaded(demo)
    for number in range(1, 4):
        before = rows_of(demo)
        report = tick(demo)
        after = rows_of(demo)
        assert report.number == number
        assert report.start == datetime(2026, 3, 15, number - 1, tzinfo=UTC)
        for name, changes in report.changes.items():
            inserted, updated, deleted = changed(before, after, name)
            assert (len(inserted), len(updated), len(deleted)) == (changes.inserted, changes.updated, changes.hard_deleted), name
            column = DAY_COLUMN.get(name, "created_at")
            times = [rows[name][key][column] for keys, rows in ((inserted | updated, after), (deleted, before)) for key in keys]
            assert {time.astimezone(UTC).date() for time in times} == changes.days, name
            late = [after[name][key][column] for key in inserted if after[name][key][column] < report.start]
            assert len(late) == changes.late
            assert all(report.start - timedelta(hours=3) <= time for time in late)


def test_a_tick_inserts_updates_and_deletes_where_an_application_does(demo: Settings) -> None:
    loaded(demo)
    changes = tick(demo).changes
    assert all(changes[name].inserted for name in changes if name != "user_usage_stats")
    assert all(changes[name].updated for name in ("users", "user_sessions", "user_preferences", "conversations"))
    assert changes["user_usage_stats"].updated + changes["user_usage_stats"].inserted > 0
    assert {name for name in changes if changes[name].soft_deleted} == {"users", "conversations"}
    assert {name for name in changes if changes[name].hard_deleted} == {"user_preferences", "user_sessions", "conversations"}
    assert {name for name in changes if changes[name].late} == {"api_logs", "user_sessions", "messages"}
    # Rows that never change are never changed.
    assert all(changes[name].updated == changes[name].hard_deleted == 0 for name in ("api_logs", "messages"))
    # The first hour of a day: what is late belongs to the day before.
    assert date(2026, 3, 14) in changes["api_logs"].days & changes["messages"].days


def test_every_changed_row_moves_its_cursor_into_the_hour(demo: Settings) -> None:
    loaded(demo)
    before = rows_of(demo)
    report = tick(demo)
    after = rows_of(demo)
    for source in assets.SOURCES:
        for table in source.tables:
            if table.mode == "upsert":
                assert table.cursor is not None
                _, updated, _ = changed(before, after, table.name)
                cursors = [after[table.name][key][table.cursor] for key in updated]
                assert all(report.start <= cursor < report.end for cursor in cursors), table.name


def test_the_late_rows_transaction_began_first_and_committed_last(demo: Settings) -> None:
    loaded(demo)
    tick(demo)
    writer = "select max(xmin::text::bigint) from api_logs"
    late = one(demo, f"{writer} where created_at < '2026-03-15'")
    assert late > one(demo, f"{writer} where created_at < '2026-03-14'")
    on_time = one(demo, f"{writer} where created_at >= '2026-03-15'")
    remembered = one(demo, "select xmin::text::bigint from demo.state")
    # Transaction ids are given in the order of the first writes; the last writer of demo.state came after the other's commit.
    assert late < on_time
    assert remembered == late


def test_equal_loads_and_ticks_give_equal_databases(demo: Settings, settings_of: Callable[..., Settings]) -> None:
    loaded(demo)
    reports = [tick(demo), tick(demo)]
    with psycopg.connect(demo.source_url("chronochat"), autocommit=True) as connection:
        connection.execute("create database demo_twin")
    try:
        urls = {name: demo.source_url(name) for name in ("chronochat", "chronochat_mongo")}
        twin_name = f"{mongo(demo).name}_twin"
        twin = settings_of(
            chronochat=urls["chronochat"].rpartition("/")[0] + "/demo_twin",
            chronochat_mongo=urls["chronochat_mongo"].replace(mongo(demo).name, twin_name, 1),
        )
        loaded(twin)
        assert [tick(twin), tick(twin)] == reports
        assert rows_of(twin) == rows_of(demo)
        mongo(twin).client.drop_database(twin_name)
    finally:
        with psycopg.connect(demo.source_url("chronochat"), autocommit=True) as connection:
            connection.execute("drop database demo_twin with (force)")


class Killed(Exception):
    """What happens to a process at the worst moment."""


def counted(settings: Settings) -> None:
    """Each conversation counts its messages: nothing was applied twice or left out."""
    rows = rows_of(settings)
    for conversation in rows["conversations"].values():
        said = [row for row in rows["messages"].values() if row["conversation_id"] == conversation["conversation_id"]]
        assert conversation["message_count"] == len(said)
        assert conversation["total_tokens"] == sum(row["tokens"] for row in said)


def test_a_tick_killed_between_the_databases_is_taken_up(demo: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(demo)
    calls = one(demo, "select count(*) from api_logs")
    with monkeypatch.context() as patch:
        patch.setattr(ticking, "commit_hour", _die)
        with pytest.raises(Killed):
            tick(demo)
    assert one(demo, "select count(*) from api_logs") == calls
    report = tick(demo)
    assert report.number == 1
    assert one(demo, "select count(*) from api_logs") == calls + report.changes["api_logs"].inserted
    counted(demo)


def test_a_tick_killed_before_mongodb_remembered_it_is_taken_up(demo: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(demo)
    with monkeypatch.context() as patch:
        patch.setattr(databases, "remember_in_mongo", _die)
        with pytest.raises(Killed):
            tick(demo)
    before = rows_of(demo)
    assert tick(demo).number == 1
    after = rows_of(demo)
    assert all(after[name] == before[name] for name in MONGO_COLLECTIONS)
    counted(demo)


def test_a_tick_killed_before_its_late_transaction_committed_is_taken_up(demo: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(demo)
    write_hour = ticking_postgres._write_hour

    def write_and_die(connection: psycopg.Connection[Any], *arguments: Any) -> None:
        write_hour(connection, *arguments)
        connection.commit()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(ticking_postgres, "_write_hour", write_and_die)
        with pytest.raises(Killed):
            tick(demo)
    before = rows_of(demo)
    report = tick(demo)
    assert report.number == 1
    inserted, _, _ = changed(before, rows_of(demo), "api_logs")
    assert len(inserted) == report.changes["api_logs"].inserted == report.changes["api_logs"].late > 0
    assert tick(demo).number == 2


def _die(*arguments: Any, **named: Any) -> TickReport:
    raise Killed


def test_a_tick_needs_a_load(demo: Settings) -> None:
    with pytest.raises(WrongUse, match="demo load"):
        tick(demo)


def test_a_tick_does_not_reach_into_the_future(demo: Settings) -> None:
    loaded(demo, until=datetime.now(UTC).date() + timedelta(days=1))
    with pytest.raises(WrongUse, match="an hour that has passed"):
        tick(demo)


def test_an_unreachable_server_is_named_without_its_password(settings_of: Callable[..., Settings], mongo_database: str) -> None:
    wrong = settings_of(chronochat="postgresql://nobody:hunter2@127.0.0.1:1/x", chronochat_mongo=mongo_database)
    with pytest.raises(SourceUnavailable) as unreachable:
        loaded(wrong)
    assert "127.0.0.1:1" in str(unreachable.value)
    assert "hunter2" not in str(unreachable.value)


def test_a_refused_sign_in_is_a_configuration_error(
    demo: Settings, settings_of: Callable[..., Settings], mongo_database: str
) -> None:
    host = demo.source_url("chronochat").rpartition("@")[2]
    wrong = settings_of(chronochat=f"postgresql://lakehouse:hunter2@{host}", chronochat_mongo=mongo_database)
    with pytest.raises(ConfigurationError) as refused:
        loaded(wrong)
    assert "hunter2" not in str(refused.value)
    assert "LAKEHOUSE_SOURCES__CHRONOCHAT__URL" in refused.value.remedy


def test_a_mongodb_url_without_a_database_is_refused(demo: Settings, settings_of: Callable[..., Settings]) -> None:
    url = demo.source_url("chronochat_mongo").replace(f"/{mongo(demo).name}", "/", 1)
    wrong = settings_of(chronochat=demo.source_url("chronochat"), chronochat_mongo=url)
    with pytest.raises(ConfigurationError, match="without a database"):
        loaded(wrong)
