"""A short soak of random kills; `make crash KILLS=1000` makes a long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.soak import UNTIL, Soak
from tests.deployments import SMALL, demo_project

KILLS = 25
SEED = 11


@pytest.mark.timeout(900)
def test_whatever_is_killed_at_random_one_run_makes_every_table_what_the_source_committed(tmp_path: Path) -> None:
    with demo_project((*SMALL, "--until", UNTIL), run=False) as project:
        tally = Soak(project, SEED, tmp_path, print).run(KILLS)
    assert tally.problems == []
    assert tally.clean
    assert tally.kills == KILLS
