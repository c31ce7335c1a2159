"""Folders for temporary files that do not outlive their process, not even a killed one."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lakehouse.stores import needing_room

PREFIX = "lakehouse-scratch-"
UNLOCKED = "lakehouse-unlocked-"
LOCK = ".lock"


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new folder below `parent` (default: the system's), removed at the end.

    While it is in use a lock on a file in it is held; folders that nobody holds any more were left by killed processes and are
    removed on this occasion.
    """
    root = Path(tempfile.gettempdir()) if parent is None else parent
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    unlocked = Path(tempfile.mkdtemp(prefix=UNLOCKED, dir=root))
    folder = root / unlocked.name.replace(UNLOCKED, PREFIX, 1)
    with (unlocked / LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unlocked.rename(folder)
        try:
            with needing_room(root):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError), (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
