"""The systems that are read. One row of the registry for each kind; a kind is imported when a source of it is opened."""

from __future__ import annotations

from importlib import import_module

from lakehouse.errors import Unsupported
from lakehouse.sources.patience import Patience
from lakehouse.sources.reader import SourceReader, SourceSnapshot
from lakehouse.spec import Source

__all__ = ["Patience", "SourceReader", "SourceSnapshot", "open_source"]

PATIENT = Patience()

_READERS = {
    "postgres": ("lakehouse.sources.postgres", "PostgresReader"),
    "mongodb": ("lakehouse.sources.mongodb", "MongoReader"),
}
"""Kind: module and class; the class is called with the Source and its URL."""


def open_source(source: Source, url: str, replica_url: str | None = None, patience: Patience = PATIENT) -> SourceReader:
    """The reader of a source; no I/O yet. Unsupported when its kind has none, or cannot be read from a replica by its URL."""
    if source.kind not in _READERS:
        raise Unsupported(
            f"opening source {source.name!r}",
            value=f"kind {source.kind!r}",
            allowed=", ".join(sorted(_READERS)),
            remedy="Declare the source with one of these kinds.",
        )
    module, name = _READERS[source.kind]
    if replica_url and source.kind != "postgres":
        raise Unsupported(
            f"opening source {source.name!r} with a replica",
            value=f"kind {source.kind!r}",
            allowed="a replica_url for Postgres; MongoDB's driver finds replicas by itself",
            remedy="Give the URL a readPreference.",
        )
    replica = {"replica_url": replica_url} if replica_url else {}
    reader: SourceReader = getattr(import_module(module), name)(source, url, patience=patience, **replica)
    return reader
