"""The example deployment, killed as a machine is: the run that is under way and all servers at once; then `up` and `run`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.crash.tally import Tally
from tests.crash.truth import compare, settings_of
from tests.deployments import Project
from tests.servers import SERVERS

MOMENTS = (
    "done +chronochat__extract",
    "done +chronochat_mongo__extract",
    "done +lake__chronochat__users",
    "done +lake__chronochat_mongo__messages",
    "done +warehouse__chronochat__users",
    "Building .* of the statistics",
)
"""Lines of a run; everything dies right after one of them."""


def restarts(project: Project, seed: int, say: Callable[[str], None]) -> Tally:
    """A tick of the application and a run that dies, once after each of `MOMENTS`, in an order that the seed gives.

    recovery: seconds from the start of the servers until a run has ended well.
    """
    tally = Tally("restarts")
    for moment in random.Random(seed).sample(MOMENTS, len(MOMENTS)):
        project.lakehouse("demo", "tick")
        run = project.started("run", "--no-show")
        run.wait_for(lambda run=run, moment=moment: run.said(moment) is not None)  # type: ignore[misc]
        tally.kills += run.process.poll() is None
        run.kill()
        for server in SERVERS:
            project.kill(server)
            tally.kills += 1
        began = time.perf_counter()
        project.lakehouse("up")
        up = time.perf_counter() - began
        ended = project.lakehouse("run", "--no-show", ends=None)
        tally.recovery.append(time.perf_counter() - began)
        say(f"killed after {moment!r}: up in {up:.1f} s, all in {tally.recovery[-1]:.1f} s")
        if ended.code != 0:
            tally.manual_steps += 1
            tally.problems.append(f"a run after the restart failed: {ended.err[-2000:]}")
        compare(project, settings_of(project), tally)
    return tally
