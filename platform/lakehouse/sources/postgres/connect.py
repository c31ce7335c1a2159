"""Connections to a Postgres source, and what its errors mean."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from lakehouse.errors import ConfigurationError, LakehouseError, SourceMismatch, SourceUnavailable
from lakehouse.network.postgres import KEEPALIVE, BoundedConnection, connect_bounded
from lakehouse.sources.patience import Patience
from lakehouse.spec import Load

Connection = BoundedConnection
PATIENT = Patience()

_SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO,YMD",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "idle_in_transaction_session_timeout": "0",
    "max_parallel_workers_per_gather": "0",
}
"""Session settings: text forms must not depend on the server's configuration, the session that holds a snapshot idles, and a
session is one process of the server, so that a declared load means what it says."""

_DEFAULTS = {
    "application_name": "lakehouse",
    **KEEPALIVE,
}
"""libpq parameters that the URL may override."""

_DUCKDB_CONNECTING = re.compile(r'Unable to connect to Postgres at ".*": ')
_REFUSED = re.compile(
    r"password|authentication|pg_hba|role .* does not exist|database .* does not exist|not permitted to log in|permission"
    r"|does not support SSL|certificate|SSL error|sslmode"
)
_LOST = re.compile(
    r"terminating connection|server closed the connection|connection .*(lost|reset|closed|timed out|refused)|EOF detected"
    r"|could not (receive|send) data|no connection to the server|conflict with recovery"
)
_UNREADABLE = re.compile(r"invalid byte sequence for encoding|has no equivalent in encoding")
_TIMEOUT = re.compile(r"due to (statement|lock) timeout")
_MISSING = re.compile(r"(column|relation|table|schema) .* does not exist")
_DENIED = re.compile(r"permission denied")


def connection_string(url: str, source: str, load: Load, setting: str = "URL", patience: Patience = PATIENT) -> str:
    """The libpq connection string of a source's URL, with the platform's session settings; ConfigurationError when malformed."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            f"reading the {setting} of source {source!r}",
            allowed="postgresql://user:password@host:port/database[?parameter=value] with libpq's parameters",
            remedy=f"Correct LAKEHOUSE_SOURCES__{source.upper()}__{setting}; percent-encode special characters of the password.",
        ) from None
    timeouts = {"statement_timeout": load.statement_timeout, "lock_timeout": load.lock_timeout}
    session = {**_SESSION, **{name: str(int(time.total_seconds() * 1000)) for name, time in timeouts.items()}}
    options = " ".join(f"-c {name}={value}" for name, value in session.items())
    if given.get("options"):
        options = f"{options} {given['options']}"
    connecting = {"connect_timeout": str(max(1, math.ceil(patience.connect_seconds)))}
    parameters = {**_DEFAULTS, **connecting, **given, "client_encoding": "UTF8", "options": options}
    return make_conninfo("", **parameters)


def answer_bound(load: Load, patience: Patience) -> float | None:
    """Seconds in which any statement is answered: the server ends it at its declared limit; None where that is no limit."""
    limit = load.statement_timeout.total_seconds()
    return limit + patience.answer_seconds if limit else None


def connect(conninfo: str, source: str, answer_seconds: float | None = None) -> Connection:
    """A new autocommit connection; SourceUnavailable or ConfigurationError, never with the password in it."""
    try:
        return connect_bounded(conninfo, answer_seconds=answer_seconds)
    except psycopg.OperationalError as error:
        raise _connect_error(str(error), conninfo, source) from None


@contextmanager
def reading(tried: str) -> Iterator[None]:
    """Say what an error of Postgres in this block means."""
    try:
        yield
    except psycopg.Error as error:
        raise read_error(error, tried) from None


def read_error(error: Exception, tried: str) -> LakehouseError:
    """What an error in the middle of reading means. The text of libpq's errors never holds the password."""
    message = _one_line(str(error))
    if _DENIED.search(message):
        return ConfigurationError(tried, value=message, allowed="SELECT on the table", remedy="Grant the role SELECT on it.")
    if _MISSING.search(message):
        return SourceMismatch(
            tried,
            value=message,
            allowed="what was there when the run began",
            remedy="Run again; adapt the declaration if need be.",
        )
    if found := _TIMEOUT.search(message):
        return SourceUnavailable(
            tried,
            value=message,
            allowed=f"statements within the {found[1]}_timeout of the source's declared load",
            remedy=f"Run again when the server has less to do, or declare load=Load({found[1]}_timeout=…) on the source.",
        )
    return SourceUnavailable(
        tried, value=message, allowed="rows until the end of the table", remedy="Look at the server's log, then run again."
    )


def connection_lost(error: Exception) -> bool:
    """Whether an error says that the connection is gone, or a replica ended a read for its replay: reading again may help."""
    return _LOST.search(_one_line(str(error))) is not None


def text_unreadable(error: Exception) -> bool:
    """Whether the server has a text that it cannot give as UTF-8."""
    return _UNREADABLE.search(_one_line(str(error))) is not None


def _connect_error(message: str, conninfo: str, source: str) -> LakehouseError:
    at = conninfo_to_dict(conninfo)
    tried = f"connecting to source {source!r}, database {at.get('dbname')!r} at {at.get('host')}:{at.get('port', 5432)}"
    setting = f"LAKEHOUSE_SOURCES__{source.upper()}__URL"
    message = _one_line(message)
    if _REFUSED.search(message):
        return ConfigurationError(
            tried,
            value=message,
            allowed="a user, password and database that the server accepts",
            remedy=f"Correct {setting}.",
        )
    return SourceUnavailable(
        tried, value=message, allowed="a server that answers", remedy=f"Start the server, or correct host and port in {setting}."
    )


def _one_line(message: str) -> str:
    """The message without line ends, and without the whole connection string that DuckDB puts into some."""
    return _DUCKDB_CONNECTING.sub("connecting: ", " ".join(message.split()))
