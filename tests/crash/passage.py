"""What is done to one table in a process of its own, which a fault may end: its whole way, or what else there is to do."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

from lakehouse import faults
from lakehouse.errors import LakehouseError
from lakehouse.pipeline import maintain, orphans
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.orphans import find_orphans, remove_orphans
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.repair import plan_repair, repair_table
from lakehouse.pipeline.rollback import rollback_table
from lakehouse.pipeline.statistics import mark_built, stale_statistics
from lakehouse.pipeline.tags import tag_version
from lakehouse.pipeline.verify import verify_source_tables
from lakehouse.pipeline.verify_results import keep_results
from lakehouse.settings import Settings
from tests.crash.forks import FORKS
from tests.shop import CLICKS, SHOP, SHOP_IN_DELTA

FAILED = 3
"""Exit code of a passage that ended with an error of the platform."""
MISSED = 4
"""Exit code of a passage that never came by its fault: how often a point is passed depends on the history."""


@dataclass(frozen=True)
class Passed:
    """One fault point as an undisturbed passage came by it; nth: how often it had by then, at this moment of it."""

    point: str
    moment: str
    nth: int

    def fault(self, action: str) -> str:
        """The fault that makes the action happen here."""
        return f"{self.point}:{self.moment}:{action}:{self.nth}"


def start(settings: Settings, table: str, *, work: str = "take", fault: str = "", seen: Path | None = None) -> BaseProcess:
    """Start a passage of a table (`source.table`); with a fault, or writing the points that it passes to `seen`."""
    process = FORKS.Process(target=_pass, args=(settings, table, work, fault, seen))
    process.start()
    return process


def stopped(process: BaseProcess) -> bool:
    """Whether a passage hangs at its fault, or has ended without coming by it."""
    try:
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state in "TZ"


def go_on(process: BaseProcess) -> None:
    """Let a passage that hangs go on."""
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGCONT)


def take(deployment: Deployment, name: str, *, upto: str = "warehouse") -> None:
    """Extract, apply and publish one table, or only what comes before; an error of the platform leaves as it is."""
    source, table = deployment.select([name])[0]
    for result in extract_source(deployment, source, [table]):
        if result.error is not None:
            raise result.error
    apply_table(deployment, source, table)
    if upto == "warehouse":
        publish_table(deployment, source, table)


def _repair(deployment: Deployment, name: str) -> None:
    source, table = deployment.select([name])[0]
    repair_table(deployment, source, table, plan_repair(deployment, source, table))


def _verify(deployment: Deployment, name: str) -> None:
    source, table = deployment.select([name])[0]
    keep_results(deployment, verify_source_tables(deployment, source, [table]))


def _rollback(deployment: Deployment, name: str) -> None:
    source, table = deployment.select([name])[0]
    rollback_table(deployment, source, table, deployment.lake.history(source.name, table)[-2].version)


def _tag(deployment: Deployment, name: str) -> None:
    """Give the newest version one more name."""
    source, table = deployment.select([name])[0]
    tag_version(deployment, source, table, f"v{uuid.uuid4().hex}")


def _maintain(deployment: Deployment, name: str) -> None:
    """Look after a table as if all that it has were old."""
    rules = deployment.settings.maintenance.model_copy(update={"keep_days": 0, "keep_versions": 1})
    here = Deployment(deployment.settings.model_copy(update={"maintenance": rules}), deployment.sources)
    with patch.object(maintain, "oldest_writer", _no_time), patch.object(orphans, "oldest_writer", _no_time):
        maintain.maintain_table(here, *here.select([name])[0])


def _no_time(deployment: Deployment) -> timedelta:
    """Everything is older: the clocks of this machine and of its servers are one."""
    return timedelta(microseconds=-1)


def _orphans(deployment: Deployment, name: str) -> None:
    """Remove what nothing names, however young it is: nobody else is writing."""
    found = find_orphans(deployment, deployment.select([name]))
    old = tuple(replace(orphan, young=False) for orphan in found.found if orphan.where != "scratch")
    remove_orphans(deployment, replace(found, found=old))


def _statistics(deployment: Deployment, name: str) -> None:
    """What stands around a build by dbt: which days are stale, and that they are not any more."""
    mark_built(deployment, stale_statistics(deployment))


WORK: dict[str, Callable[[Deployment, str], None]] = {
    "take": take,
    "repair": _repair,
    "verify": _verify,
    "rollback": _rollback,
    "orphans": _orphans,
    "maintain": _maintain,
    "statistics": _statistics,
    "tag": _tag,
}
"""What can be done to a table."""


def points_in(seen: Path) -> Iterator[Passed]:
    """What a passage wrote down."""
    counts: dict[tuple[str, str], int] = {}
    for line in seen.read_text().splitlines():
        point, moment = line.split()
        counts[point, moment] = counts.get((point, moment), 0) + 1
        yield Passed(point, moment, counts[point, moment])


def _pass(settings: Settings, table: str, work: str, fault: str, seen: Path | None) -> None:
    os.setpgid(0, 0)
    came: list[tuple[str, str]] = []
    if fault:
        _arm(fault, came)
    with _seen(seen), suppress(BrokenPipeError):
        try:
            WORK[work](Deployment(settings, (SHOP, SHOP_IN_DELTA, CLICKS)), table)
        except (LakehouseError, faults.FaultInjected) as error:
            print(f"{work} {table} {fault}: {error}", flush=True)
            os._exit(FAILED)
    os._exit(MISSED if _is_missed(fault, came) else 0)


def _arm(fault: str, came: list[tuple[str, str]]) -> None:
    """Arm a fault, and write down every point that is passed."""
    faults.arm(fault)
    armed = faults._watch
    assert armed is not None

    def seen(point: str, moment: faults.Moment) -> None:
        came.append((point, moment))
        armed(point, moment)

    faults.watch(seen)


def _is_missed(fault: str, came: list[tuple[str, str]]) -> bool:
    if not fault:
        return False
    point, moment, _, nth = fault.split(":")
    return came.count((point, moment)) < int(nth)


@contextmanager
def _seen(seen: Path | None) -> Iterator[None]:
    if seen is None:
        yield
        return
    with seen.open("a", buffering=1) as file:
        faults.watch(lambda point, moment: print(point, moment, file=file))
        yield
        faults.watch(None)
