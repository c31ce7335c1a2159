"""Items of an iterator worked on side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`map`, by so many threads: results in the order of the items, of which only so many are held at a time.

    The items are taken in the caller's thread. An error of the function is raised where its result would have come.
    """
    if threads < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[Result]] = deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) == threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
