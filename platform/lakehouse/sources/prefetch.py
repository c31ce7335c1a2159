"""Items that threads produce while the caller works on earlier ones, a bounded number ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TypeVar

T = TypeVar("T")
Producer = Callable[[], Generator[T, None, None]]

_POLL_SECONDS = 0.05
"""How often a thread that waits looks whether it should stop."""


def prefetched(producers: Sequence[Producer[T]], ahead: int) -> Generator[T, None, None]:
    """The items of all producers, each run in a thread of its own, in the order in which they come.

    At most `ahead` items wait. The first error of a producer stops the others and is raised after the items that came before it;
    closing the generator stops all. Every producer has been closed, in its own thread, when this ends.
    """
    items: queue.Queue[T] = queue.Queue(maxsize=ahead)
    stop = threading.Event()
    with ThreadPoolExecutor(len(producers), thread_name_prefix="lakehouse-source") as pool:
        running = [pool.submit(_produce, producer, items, stop) for producer in producers]
        try:
            while item := _next(items, running):
                yield item[0]
        finally:
            stop.set()
    for producer in running:
        producer.result()


def _produce(producer: Producer[T], items: queue.Queue[T], stop: threading.Event) -> None:
    try:
        with closing(producer()) as produced:
            for item in produced:
                if not _put(items, item, stop):
                    return
    except BaseException:
        stop.set()
        raise


def _put(items: queue.Queue[T], item: T, stop: threading.Event) -> bool:
    """Whether the item found room before everything was to stop."""
    while not stop.is_set():
        with suppress(queue.Full):
            items.put(item, timeout=_POLL_SECONDS)
            return True
    return False


def _next(items: queue.Queue[T], running: Sequence[Future[None]]) -> tuple[T] | None:
    """The next item, or None when no producer is left and none of its items."""
    while True:
        done = all(future.done() for future in running)
        with suppress(queue.Empty):
            return (items.get(block=not done, timeout=_POLL_SECONDS),)
        if done:
            return None
