"""Threads that read ahead for a source lose nothing, hide no error and stop when asked."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from lakehouse.sources.prefetch import prefetched


class Producer:
    """Gives numbers, then fails if it was told to; remembers that it was closed."""

    def __init__(self, numbers: int, error: Exception | None = None) -> None:
        self.numbers = numbers
        self.error = error
        self.given = 0
        self.closed = threading.Event()

    def __call__(self) -> Generator[int, None, None]:
        try:
            for number in range(self.numbers):
                self.given += 1
                yield number
            if self.error:
                raise self.error
        finally:
            self.closed.set()


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lakehouse-source")]


@pytest.mark.parametrize("numbers", [[0], [5], [300, 1, 0, 70]])
def test_every_item_comes_once(numbers: list[int]) -> None:
    found = list(prefetched([Producer(count) for count in numbers], ahead=2))
    assert sorted(found) == sorted(number for count in numbers for number in range(count))
    assert not readers()


def test_items_of_one_producer_keep_their_order() -> None:
    assert list(prefetched([Producer(1000)], ahead=3)) == list(range(1000))


def test_no_more_than_the_bound_is_read_ahead() -> None:
    producer = Producer(1000)
    items = prefetched([producer], ahead=3)
    taken = [next(items) for _ in range(10)]
    assert taken == list(range(10))
    assert producer.given <= 10 + 3 + 1
    items.close()


def test_an_error_comes_after_what_was_read_before_it() -> None:
    items = prefetched([Producer(5, OSError("gone"))], ahead=10)
    assert [next(items) for _ in range(5)] == list(range(5))
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_an_error_of_one_producer_stops_the_others() -> None:
    endless, failing = Producer(10**9), Producer(3, OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        list(prefetched([endless, failing], ahead=2))
    assert endless.closed.is_set()
    assert failing.closed.is_set()
    assert not readers()


def test_an_error_that_nobody_foresaw_is_raised_and_not_taken_for_the_end() -> None:
    with pytest.raises(ZeroDivisionError):
        list(prefetched([Producer(3, ZeroDivisionError())], ahead=2))


def test_closing_closes_every_producer() -> None:
    producers = [Producer(10**9), Producer(10**9)]
    items = prefetched(producers, ahead=2)
    next(items)
    items.close()
    assert all(producer.closed.is_set() for producer in producers)
    assert not readers()
