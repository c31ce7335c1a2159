"""Items worked on by several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from lakehouse.threads import side_by_side


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    assert list(side_by_side(lambda item: item * 2, range(10), threads)) == list(range(0, 20, 2))
    assert list(side_by_side(lambda item: item, [], threads)) == []


def test_as_many_items_are_worked_on_at_once_as_there_are_threads() -> None:
    together = threading.Barrier(3, timeout=60)
    assert list(side_by_side(lambda _: together.wait() >= 0, range(6), 3)) == [True] * 6


def test_no_more_items_are_taken_than_are_worked_on() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = side_by_side(str, items(), 2)
    assert next(results) == "0"
    assert taken == [0, 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_comes_in_the_place_of_its_result(threads: int) -> None:
    results = side_by_side(lambda item: 1 // item, [2, 1, 0, 1], threads)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
