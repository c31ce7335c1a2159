"""The table that a commit is made to, and what became of one whose answer was an error, whatever the format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Target:
    """The table that is committed to, and where it is."""

    settings: Settings
    store: ObjectStore
    format: TableFormat
    source: str
    table: Table

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.source}.{self.table.name}"

    def after_failure(self, tried: str, error: Exception, *, commit_id: str, stored: Sequence[StoredFile]) -> TableState:
        """The table as the commit left it, if that went through although its answer did not come; CommitConflict otherwise.

        stored: the files that the commit names; they are deleted when it certainly did not go through. StoreUnavailable when that
        is why nobody knows.
        """
        handle = self.format.load(self.source, self.table)
        if handle is not None and (version := handle.committed(commit_id)) is not None:
            return handle.state(version)
        if isinstance(error, CommitMoved):
            self.delete(stored)
        if isinstance(error.__cause__, StoreUnavailable):
            raise error.__cause__
        if isinstance(error.__cause__, OSError):
            raise StoreUnavailable(
                tried,
                value=str(error.__cause__),
                allowed=f"an answer from {self.settings.store.endpoint or 'the object store'}",
                remedy="Look at the store, then run this again: nothing was committed.",
            ) from error
        raise conflict(tried, error) from error

    def delete(self, stored: Sequence[StoredFile]) -> None:
        """Delete files that no commit will name."""
        for file in stored:
            self.store.delete(file.url.removeprefix(self.store.url + "/"))
