"""Fault points: every effect outside of the process has a name, and a test can make the process fail just before or after it.

    with effect("raw.claim"):
        store.put_new(path, manifest)

Without a fault that costs a look at one variable. `LAKEHOUSE_FAULT=<point>:<moment>:<action>[:<nth>]` arms one for a process, at
the nth passage (default: the first):

- `before:kill`, `after:kill`: SIGKILL to the whole process group;
- `before:hang`, `after:hang`: the process stops (SIGSTOP), until somebody kills it or lets it go on (SIGCONT);
- `before:error`: the effect fails and has not happened;
- `after:error`: the effect has happened, and its answer is lost: success, reported as failure.

`docs/exactly-once.md` lists the points; `make crash` goes through all of them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from lakehouse.errors import WrongUse

Moment = Literal["before", "after"]
Action = Literal["kill", "hang", "error"]
VARIABLE = "LAKEHOUSE_FAULT"


class FaultInjected(ConnectionError):
    """The failure that a fault point was told to show; effects treat it as what their own connection may raise."""


_watch: Callable[[str, Moment], None] | None = None


@contextmanager
def effect(point: str) -> Iterator[None]:
    """Mark an effect outside of the process by its name, written `<hop>.<what>`."""
    if _watch is None:
        yield
        return
    _watch(point, "before")
    yield
    _watch(point, "after")


def watch(seen: Callable[[str, Moment], None] | None) -> None:
    """Call `seen` at every fault point that this process passes; None ends that."""
    global _watch
    _watch = seen


def arm(fault: str) -> None:
    """Make one fault happen in this process; WrongUse when it is not written as above."""
    parts = fault.split(":")
    point, moment, action, nth = (*parts, "1")[:4] if len(parts) in (3, 4) else ("", "", "", "")
    if not point or moment not in get_args(Moment) or action not in get_args(Action) or not nth.isdecimal() or nth == "0":
        raise WrongUse(
            f"arming a fault by {VARIABLE}",
            value=fault,
            allowed="<point>:before|after:kill|hang|error[:<nth>], nth from 1",
            remedy=f"Unset {VARIABLE}, or name one of the points in docs/exactly-once.md.",
        )
    left, lock = int(nth), threading.Lock()

    def seen(passed: str, at: Moment) -> None:
        nonlocal left
        if (passed, at) != (point, moment):
            return
        with lock:
            left -= 1
            due = left == 0
        if due:
            _fail(action, fault)

    watch(seen)


def _fail(action: str, fault: str) -> None:
    if action == "kill":
        os.killpg(os.getpgid(0), signal.SIGKILL)
    if action == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    raise FaultInjected(f"{VARIABLE}={fault}")


if VARIABLE in os.environ:
    arm(os.environ[VARIABLE])
