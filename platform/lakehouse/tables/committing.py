"""What became of a commit whose answer was an error, whatever the format."""

from __future__ import annotations

from collections.abc import Sequence

from lakehouse.errors import CommitConflict, StoreUnavailable
from lakehouse.settings import Settings
from lakehouse.spec import Table
from lakehouse.stores import ObjectStore
from lakehouse.tables.engine import TableState
from lakehouse.tables.format import CommitMoved, StoredFile, TableFormat


def conflict(tried: str, error: Exception) -> CommitConflict:
    """The error of a commit that did not go through because the table moved."""
    cause = error.__cause__ or error
    return CommitConflict(
        tried,
        value=f"{type(cause).__name__}: {cause}",
        allowed="a table that nobody moved since it was read",
        remedy="Call it again: it reads the watermark anew and applies what is left.",
    )


def after_failure(
    format_: TableFormat,
    store: ObjectStore,
    settings: Settings,
    source: str,
    table: Table,
    tried: str,
    error: Exception,
    *,
    commit_id: str,
    stored: Sequence[StoredFile],
) -> TableState:
    """The table as the commit left it, if that went through although its answer did not come; CommitConflict otherwise.

    stored: the files that the commit names; they are deleted when it certainly did not go through. StoreUnavailable when that is
    why nobody knows.
    """
    handle = format_.load(source, table)
    if handle is not None and (version := handle.committed(commit_id)) is not None:
        return handle.state(version)
    if isinstance(error, CommitMoved):
        delete_stored(store, stored)
    if isinstance(error.__cause__, StoreUnavailable):
        raise error.__cause__
    if isinstance(error.__cause__, OSError):
        raise StoreUnavailable(
            tried,
            value=str(error.__cause__),
            allowed=f"an answer from {settings.store.endpoint or 'the object store'}",
            remedy="Look at the store, then run this again: nothing was committed.",
        ) from error
    raise conflict(tried, error) from error


def delete_stored(store: ObjectStore, stored: Sequence[StoredFile]) -> None:
    """Delete files that no commit will name."""
    for file in stored:
        store.delete(file.url.removeprefix(store.url + "/"))
