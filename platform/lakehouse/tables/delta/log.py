"""The commits of a Delta table: `_delta_log/<version, 20 digits>.json`, an action a line.

See Delta's protocol, "Delta Log Entries".

A commit is one conditional PUT of the next number, so that of two writers from one version one wins; it is never tried again with
another number. delta-rs claims its numbers in the same way on a file system and on S3, and so does Spark with a log store that
puts conditionally; Spark's own log store for S3 does not, and must not write to these tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lakehouse.faults import effect
from lakehouse.stores import ObjectStore
from lakehouse.tables.datafiles import damaged_metadata

LOG_FOLDER = "_delta_log"
Action = Mapping[str, Any]
"""One action: its kind, and what it says."""

PROPERTIES = "lakehouse"
"""The field of a commit's `commitInfo` that holds the properties of `lakehouse.tables.marker`."""

SEQUENCE, ROWS, CHECKSUM, VERSION = "lakehouse.sequence", "lakehouse.rows", "lakehouse.checksum", "lakehouse.version"
"""Application ids of the `txn` actions that are the marker: they outlive the log's files, since checkpoints hold them.

The checksum is kept as a signed number of 64 bits. `lakehouse.version` is the table's version that the marker was committed with.
"""

FIRST = "lakehouse.first"
"""The application id of the `txn` action that says which version is the first that may be read: those before it are expired."""

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\..*parquet")
_NUMBERED = re.compile(r"(\d{20})\..+")
_READERS = 8


class DeltaLog:
    """The log of one table; a commit is read once."""

    def __init__(self, store: ObjectStore, root: str) -> None:
        self._store = store
        self.root = root
        self.folder = f"{root}/{LOG_FOLDER}"
        self._commits: dict[int, list[Action]] = {}
        self._listed: tuple[frozenset[int], frozenset[int]] | None = None

    def write(self, version: int, actions: Iterable[Action]) -> bool:
        """Claim a version; False when somebody else has it. See `ObjectStore.put_new`."""
        lines = "".join(json.dumps(action, separators=(",", ":"), ensure_ascii=False) + "\n" for action in actions)
        with effect("lake.commit"):
            return self._store.put_new(self.path(version), lines.encode())

    def path(self, version: int) -> str:
        """Where a version's commit is, in the store."""
        return f"{self.folder}/{version:020d}.json"

    def actions(self, version: int) -> Sequence[Action]:
        """The actions of one commit; DamagedData when it is gone, or cannot be parsed."""
        if version not in self._commits:
            tried = f"reading {self._store.url_of(self.path(version))}"
            try:
                lines = self._store.get(self.path(version)).decode().split("\n")
                found = [json.loads(line) for line in lines if line]
                if not found or not all(isinstance(action, dict) for action in found):
                    raise ValueError("a commit without actions")
            except FileNotFoundError:
                raise damaged_metadata(tried, "no such file", "every commit since the last checkpoint") from None
            except ValueError as error:
                raise damaged_metadata(tried, f"{type(error).__name__}: {error}", "a commit as it was written") from None
            self._commits[version] = found
        return self._commits[version]

    def info(self, version: int) -> Action:
        """The `commitInfo` of one commit, empty when it has none."""
        return next((action["commitInfo"] for action in self.actions(version) if "commitInfo" in action), {})

    def properties(self, version: int) -> dict[str, str]:
        """The properties that a commit of this platform carries; none for others."""
        found = self.info(version).get(PROPERTIES)
        return dict(found) if isinstance(found, dict) else {}

    def changes_rows(self, version: int) -> bool:
        """Whether a commit adds or removes rows; a rewrite of the same rows does not."""
        changes = (action.get("add") or action.get("remove") for action in self.actions(version))
        return any(change is not None and change.get("dataChange", True) for change in changes)

    def checkpoints(self) -> frozenset[int]:
        """The versions that have a checkpoint."""
        return self._list()[1]

    def readable(self, upto: int) -> list[int]:
        """The versions up to one that the log can still build, oldest first."""
        known, begun = self._list()
        found: list[int] = []
        whole = False
        for version in range(min(known | begun, default=0), upto + 1):
            whole = version in begun or (version in known and (whole or version == 0))
            if whole:
                found.append(version)
        return found

    def has(self, version: int) -> bool:
        """Whether a version's commit is still there."""
        return version in self._list()[0]

    def fetched(self, versions: Sequence[int]) -> Iterator[int]:
        """The same versions, their commits read ahead by several threads; those without a commit of their own are left out."""
        there = [version for version in versions if self.has(version)]
        with ThreadPoolExecutor(_READERS) as pool:
            for start in range(0, len(there), _READERS):
                ahead = there[start : start + _READERS]
                list(pool.map(self.actions, ahead))
                yield from ahead

    def names(self) -> list[str]:
        """Paths of all files of the log."""
        return [info.path for info in self._store.list(self.folder)]

    def names_from(self, first: int) -> list[str]:
        """Paths of the files of the log without those of versions before one."""
        numbers = ((path, _NUMBERED.fullmatch(path.rpartition("/")[2])) for path in self.names())
        return [path for path, number in numbers if number is None or int(number[1]) >= first]

    def _list(self) -> tuple[frozenset[int], frozenset[int]]:
        """The versions that have a commit, and those that have a checkpoint."""
        if self._listed is None:
            names = [path.rpartition("/")[2] for path in self.names()]
            matches = [_COMMIT.fullmatch(name) for name in names], [_CHECKPOINT.fullmatch(name) for name in names]
            commits, checkpoints = (frozenset(int(match[1]) for match in found if match) for found in matches)
            self._listed = commits, checkpoints
        return self._listed
