"""Dagster's storage while a run lasts: asked no more often than it must be, and when it is gone, that is said soon."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import psycopg2
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from lakehouse.errors import ServiceFailed
from lakehouse.settings import Settings

PATIENCE = 10.0
"""Seconds for which connections may fail. Dagster tries each event anew for eleven seconds: a dead server would hold a run up for
minutes, event by event."""


@contextmanager
def storage(settings: Settings) -> Iterator[None]:
    """Say in our words, and soon, that Dagster's storage does not answer."""
    place = urlsplit(settings.dagster.url.get_secret_value())
    first: list[float] = []

    def gone(error: BaseException) -> ServiceFailed:
        return ServiceFailed(
            f"keeping the run in Dagster's storage at {place.hostname}:{place.port}",
            value=str(error.__cause__ or error).strip().splitlines()[0],
            allowed="a Postgres that answers while the run lasts",
            remedy="Start it (`lakehouse up` starts the embedded one), then run this again: nothing is done twice.",
        )

    def connect(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> Any:
        if parameters.get("dbname") != place.path.strip("/") or str(parameters.get("port")) != str(place.port):
            return None
        try:
            made = dialect.connect(*arguments, **parameters)
        except psycopg2.OperationalError as error:
            now = time.monotonic()
            if now - (first or [now])[0] > PATIENCE:
                raise gone(error) from error
            first.append(now)
            raise
        first.clear()
        return made

    event.listen(Engine, "do_connect", connect)
    try:
        yield
    except (DagsterPostgresException, SQLAlchemyError, psycopg2.Error) as error:
        raise gone(error) from error
    finally:
        event.remove(Engine, "do_connect", connect)


def hold_on(instance: dg.DagsterInstance) -> None:
    """Let the storage keep its connections, and what it knows of its own tables, as long as the instance lives.

    The Postgres storage connects anew for each event, some 1,400 times in an empty run, unless it is told to hold on; and it
    looks up the columns and tables of its own schema some 250 times, which no run changes.
    """
    instance.optimize_for_webserver(statement_timeout=60_000, pool_recycle=3600, max_overflow=20)
    events: Any = instance.event_log_storage
    look = getattr(events, "_has_asset_key_col_on_connection", None)
    if look is None:
        return
    known: dict[str, bool] = {}

    def has_column(connection: Any, name: str) -> bool:
        if name not in known:
            known[name] = look(connection, name)
        return known[name]

    events._has_asset_key_col_on_connection = has_column
    events.has_table = functools.cache(events.has_table)
