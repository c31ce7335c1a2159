"""Connections to a MongoDB source, and what its errors mean."""

from __future__ import annotations

from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConfigurationError as MongoConfigurationError
from pymongo.errors import InvalidURI, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from lakehouse.errors import ConfigurationError, LakehouseError, SourceUnavailable
from lakehouse.sources.patience import Patience

Client = MongoClient[dict[str, Any]]

_REFUSED_CODES = (13, 18, 8000)
"""Unauthorized, AuthenticationFailed, AtlasError."""
_TOO_OLD_CODES = (239, 246)
"""SnapshotTooOld, SnapshotUnavailable."""
PATIENT = Patience()


def open_client(url: str, source: str, patience: Patience = PATIENT) -> tuple[Client, str]:
    """A client that has not connected yet, and the database's name; ConfigurationError when the URL is malformed."""
    try:
        options: dict[str, Any] = {"connect": False, "appname": "lakehouse"}
        connecting, answering = int(patience.connect_seconds * 1000), int(patience.answer_seconds * 1000)
        bounds = {
            "serverSelectionTimeoutMS": connecting,
            "connectTimeoutMS": connecting,
            "socketTimeoutMS": answering,
        }
        options |= {name: bound for name, bound in bounds.items() if name.lower() not in url.lower()}
        client: Client = MongoClient(url, **options)
        name = client.get_default_database().name
    except (InvalidURI, MongoConfigurationError, ValueError):
        raise ConfigurationError(
            f"reading the URL of source {source!r}",
            allowed="mongodb://user:password@host:port/database[?option=value] (or mongodb+srv://)",
            remedy=f"Correct {_setting(source)}; name the database, percent-encode special characters of the password.",
        ) from None
    return client, name


def address(url: str) -> str:
    """The hosts of a URL, without user or password."""
    try:
        return ", ".join(f"{host}:{port}" for host, port in parse_uri(url)["nodelist"])
    except (PyMongoError, ValueError):
        return "the address of the URL"


def connect_error(error: PyMongoError, tried: str, source: str) -> LakehouseError:
    """What an error of the first request means."""
    if isinstance(error, OperationFailure) and error.code in _REFUSED_CODES:
        return ConfigurationError(
            tried,
            value=_text(error),
            allowed="a user and password that the server accepts, with the right to read the database",
            remedy=f"Correct {_setting(source)} (`authSource` names the database that knows the user).",
        )
    return SourceUnavailable(
        tried,
        value=_text(error),
        allowed="a server that answers",
        remedy=f"Start the server, or correct host and port in {_setting(source)}.",
    )


def read_error(error: PyMongoError, tried: str) -> LakehouseError:
    """What an error in the middle of reading means."""
    if isinstance(error, OperationFailure) and error.code in _REFUSED_CODES:
        return ConfigurationError(
            tried, value=_text(error), allowed="the right to read it", remedy="Grant the user the role `read` on the database."
        )
    if isinstance(error, OperationFailure) and error.code in _TOO_OLD_CODES:
        return SourceUnavailable(
            tried,
            value=_text(error),
            allowed="a read that ends while the server still keeps the cluster time at which it began (five minutes by default)",
            remedy="Run fewer days at once, or raise minSnapshotHistoryWindowInSeconds on the server; then run again.",
        )
    return SourceUnavailable(
        tried,
        value=_text(error),
        allowed="documents until the end of the collection",
        remedy="Look at the server's log, then run again.",
    )


def _setting(source: str) -> str:
    return f"LAKEHOUSE_SOURCES__{source.upper()}__URL"


def _text(error: PyMongoError) -> str:
    details = error.details if isinstance(error, OperationFailure) and error.details else {}
    return str(details.get("errmsg") or error).split(", Topology Description", 1)[0]
