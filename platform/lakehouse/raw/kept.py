"""Manifests that this machine has read before, so that a run does not ask the store for a table's whole past.

An entry of the log never changes once it is claimed. What is kept is used while the store lists the same object still, by the tag
that it gives each content; it is only a copy of what the store has, and may be deleted at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from lakehouse.stores import ObjectInfo


class KeptManifests:
    """The manifests of one log in a file: a line of JSON for each, `[path, tag, text]`, the last one of a path counts.

    Any number of processes may add to it at once. A line that was cut short, a file that cannot be written: the store is asked.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def find(self, listed: Iterable[ObjectInfo]) -> dict[str, bytes]:
        """By path: what is kept of the objects that are listed, as they are now."""
        wanted = {info.path: info.tag for info in listed if info.tag}
        found: dict[str, bytes] = {}
        with suppress(OSError), self._file.open("rb") as file:
            for line in file:
                with suppress(ValueError, TypeError):
                    path, tag, text = json.loads(line)
                    if wanted.get(path) == tag:
                        found[path] = text.encode()
        return found

    def add(self, read: Mapping[ObjectInfo, bytes]) -> None:
        """Keep what the store gave for objects that it had listed."""
        lines = [json.dumps([info.path, info.tag, data.decode()], ensure_ascii=False) for info, data in read.items() if info.tag]
        if not lines:
            return
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab", buffering=0) as file:
                # One write, behind whatever another process left unfinished.
                file.write("\n".join(["", *lines, ""]).encode())
