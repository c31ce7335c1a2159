"""Processes that die, fail or are overtaken at the fault points: the next run is exact. `make crash` goes through all cases."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.matrix import FRESH, LATER, ONE_OF_EACH_FORMAT, WORN, Case, Matrix, both_formats, chosen, run_cases
from tests.shop import Shop
from tests.unit.test_faults import points_in_the_code

SEED = 7
COMMITS = ("lake.commit", "lake.expire")
AT_A_RUN = {"statistics.build"}
"""Points of Dagster's steps alone; `test_run_killed.py` comes by them."""
AT_A_SOFT_DELETE = {"warehouse.view"}
"""Points of tables that hide rows; `test_soft_deletes_killed.py` comes by them."""
AT_A_RESTORE = {"restore.catalog", "restore.dagster"}
"""Points on no table's way: all tables come back at once, into an empty place; `test_backup.py` comes by them."""


BEGUN = (*ONE_OF_EACH_FORMAT, "clicks.clicks")
"""Tables that are taken when nothing is there of them, too: of each format and of each kind of source one."""


@pytest.fixture
def matrix(shop: Shop, tmp_path: Path) -> Iterator[Matrix]:
    shop.deployment = both_formats(shop.deployment)
    shop.run()
    matrix = Matrix(shop, tmp_path)
    yield matrix
    assert matrix.tally.problems == []
    assert matrix.tally.clean
    assert matrix.tally.rows_checked > 0


@pytest.mark.timeout(1200)
def test_after_a_fault_at_any_point_the_next_run_loses_and_doubles_nothing(matrix: Matrix) -> None:
    rows = [row for row in matrix.rows() if row.state != FRESH or row.table in BEGUN]
    cases = [case for row in rows for case in matrix.cases(row)]
    passed = {case.passed.point for case in cases}
    assert passed | AT_A_RUN | AT_A_SOFT_DELETE | AT_A_RESTORE == points_in_the_code()
    run_cases(matrix, chosen(cases, SEED), print)
    assert matrix.tally.points == passed
    assert min(matrix.tally.kills, matrix.tally.failures) >= len(passed)


def test_a_process_that_is_overtaken_or_rolled_back_at_any_point_loses_and_doubles_nothing(matrix: Matrix) -> None:
    dice = random.Random(SEED)
    points: dict[str, list[Case]] = {}
    for case in (case for row in matrix.rows([LATER]) for case in matrix.cases(row, ["hang"])):
        if case.passed.moment == "before" and case.passed.point != "warehouse.database":
            points.setdefault(case.passed.point, []).append(case)
    for found in points.values():
        matrix.overlap(dice.choice(found), matrix.another)
        matrix.overlap(dice.choice(found), matrix.rollback)


def test_maintenance_and_a_run_may_overtake_each_other_at_any_commit(matrix: Matrix) -> None:
    for row in matrix.rows([LATER, WORN], ONE_OF_EACH_FORMAT):
        meanwhile = matrix.another if row.state == WORN else matrix.maintain
        for case in matrix.cases(row, ["hang"]):
            if case.passed.point in COMMITS and (case.passed.moment, case.passed.nth) == ("before", 1):
                matrix.overlap(case, meanwhile)
