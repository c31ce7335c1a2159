"""Everything at once, killed at random: then one run, and every table is what the source really committed.

Ticks of the application, extraction, backfills, apply, publish, repairs, rollbacks, maintenance and whole runs with dbt work side
by side in processes of their own. Any of them, and any of the four servers, is killed at random moments. Readers watch all the
while.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from lakehouse.services.processes import poll
from lakehouse.settings import MaintenanceSettings
from tests.crash import workers
from tests.crash.tally import Tally
from tests.crash.truth import compare, settings_of
from tests.deployments import Project, Running
from tests.servers import SERVERS

WORKERS = (
    *("tick", "extract", "extract", "backfill", "apply", "apply", "publish", "publish"),
    *("repair", "rollback", "orphans", "maintain"),
)
LONGEST_WRITE_HOURS = 1 / 60
"""One minute; what is twice as old and named by nobody is removed. A batch here takes seconds."""
KEEP_VERSIONS = 6
"""More than a rollback goes back; older ones expire two minutes after they were current."""
SERVER_SHARE = 0.06
"""Of the kills; a server takes seconds to come back, in which little else happens."""
RUN_SHARE = 0.08
UNTIL = "2026-06-01"
"""The last day of the demo that is loaded: the ticks after it must not reach today."""
PATIENCE = 240
"""Seconds after the last kill in which each kind of worker has finished a round at last: a few kills can leave one none."""
LONGEST = 0.5
"""Seconds between two kills, at most."""


class Soak:
    """One soak of a project whose servers are up and whose demo is loaded. The same seed makes the same choices."""

    def __init__(self, project: Project, seed: int, notes: Path, say: Callable[[str], None]) -> None:
        self._project = project
        self._dice = random.Random(seed)
        self._seed = seed
        self._notes = notes
        self._say = say
        self._settings = settings_of(project).model_copy(
            update={
                "longest_write_hours": LONGEST_WRITE_HOURS,
                "maintenance": MaintenanceSettings(keep_days=0, keep_versions=KEEP_VERSIONS),
            }
        )
        self._processes: dict[int, BaseProcess] = {}
        self._reader: BaseProcess | None = None
        self._run: Running | None = None
        self.tally = Tally("random kills")

    def run(self, kills: int) -> Tally:
        """Kill that often, let it settle, compare."""
        try:
            self._reader = workers.start("watch", self._settings, self._seed, self._notes)
            for slot in range(len(WORKERS)):
                self._spawn(slot)
            pause = threading.Event()
            while self.tally.kills < kills:
                pause.wait(self._dice.uniform(0.01, LONGEST))
                before = self.tally.kills
                self._kill_one()
                if self.tally.kills // 50 > before // 50:
                    self._say(f"{self.tally.kills} of {kills} kills")
            poll(lambda: not self._idle(), seconds=PATIENCE)
        finally:
            self._stop_all()
        self._settle()
        return self.tally

    def _spawn(self, slot: int) -> None:
        self._processes[slot] = workers.start(WORKERS[slot], self._settings, self._dice.randrange(2**32), self._notes)

    def _kill_one(self) -> None:
        """Kill something, and start it again; what had ended by itself does not count."""
        chance = self._dice.random()
        if chance < SERVER_SHARE:
            server = self._dice.choice(SERVERS)
            self._project.kill(server)
            self.tally.kills += 1
            self._project.lakehouse("up")
        elif chance < SERVER_SHARE + RUN_SHARE:
            if self._run is not None:
                self.tally.kills += self._run.process.poll() is None
                self._run.kill()
            self._run = self._project.started("run", "--no-show")
        else:
            slot = self._dice.randrange(len(WORKERS))
            self.tally.kills += self._processes[slot].is_alive()
            self._processes[slot].kill()
            self._processes[slot].join()
            self._spawn(slot)

    def _stop_all(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.join()
        if self._run is not None:
            self._run.kill()

    def _settle(self) -> None:
        """All servers die, too; then `up` and `run` are all that anybody does."""
        for server in SERVERS:
            self._project.kill(server)
        began = time.perf_counter()
        self._project.lakehouse("up")
        for _ in range(3):
            ended = self._project.lakehouse("run", "--no-show", ends=None)
            if ended.code == 0:
                break
            self.tally.manual_steps += 1
            self.tally.problems.append(f"a run after the last kill failed: {ended.err[-2000:]}")
        self.tally.recovery.append(time.perf_counter() - began)
        assert self._reader is not None
        self._reader.kill()
        self._reader.join()
        self._compare()
        self._read_notes()

    def _compare(self) -> None:
        compare(self._project, self._settings, self.tally)
        before, days = self._project.statistics(), sorted(self._project.built_at())
        self._project.lakehouse("run", "--from", days[0], "--to", days[-1], "--no-show")
        if self._project.statistics() != before:
            self.tally.problems.append("the statistics are not those that building all days anew gives")

    def _read_notes(self) -> None:
        self.tally.problems += [f"{path.name}: {path.read_text()[-3000:]}" for path in sorted(self._notes.glob("*.broken"))]
        reads = self._notes / "reads"
        self.tally.rows_checked += sum(int(line) for line in reads.read_text().split()) if reads.exists() else 0
        rounds = self._rounds()
        removed = self._notes / "removed"
        orphans = sum(map(int, removed.read_text().split())) if removed.exists() else 0
        expired = sum(map(int, (self._notes / "expired").read_text().split())) if (self._notes / "expired").exists() else 0
        self._say(f"finished rounds: {rounds}; orphans removed: {orphans}; versions expired: {expired}")
        if idle := self._idle():
            self.tally.problems.append(f"no round of {', '.join(idle)} ever finished: the soak shows nothing of them")

    def _rounds(self) -> dict[str, int]:
        """How many rounds each kind of worker finished."""
        return {path.stem: path.stat().st_size for path in sorted(self._notes.glob("*.rounds"))}

    def _idle(self) -> list[str]:
        """The kinds of worker that have not finished a round yet."""
        return sorted({*WORKERS, "watch"} - self._rounds().keys())
