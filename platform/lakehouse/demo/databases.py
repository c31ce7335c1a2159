"""Connections to the example application's two databases, and what a load or tick remembers in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pyarrow as pa
import pyarrow.csv
import pymongo
import pymongo.errors
from pymongo.database import Database

from lakehouse.demo.world import Plan
from lakehouse.errors import ConfigurationError, SourceUnavailable, WrongUse
from lakehouse.settings import Settings

Connection = psycopg.Connection[tuple[Any, ...]]
MongoDatabase = Database[dict[str, Any]]

SOURCE, MONGO_SOURCE = "chronochat", "chronochat_mongo"
MONGO_STATE = "demo_state"
"""The collection that remembers the load, beside the declared ones; on Postgres it is the table demo.state."""

_LOCK = 7_203_114_029
_BATCH_BYTES = 1 << 20
_AUTHENTICATION_FAILED = 18
_PLAN_FIELDS = ("days", "users", "until", "seed", "api_logs")


@dataclass(frozen=True)
class Memory:
    """What one database remembers: the plan it was loaded by, its rows, whether the load was finished, and its ticks.

    late_ticks: ticks whose late transaction has been committed as well (Postgres only; elsewhere equal to ticks).
    """

    plan: Plan
    rows: dict[str, int]
    complete: bool
    ticks: int
    late_ticks: int


def plan_record(plan: Plan) -> dict[str, Any]:
    """The plan as plain values."""
    return {name: value.isoformat() if isinstance(value := getattr(plan, name), date) else value for name in _PLAN_FIELDS}


def plan_of(record: dict[str, Any]) -> Plan:
    """The plan that `plan_record` wrote."""
    return Plan(**{**record, "until": date.fromisoformat(record["until"])})


def in_words(plan: Plan) -> str:
    """The plan as its parameters."""
    return ", ".join(f"{name}={value}" for name, value in plan_record(plan).items() if value is not None)


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}{parts.path}"


@contextmanager
def postgres(settings: Settings) -> Iterator[Connection]:
    """A connection to the Postgres database in UTC, in a transaction; SourceUnavailable or ConfigurationError without."""
    url = settings.source_url(SOURCE)
    try:
        connection = psycopg.connect(url, connect_timeout=10, options="-c timezone=UTC")
    except psycopg.OperationalError as error:
        said = str(error).strip().splitlines()[-1]
        if "authentication failed" in said or "does not exist" in said:
            raise ConfigurationError(
                f"connecting to {SOURCE} at {_place(url)}",
                value=said,
                remedy=f"Correct LAKEHOUSE_SOURCES__{SOURCE.upper()}__URL, or start the embedded servers with `lakehouse up`.",
            ) from None
        raise SourceUnavailable(
            f"connecting to {SOURCE} at {_place(url)}", value=said, remedy="Start the server (`lakehouse up`), and try again."
        ) from None
    try:
        with connection:
            yield connection
    except psycopg.OperationalError as error:
        raise SourceUnavailable(
            f"writing to {SOURCE} at {_place(url)}", value=str(error).strip(), remedy="Try again: nothing was left half done."
        ) from error


@contextmanager
def mongo(settings: Settings) -> Iterator[MongoDatabase]:
    """The MongoDB database that the URL names; SourceUnavailable or ConfigurationError if it does not answer."""
    url = settings.source_url(MONGO_SOURCE)
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(url, serverSelectionTimeoutMS=10_000, tz_aware=True)
    try:
        name = client.get_default_database(default="").name
    except pymongo.errors.InvalidName:
        raise ConfigurationError(
            f"connecting to {MONGO_SOURCE} at {_place(url)}",
            value="a URL without a database",
            allowed="mongodb://host:port/database",
            remedy=f"Name the database in LAKEHOUSE_SOURCES__{MONGO_SOURCE.upper()}__URL.",
        ) from None
    try:
        client.admin.command("ping")
        yield client[name]
    except pymongo.errors.ConnectionFailure as error:
        raise SourceUnavailable(
            f"working on {MONGO_SOURCE} at {_place(url)}",
            value=str(error)[:300],
            remedy="Start the server (`lakehouse up`), and try again: what was begun is taken up where it stopped.",
        ) from None
    except pymongo.errors.OperationFailure as error:
        if error.code != _AUTHENTICATION_FAILED:
            raise
        raise ConfigurationError(
            f"signing in to {MONGO_SOURCE} at {_place(url)}",
            value=str(error.details and error.details.get("errmsg")),
            remedy=f"Correct LAKEHOUSE_SOURCES__{MONGO_SOURCE.upper()}__URL.",
        ) from None
    finally:
        client.close()


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """While this lasts, no other load or tick of these databases runs; the lock goes with the connection."""
    with postgres(settings) as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
        yield


def postgres_memory(connection: Connection) -> Memory | None:
    """What Postgres remembers, or None when nothing was loaded; WrongUse when its tables are someone else's."""
    found = connection.execute("select to_regclass('demo.state'), to_regclass('public.users')").fetchone()
    assert found is not None
    if found[0] is None:
        if found[1] is not None:
            raise _not_ours(SOURCE)
        return None
    row = connection.execute("select plan, rows, ticks, late_ticks from demo.state").fetchone()
    assert row is not None
    return Memory(plan_of(row[0]), row[1], True, row[2], row[3])


def mongo_memory(database: MongoDatabase) -> Memory | None:
    """What MongoDB remembers, or None when nothing was begun; WrongUse when its collections are someone else's."""
    found = database[MONGO_STATE].find_one({"_id": SOURCE})
    if found is None:
        if {"conversations", "messages"} & set(database.list_collection_names()):
            raise _not_ours(MONGO_SOURCE)
        return None
    plan = plan_of(json.loads(found["plan"]))
    return Memory(plan, found.get("rows", {}), found["complete"], found["ticks"], found["ticks"])


def remember_in_mongo(database: MongoDatabase, memory: Memory) -> None:
    """Replace what MongoDB remembers, in one document."""
    state = {
        "_id": SOURCE,
        "plan": json.dumps(plan_record(memory.plan)),
        "rows": memory.rows,
        "complete": memory.complete,
        "ticks": memory.ticks,
    }
    database[MONGO_STATE].replace_one({"_id": SOURCE}, state, upsert=True)


def _not_ours(source: str) -> WrongUse:
    return WrongUse(
        f"loading the example data into {source}",
        value="tables of the same names that this command did not make",
        allowed="an empty database",
        remedy="Give the example application a database of its own.",
    )


def copy_in(connection: Connection, name: str, rows: pa.Table, progress: Callable[[int], None] | None = None) -> None:
    """Append rows to a table by COPY, as CSV; `progress` is told rows written so far."""
    text = BytesIO()
    options = pyarrow.csv.WriteOptions(include_header=False)
    columns = ", ".join(rows.column_names)
    with connection.cursor().copy(f"copy {name} ({columns}) from stdin (format csv)".encode()) as copy:
        for batch in rows.to_batches(max_chunksize=50_000):
            text.seek(0)
            text.truncate()
            pyarrow.csv.write_csv(batch, text, options)
            view = text.getbuffer()
            for place in range(0, len(view), _BATCH_BYTES):
                copy.write(view[place : place + _BATCH_BYTES])
            view.release()
            if progress is not None:
                progress(batch.num_rows)
