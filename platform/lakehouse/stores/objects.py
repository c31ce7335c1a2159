"""The seam of object stores: what every one of them can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from lakehouse.errors import WrongUse


@dataclass(frozen=True)
class ObjectInfo:
    """One object: path relative to the store, size in bytes, time of the last write (UTC).

    tag: the store's own name of what the object holds, another one after each change of it; empty where the store gives none.
    """

    path: str
    size: int
    modified: datetime
    tag: str = ""


class ObjectStore(Protocol):
    """Objects by path: `/` between segments, no empty one, no `.` or `..`; whole objects appear at once or not at all.

    Every method raises StoreUnavailable when the store does not answer (after bounded retries), ConfigurationError when it
    refuses the keys or has no such bucket, WrongUse for a path that cannot be one. Methods may be called from several threads.
    """

    @property
    def url(self) -> str:
        """`s3://bucket[/prefix]` or `file:///folder`, without a slash at the end."""
        ...

    def check(self) -> None:
        """Prove by two writes of one path that the store can be used and that only the first wins; leaves nothing behind.

        Raises Unsupported for a store that lets the second write through: a raw log on it would lose batches.
        """
        ...

    def put_new(self, path: str, data: bytes) -> bool:
        """Write an object that is not there yet: True if this call wrote it, False if it was there already.

        Of any number of calls at once, in any number of processes, one gets True. The answer is right even if the store's own
        first answer was lost on the way. After StoreUnavailable the object may or may not be there.
        """
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write an object, replacing what was there."""
        ...

    def get(self, path: str) -> bytes:
        """A whole object; FileNotFoundError when there is none."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is an object of this path."""
        ...

    def upload(self, local: Path, path: str) -> None:
        """Write an object from a local file, in parts and with little memory, replacing what was there."""
        ...

    def download(self, path: str, local: Path) -> None:
        """Copy an object to a local file, with little memory; FileNotFoundError when there is none.

        After a failure the local file may hold a part of the object.
        """
        ...

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        """All objects below the folder `prefix`, at any depth, sorted by path; only those greater than the path `after`."""
        ...

    def page(self, folder: str, after: str | None = None) -> Sequence[ObjectInfo]:
        """The first of the objects below a folder that has no folders in it, sorted by path: at most 1,000, in one request."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object; it is no error when there is none."""
        ...

    def url_of(self, path: str) -> str:
        """The full address of a path in this store."""
        ...


def checked_path(path: str) -> str:
    """`path`, if it can be the path of an object; WrongUse otherwise."""
    if not path or any(segment in ("", ".", "..") for segment in path.split("/")) or "\0" in path:
        raise WrongUse(
            "naming an object of the store",
            value=repr(path),
            allowed="segments between single slashes, none of them empty, `.` or `..`",
            remedy="Give the path relative to the store's URL, without a slash at either end.",
        )
    return path
