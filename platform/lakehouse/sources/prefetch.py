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


class _Ended:
    """Put by a producer after its last item."""


_ENDED = _Ended()


def prefetched(producers: Sequence[Producer[T]], ahead: int) -> Generator[T, None, None]:
    """The items of all producers, each run in a thread of its own, in the order in which they come.

    At most `ahead` items wait. The first error of a producer stops the others and is raised after the items that came before it;
    closing the generator stops all. Every producer has been closed, in its own thread, when this ends.
    """
    items: queue.Queue[T | _Ended] = queue.Queue(maxsize=ahead)
    stop = threading.Event()
    with ThreadPoolExecutor(len(producers), thread_name_prefix="lakehouse-source") as pool:
        running = [pool.submit(_produce, producer, items, stop) for producer in producers]
        try:
            yield from _until_ended(items, running)
        finally:
            stop.set()
    for producer in running:
        producer.result()


def _produce(producer: Producer[T], items: queue.Queue[T | _Ended], stop: threading.Event) -> None:
    try:
        with closing(producer()) as produced:
            for item in produced:
                if not _put(items, item, stop):
                    return
                del item  # items may be large: nobody holds one who has passed it on
        _put(items, _ENDED, stop)
    except BaseException:
        stop.set()
        raise


def _put(items: queue.Queue[T | _Ended], item: T | _Ended, stop: threading.Event) -> bool:
    """Whether the item found room before everything was to stop."""
    while not stop.is_set():
        with suppress(queue.Full):
            items.put(item, timeout=_POLL_SECONDS)
            return True
    return False


def _until_ended(items: queue.Queue[T | _Ended], running: Sequence[Future[None]]) -> Generator[T, None, None]:
    """The items until every producer has said that it ended, or none is left to say so."""
    left = len(running)
    while left:
        try:
            item = items.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            if all(future.done() for future in running) and items.empty():
                return
            continue
        if isinstance(item, _Ended):
            left -= 1
        else:
            yield item
        del item
