"""One publisher of a table at a time: a session-level advisory lock in the platform's Postgres, free when its holder dies."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from lakehouse.errors import CommitConflict, ConfigurationError, ServiceFailed
from lakehouse.network.postgres import KEEPALIVE, BoundedConnection, connect_bounded
from lakehouse.settings import CatalogSettings

WAIT_SECONDS = 600


@dataclass(frozen=True)
class HeldLock:
    """A lock while it is held."""

    name: str
    connection: BoundedConnection

    def check(self) -> None:
        """Raise CommitConflict when the session is gone, and the lock with it."""
        try:
            self.connection.execute("select 1")
        except psycopg.Error as error:
            raise CommitConflict(
                f"publishing under the lock {self.name}",
                value=f"the session that held it is gone: {error}",
                allowed="one publisher at a time",
                remedy="Publish again; nothing was exchanged.",
            ) from error


@contextmanager
def publisher_lock(catalog: CatalogSettings, name: str) -> Iterator[HeldLock]:
    """Wait for the lock `name` and hold it.

    Raises ServiceFailed when Postgres does not answer, CommitConflict when another publisher holds the lock for ten minutes.
    """
    url = catalog.url.get_secret_value()
    if not url:
        raise ConfigurationError(
            f"taking the publisher's lock {name}",
            value="no Postgres of the platform is set",
            allowed="a `postgresql://…` URL",
            remedy="Set LAKEHOUSE_CATALOG__URL, or start the embedded servers with `lakehouse up`.",
        )
    try:
        connection = connect_bounded(
            url,
            answer_seconds=catalog.answer_seconds,
            **{
                "connect_timeout": max(1, math.ceil(catalog.connect_seconds)),
                "application_name": "lakehouse publish",
                **KEEPALIVE,
            },
        )
    except psycopg.OperationalError as error:
        raise _unavailable(name, error) from None
    with connection:
        _acquire(connection, name)
        yield HeldLock(name, connection)


def _acquire(connection: BoundedConnection, name: str) -> None:
    answer = connection.answer_seconds or 0
    try:
        connection.execute(f"set lock_timeout = '{WAIT_SECONDS}s'")
        connection.answer_seconds = WAIT_SECONDS + answer
        connection.execute("select pg_advisory_lock(%s)", (_number(name),))
        connection.answer_seconds = answer
    except psycopg.errors.LockNotAvailable:
        raise CommitConflict(
            f"taking the publisher's lock {name}",
            value=f"another publisher has held it for {WAIT_SECONDS} seconds",
            allowed="one publisher of a table at a time",
            remedy="Wait for the other run, or end it; the lock is free as soon as it is gone.",
        ) from None
    except psycopg.OperationalError as error:
        raise _unavailable(name, error) from None


def _unavailable(name: str, error: psycopg.Error) -> ServiceFailed:
    return ServiceFailed(
        f"taking the publisher's lock {name}",
        value=f"the platform's Postgres does not answer: {error}",
        allowed="a running Postgres",
        remedy="Start it (`lakehouse up`), or correct LAKEHOUSE_CATALOG__URL.",
    )


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"lakehouse.publish {name}".encode()).digest()[:8], "big", signed=True)
