"""What a repair or a rebuild leaves behind: one JSON object for each in the store, `repairs/<source>/<table>/<time>-<id>.json`,
or `rebuilds/…`.

It is written before anything is done, and again after each round, so that a repair that was killed has left one too: its `ended`
is null.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from lakehouse.pipeline.damage import Damage
from lakehouse.pipeline.deployment import Deployment
from lakehouse.spec import Source, Table

REPAIRS, REBUILDS = "repairs", "rebuilds"
"""Where the records of each are."""


@dataclass
class RepairRecord:
    """One repair, or one rebuild. who: user, machine and process. damaged: what a repair found. changes: what a rebuild was for.

    done: in words. problem: why it stopped, if it did.
    """

    table: str
    path: str
    who: str
    began: str
    ended: str | None = None
    damaged: list[dict[str, str]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    problem: str = ""

    def found(self, damage: tuple[Damage, ...]) -> None:
        """Note what was found, each thing once."""
        self.damaged += [shown for shown in map(asdict, damage) if shown not in self.damaged]


def begin_record(
    deployment: Deployment,
    source: Source,
    table: Table,
    damage: tuple[Damage, ...] = (),
    *,
    changes: tuple[str, ...] = (),
    folder: str = REPAIRS,
) -> RepairRecord:
    """A record of a repair, or of a rebuild, that is about to begin, in the store."""
    now = datetime.now(UTC)
    path = f"{_folder(folder, source, table)}/{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}.json"
    who = f"{_user()}@{socket.gethostname()}, process {os.getpid()}"
    record = RepairRecord(f"{source.name}.{table.name}", path, who, now.isoformat(), changes=[*changes])
    record.found(damage)
    save_record(deployment, record)
    return record


def save_record(deployment: Deployment, record: RepairRecord) -> None:
    """Write the record as it is now."""
    deployment.store.put(record.path, (json.dumps(asdict(record), indent=1) + "\n").encode())


def end_record(deployment: Deployment, record: RepairRecord, problem: str = "") -> None:
    """Say that the repair has ended."""
    record.ended = datetime.now(UTC).isoformat()
    record.problem = problem
    save_record(deployment, record)


def read_records(
    deployment: Deployment, source: Source, table: Table, last: int = 5, *, folder: str = REPAIRS
) -> list[RepairRecord]:
    """The last repairs or rebuilds of a table, oldest first; a record that cannot be read is left out: nothing hangs on it."""
    paths = [info.path for info in deployment.store.list(_folder(folder, source, table))][-last:]
    records = []
    for path in paths:
        try:
            records.append(RepairRecord(**json.loads(deployment.store.get(path))))
        except (ValueError, TypeError, FileNotFoundError):
            continue
    return records


def _folder(folder: str, source: Source, table: Table) -> str:
    return f"{folder}/{source.name}/{table.name}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
