"""Dagster's storage while a run lasts: it may be away for some seconds, and then it is said once that it is gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

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
