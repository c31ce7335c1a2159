"""Processes that work without end on a deployment of the example application, until they are killed; and readers that watch.

A worker goes on after every error of the platform, as a scheduler would. Anything else that it raises ends it, and its traceback
stays in its log: that is a finding. Readers are never killed. They write down what no reader should ever see.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

from assets import SOURCES
from lakehouse.demo.ticking import tick
from lakehouse.errors import LakehouseError
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import Extracted, extract_source
from lakehouse.pipeline.maintain import maintain_table
from lakehouse.pipeline.orphans import find_orphans, remove_orphans
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.repair import plan_repair, repair_table
from lakehouse.pipeline.rollback import rollback_table
from lakehouse.pipeline.windows import DayRange
from lakehouse.rows.checksum import checksum_of
from lakehouse.settings import Settings
from lakehouse.spec import Marker, Source, Table
from tests.crash.forks import FORKS
from tests.wear import wear

_BREATH = 0.2
"""Seconds between two rounds of a worker, so that the servers are never asked without a pause while one is down."""

WORN_SHARE = 0.5
"""Of the rounds of maintenance, those before which the table is worn."""


def start(work: str, settings: Settings, seed: int, notes: Path) -> BaseProcess:
    """Start a worker or a reader. notes: a folder for logs and findings."""
    process = FORKS.Process(target=_loop, args=(work, settings, seed, notes), daemon=True)
    process.start()
    return process


def _loop(work: str, settings: Settings, seed: int, notes: Path) -> None:
    os.setpgid(0, 0)
    here, dice, pause = Deployment(settings, SOURCES), random.Random(seed), threading.Event()
    log = (notes / f"{work}.log").open("a", buffering=1)
    sys.stdout = sys.stderr = log
    seen: dict[str, int] = {}
    while True:
        try:
            WORK[work](here, dice, notes, seen)
            (notes / f"{work}.rounds").open("a").write(".")
        except LakehouseError as error:
            log.write(f"{type(error).__name__}: {error}\n")
        except BaseException:
            _write(notes / f"{work}.broken", traceback.format_exc())
            raise
        pause.wait(_BREATH)


def _tick(here: Deployment, dice: random.Random, notes: Path, seen: dict[str, int]) -> None:
    tick(here.settings)


def _extract(here: Deployment, dice: random.Random, notes: Path, seen: dict[str, int]) -> None:
    source = dice.choice(here.sources)
    _raise_first(extract_source(here, source, source.tables))


def _backfill(here: Deployment, dice: random.Random, notes: Path, seen: dict[str, int]) -> None:
    source = dice.choice(here.sources)
    table = dice.choice(source.tables)
    if table.mode != "append" or dice.random() < 0.3:
        _raise_first(extract_source(here, source, [table], full=True))
        return
    days = [
        e.manifest.window.low.date() for e in here.log(source, table).entries() if e.manifest.window and e.manifest.window.low
    ]
    if days:
        first = dice.choice(days)
        _raise_first(extract_source(here, source, [table], days=DayRange(first, first + timedelta(days=dice.randrange(3)))))


def _raise_first(results: Sequence[Extracted]) -> None:
    for result in results:
        if result.error is not None:
            raise result.error


def _apply(here: Deployment, dice: random.Random, notes: Path, seen: dict[str, int]) -> None:
    apply_table(here, *_any_table(here, dice))


def _publish(here: Deployment, dice: random.Random, notes: Path, seen: dict[str, int]) -> None:
    publish_table(here, *_any_table(here, dice))


def _repair(here: Deployment, dice: random.Random, notes: Path, seen: dict[str, int]) -> None:
    """Look for damage: a kill makes none, so there must be nothing to do. A table that was never published is behind only."""
    source, table = _any_table(here, dice)
    if here.warehouse.state(source.name, table) is None:
        return
    plan = plan_repair(here, source, table)
    if plan.damaged:
        _write(notes / "repair.broken", f"{source.name}.{table.name}: {plan.diagnosis.damage}")
        repair_table(here, source, table, plan)


def _orphans(here: Deployment, dice: random.Random, notes: Path, seen: dict[str, int]) -> None:
    removed = remove_orphans(here, find_orphans(here, [_any_table(here, dice)]))
    _write(notes / "removed", f"{len(removed)}")


def _maintain(here: Deployment, dice: random.Random, notes: Path, seen: dict[str, int]) -> None:
    """Look after a table; what was to be compacted is made so by hand, since few would have come to it."""
    source, table = _any_table(here, dice)
    if here.lake.state(source.name, table) is None:
        return
    if dice.random() < WORN_SHARE:
        wear(here.settings, here.store, source.name, table)
    if done := maintain_table(here, source, table):
        _write(notes / "removed", f"{done.removed}")
        _write(notes / "expired", f"{len(done.expired)}")


def _rollback(here: Deployment, dice: random.Random, notes: Path, seen: dict[str, int]) -> None:
    """Take back up to three versions of a table, as somebody does who doubts them; then catch up."""
    source, table = _any_table(here, dice)
    if here.lake.state(source.name, table) is None:
        return
    history = here.lake.history(source.name, table)
    target = history[max(0, len(history) - 1 - dice.randrange(1, 4))]
    _write(_taken_back(notes, f"{source.name}.{table.name}"), f"{target.marker.sequence}")
    rollback_table(here, source, table, target.version)
    apply_table(here, source, table)
    publish_table(here, source, table)


def _write(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


def _taken_back(notes: Path, name: str) -> Path:
    """Where the sequences are noted to which a table was led back, each before that happened."""
    return notes / f"{name}.back"


def _any_table(here: Deployment, dice: random.Random) -> tuple[Source, Table]:
    return dice.choice(here.select())


def _watch(here: Deployment, dice: random.Random, notes: Path, seen: dict[str, int]) -> None:
    """Read one table in both copies: each must be one whole version, not older than the one that was seen before."""
    source, table = _any_table(here, dice)
    name = f"{source.name}.{table.name}"
    state = here.lake.state(source.name, table)
    if state is None:
        return
    found = checksum_of(here.lake.scan(source.name, table, version=state.current.version), state.schema)
    _judge(notes, seen, "lake", name, state.current.marker.sequence, (found.rows, found.hex), {_shown(state.current.marker)})
    before = here.warehouse.state(source.name, table)
    if before is None:
        if f"warehouse {name}" in seen:
            _write(notes / "seen.broken", f"warehouse {name}: it is gone")
        return
    found = checksum_of(here.warehouse.scan(source.name, table, state.schema), state.schema)
    # Between two looks several versions may have been published: the lake knows them all.
    history = here.lake.history(source.name, table)
    lowest = min([before.marker.sequence, *_back(notes, name)])
    possible = {_shown(version.marker) for version in history if version.marker.sequence >= lowest}
    possible.add(_shown(before.marker))
    _judge(notes, seen, "warehouse", name, before.marker.sequence, (found.rows, found.hex), possible)


def _shown(marker: Marker) -> tuple[int, str]:
    return marker.rows, marker.checksum


def _judge(
    notes: Path, seen: dict[str, int], copy: str, name: str, sequence: int, found: tuple[int, str], possible: set[tuple[int, str]]
) -> None:
    what = f"{copy} {name}"
    _write(notes / "reads", f"{found[0]}")
    if found not in possible:
        _write(notes / "seen.broken", f"{what}: {found[0]} rows that no version from {sequence} on has")
    if sequence < seen.get(what, 0) and not _excused(notes, seen, what, name, sequence):
        _write(notes / "seen.broken", f"{what}: sequence {sequence} after {seen[what]}")
    seen[what] = sequence


def _excused(notes: Path, seen: dict[str, int], what: str, name: str, sequence: int) -> bool:
    """Whether a copy may go back to a sequence: somebody rolled the table back so far, and that excuses nothing twice."""
    used = seen.get(f"excuses of {what}", 0)
    for number, back in enumerate(_back(notes, name)[used:], start=used + 1):
        if back <= sequence:
            seen[f"excuses of {what}"] = number
            return True
    return False


def _back(notes: Path, name: str) -> list[int]:
    path = _taken_back(notes, name)
    return [int(line) for line in path.read_text().split()] if path.exists() else []


WORK: dict[str, Callable[[Deployment, random.Random, Path, dict[str, int]], None]] = {
    "tick": _tick,
    "extract": _extract,
    "backfill": _backfill,
    "apply": _apply,
    "publish": _publish,
    "repair": _repair,
    "orphans": _orphans,
    "maintain": _maintain,
    "rollback": _rollback,
    "watch": _watch,
}
