"""Processes that die or fail at the fault points: the next run is exact. `make crash` goes through all cases."""

from __future__ import annotations

from pathlib import Path

from tests.crash.matrix import Matrix, chosen, run_cases
from tests.shop import Shop

SEED = 7


def test_after_a_fault_at_any_point_the_next_run_loses_and_doubles_nothing(shop: Shop, tmp_path: Path) -> None:
    shop.run()
    matrix = Matrix(shop, tmp_path)
    tally = run_cases(matrix, chosen(matrix.cases(), SEED), print)
    assert tally.problems == []
    assert tally.clean
    assert tally.kills > 30
