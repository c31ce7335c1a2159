"""The platform's argument as a small machine, and a search through everything that it can do.

The source commits rows. Processes extract, apply and publish: any number of them, at any time. What a server promises to do at
once is one step of a process; between two steps any other process may step, and a process that is never stepped again has died.
The search visits every state that can be reached with a few rows and processes, and asks in each of them: does every reader see
one whole version, and if all processes died here, would one more run of each make every copy equal to the source?

Four rules make that so. Each can be switched off, and then the search finds the shortest schedule that breaks the promise.

1. claim: a place in the log is given once (a conditional write), after the batch's file is there.
2. watermark: a fold's rows and its watermark are one commit.
3. base: that commit fails when anybody committed since the fold read the table.
4. exchange: a publication is built aside, and takes the readers' place in one step, unless another one did meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

Rows = tuple[int, ...]
"""How often each row of the source is there, by its number; one that comes twice is seen."""
RULES = frozenset({"claim", "watermark", "base", "exchange"})
ROWS = 3
"""Rows that the source commits, one after the other."""
AT_ONCE = 2
"""Processes of one kind that may be under way."""
NOTHING = (0,) * ROWS


@dataclass(frozen=True)
class Copy:
    """A table: its rows, the sequence of the log that they should be the fold up to, a version that moves with each commit."""

    rows: Rows = NOTHING
    sequence: int = 0
    version: int = 0


@dataclass(frozen=True)
class Process:
    """A process under way: the step that it does next, and what it has read until now."""

    kind: str
    step: int
    seen: tuple[int, ...] | Copy = ()


@dataclass(frozen=True)
class World:
    """log: for each entry, the rows (from, to) of its file. The files of dead processes are in no entry, and do no harm."""

    committed: int = 0
    log: tuple[tuple[int, int], ...] = ()
    lake: Copy = Copy()
    warehouse: Copy = Copy()
    running: tuple[Process, ...] = ()

    def fold(self, start: int, end: int) -> Rows:
        """The rows of the entries after `start` up to `end`."""
        windows = self.log[start:end]
        return tuple(sum(low <= row < high for low, high in windows) for row in range(ROWS))


Next = tuple[World, Process | None]


def extract(world: World, process: Process, rules: frozenset[str]) -> Next:
    """1: read the log's end and the rows after it, and write their file. 2: claim the next place."""
    if process.step == 1:
        low, high = (world.log[-1][1] if world.log else 0), world.committed
        return world, replace(process, step=2, seen=(len(world.log), low, high)) if low < high else None
    assert isinstance(process.seen, tuple)
    head, low, high = process.seen
    if len(world.log) > head and "claim" in rules:
        return world, None
    return replace(world, log=(*world.log[:head], (low, high), *world.log[head + 1 :])), None


def apply(world: World, process: Process, rules: frozenset[str]) -> Next:
    """1: read the table, its watermark and the log. 2: commit rows and watermark, if the table is what was read."""
    if process.step == 1:
        table = world.lake
        return world, replace(process, step=2, seen=(len(world.log), table.sequence, table.version)) if (
            table.sequence < len(world.log)
        ) else None
    assert isinstance(process.seen, tuple)
    upto, sequence, version = process.seen
    if process.step == 3:  # only where the watermark is a commit of its own
        return replace(world, lake=replace(world.lake, sequence=upto)), None
    if world.lake.version != version and "base" in rules:
        return world, None
    rows = tuple(map(sum, zip(world.lake.rows, world.fold(sequence, upto), strict=True)))
    if "watermark" in rules:
        return replace(world, lake=Copy(rows, upto, world.lake.version + 1)), None
    return replace(world, lake=replace(world.lake, rows=rows, version=world.lake.version + 1)), replace(process, step=3)


def publish(world: World, process: Process, rules: frozenset[str]) -> Next:
    """1: pin what is published and the lake's version. 2: build it aside, row by row. 3: exchange."""
    if process.step == 1:
        pinned = replace(world.lake, version=world.warehouse.version)
        return world, replace(process, step=2, seen=pinned) if world.warehouse.sequence < pinned.sequence else None
    assert isinstance(process.seen, Copy)
    if process.step == 2:
        if "exchange" not in rules:
            world = replace(world, warehouse=replace(world.warehouse, rows=NOTHING))
        return world, replace(process, step=3)
    if world.warehouse.version != process.seen.version and "exchange" in rules:
        return world, None
    return replace(world, warehouse=replace(process.seen, version=world.warehouse.version + 1)), None


KINDS = {"extract": extract, "apply": apply, "publish": publish}


def following(world: World, rules: frozenset[str]) -> Iterator[tuple[str, World]]:
    """Every next step that anybody can take."""
    if world.committed < ROWS:
        yield "the source commits a row", replace(world, committed=world.committed + 1)
    for kind in KINDS:
        if sum(process.kind == kind for process in world.running) < AT_ONCE:
            yield from _step(world, Process(kind, 1), world.running, rules)
    for index, process in enumerate(world.running):
        yield from _step(world, process, world.running[:index] + world.running[index + 1 :], rules)


def _step(world: World, process: Process, others: tuple[Process, ...], rules: frozenset[str]) -> Iterator[tuple[str, World]]:
    after, again = KINDS[process.kind](world, process, rules)
    if after == world and again is None and process.step == 1:
        return  # it found nothing to do
    running = tuple(sorted((*others, *([again] if again else [])), key=repr))
    yield f"{process.kind}, step {process.step}", replace(after, running=running)


def healed(world: World, rules: frozenset[str]) -> World:
    """The world after everybody died and each kind ran once more, alone."""
    world = replace(world, running=())
    for kind, work in KINDS.items():
        process: Process | None = Process(kind, 1)
        while process is not None:
            world, process = work(world, process, rules)
    return world


def wrong(world: World, rules: frozenset[str]) -> str:
    """What is wrong in a state; empty when nothing is."""
    for name, copy in (("lake", world.lake), ("warehouse", world.warehouse)):
        if copy.rows != world.fold(0, copy.sequence):
            return f"a reader of the {name} sees {copy.rows} where its marker means {world.fold(0, copy.sequence)}"
    right, after = tuple(int(row < world.committed) for row in range(ROWS)), healed(world, rules)
    for name, copy in (("lake", after.lake), ("warehouse", after.warehouse)):
        if copy.rows != right:
            return f"after one more run the {name} has {copy.rows} instead of {right}"
    return ""


def search(rules: frozenset[str]) -> tuple[int, list[str]]:
    """States that were visited, and the shortest schedule that breaks the promise, with what it breaks; empty if none does."""
    came: dict[World, tuple[World, str] | None] = {World(): None}
    waiting = deque(came)
    while waiting:
        world = waiting.popleft()
        if problem := wrong(world, rules):
            schedule = [problem]
            while (step := came[world]) is not None:
                world, said = step
                schedule.append(said)
            return len(came), schedule[::-1]
        for said, after in following(world, rules):
            # A place in the log is followed to its end: what is overwritten or doubled there shows within a few entries.
            if after not in came and len(after.log) <= ROWS and after.lake.version <= ROWS + 1:
                came[after] = (world, said)
                waiting.append(after)
    return len(came), []


def test_with_its_four_rules_no_schedule_loses_or_doubles_a_row() -> None:
    states, schedule = search(RULES)
    assert schedule == []
    assert states > 10_000


@pytest.mark.parametrize("missing", sorted(RULES))
def test_without_one_of_its_rules_a_schedule_is_found_that_does(missing: str) -> None:
    _, schedule = search(RULES - {missing})
    print(missing, *schedule, sep="\n  ")
    assert schedule
