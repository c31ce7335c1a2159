"""What it means when the local disk has no room."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lakehouse.errors import StoreUnavailable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def needing_room(folder: Path) -> Iterator[None]:
    """Say what an error of a full disk in this block means: StoreUnavailable, and nothing was claimed or committed."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise disk_full(folder, error) from error


def disk_full(folder: Path, error: Exception) -> StoreUnavailable:
    """The error of a full disk."""
    return StoreUnavailable(
        f"writing temporary files under {folder}",
        value=" ".join(str(error).split()),
        allowed="a disk that has room for them",
        remedy="Free the disk (`df -h`), or set LAKEHOUSE_HOME and TMPDIR to others; then run it again. Nothing was claimed.",
    )
