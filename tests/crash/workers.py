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
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.windows import DayRange
from lakehouse.rows.checksum import checksum_of
from lakehouse.settings import Settings
from lakehouse.spec import Marker, Source, Table
from tests.crash.forks import FORKS

_BREATH = 0.2
"""Seconds between two rounds of a worker, so that the servers are never asked without a pause while one is down."""


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
            (notes / f"{work}.broken").open("a").write(traceback.format_exc())
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
    _judge(notes, seen, f"lake {name}", state.current.marker.sequence, (found.rows, found.hex), {_shown(state.current.marker)})
    before = here.warehouse.state(source.name, table)
    if before is None:
        return
    found = checksum_of(here.warehouse.scan(source.name, table, state.schema), state.schema)
    # Between two looks several versions may have been published: the lake knows them all.
    history = here.lake.history(source.name, table)
    possible = {_shown(version.marker) for version in history if version.marker.sequence >= before.marker.sequence}
    _judge(notes, seen, f"warehouse {name}", before.marker.sequence, (found.rows, found.hex), possible | {_shown(before.marker)})


def _shown(marker: Marker) -> tuple[int, str]:
    return marker.rows, marker.checksum


def _judge(
    notes: Path, seen: dict[str, int], what: str, sequence: int, found: tuple[int, str], possible: set[tuple[int, str]]
) -> None:
    with (notes / "reads").open("a") as reads:
        reads.write(f"{found[0]}\n")
    if found not in possible:
        (notes / "seen.broken").open("a").write(f"{what}: {found[0]} rows that no version from {sequence} on has\n")
    if sequence < seen.get(what, 0):
        (notes / "seen.broken").open("a").write(f"{what}: sequence {sequence} after {seen[what]}\n")
    seen[what] = sequence


WORK: dict[str, Callable[[Deployment, random.Random, Path, dict[str, int]], None]] = {
    "tick": _tick,
    "extract": _extract,
    "backfill": _backfill,
    "apply": _apply,
    "publish": _publish,
    "watch": _watch,
}
