"""Find named fields in many BSON documents at once, with numpy.

Documents of one collection mostly have the same fields in the same order. So all documents of a chunk are gone through together,
name by name: every document whose next field has that name takes a step, the others wait for the name that they have. The
order of names is learned from documents as they come, and kept for the next chunk; it decides what is tried first, never what is
found. A name and the type byte before it are compared as masked 64-bit words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lakehouse.sources.mongodb.bson_scan import Bytes, Chunk, Ints, after_value, after_zero, checked_ends, damaged, elements

Mask = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

_STEPS, _FEW = 128, 16
"""After so many steps, so few documents are gone through one by one."""
_LEARNED = 32
"""Documents that a chunk's order of names is learned from. Names of ever new fields are skipped without being learned."""
_NAMES = 96
"""Names that an order may hold beside those that are looked for."""
_TYPE = np.uint64(0xFF)


class RepeatedField(Exception):
    """A document has a field that is looked for twice; `document` is its index, `name` the field."""

    def __init__(self, document: int, name: str) -> None:
        super().__init__(name)
        self.document = document
        self.name = name


@dataclass(frozen=True)
class Found:
    """For each name (rows) and document (columns): the BSON type of the value (0: absent) and the position of its first byte."""

    types: Bytes
    positions: Ints


def find_fields(chunk: Chunk, starts: Ints, names: Sequence[str]) -> Found:
    """The fields `names` of the documents that start at `starts`; RepeatedField, DamagedData."""
    if not len(starts):
        return Found(np.zeros((len(names), 0), np.uint8), np.zeros((len(names), 0), np.int64))
    walk = _Walk(chunk, starts, names)
    walk.run()
    walk.remember()
    return Found(walk.types, walk.positions)


class _Name:
    """A field's name as words of eight bytes, from the type byte before it, which may be any, to its terminating zero."""

    def __init__(self, name: bytes, wanted: int) -> None:
        """wanted: which of the names that are looked for it is, -1: none."""
        self.name = name
        self.wanted = wanted
        text = b"\0" + name + b"\0"
        self.length = len(text)
        words = -(-len(text) // 8)
        self.words = np.frombuffer(text.ljust(8 * words, b"\0"), "<u8")
        self.masks = np.frombuffer((b"\0" + b"\xff" * (len(text) - 1)).ljust(8 * words, b"\0"), "<u8")

    def matches(self, chunk: Chunk, at: Ints, word: Words) -> Ints | None:
        """Which of the elements that start at `at` have this name, None for all; word: the first eight bytes of each."""
        hit = (word & self.masks[0]) == self.words[0]
        count = int(np.count_nonzero(hit))
        chosen = None if count == len(at) else np.flatnonzero(hit)
        for i in range(1, len(self.words)):
            if not count:
                break
            where = at if chosen is None else at[chosen]
            hit = (chunk.u8[np.minimum(where + 8 * i, chunk.size)] & self.masks[i]) == self.words[i]
            count = int(np.count_nonzero(hit))
            if count < len(where):
                chosen = np.flatnonzero(hit) if chosen is None else chosen[hit]
        return chosen


class _Learned:
    """The order of names that chunks before this one had. Walks put another list in its place, and never change the list."""

    def __init__(self) -> None:
        self.order: list[_Name] = []


@lru_cache(maxsize=64)
def _learned(names: tuple[str, ...]) -> _Learned:
    """What is known of documents in which these names are looked for."""
    return _Learned()


class _Walk:
    """One way through all documents of a chunk.

    rows: the documents that have not ended. at: where the next element of each begins. word: its first eight bytes.
    """

    def __init__(self, chunk: Chunk, starts: Ints, names: Sequence[str]) -> None:
        self.chunk = chunk
        self.names = names
        self.types = np.zeros((len(names), len(starts)), np.uint8)
        self.positions = np.zeros((len(names), len(starts)), np.int64)
        self.starts = starts
        self.ends = checked_ends(chunk, starts)
        self.rows = np.arange(len(starts))
        self.at = starts + 4
        self.word: Words = chunk.u8[self.at]
        self._number = {name.encode(): number for number, name in enumerate(names)}
        self._seen = [False] * len(names)
        self._learned = _learned(tuple(names))
        self._order = list(self._learned.order)
        self._known = {name.name: name for name in self._order}
        self._most = len(names) + _NAMES
        self._documents = 0

    def run(self) -> None:
        """To the end of every document."""
        place = vain = steps = 0
        self._leave_ended()
        while len(self.rows):
            if vain >= len(self._order):  # no document that is left has a known name next
                self._leave_ended()
                if not len(self.rows):
                    return
                steps += 1
                if steps > _STEPS and len(self.rows) <= _FEW:
                    self._one_by_one()
                    return
                known = len(self._order)
                learned = self._learn()
                if learned is None:
                    self._look_for_all()
                if learned is None and len(self._order) == known:  # nobody waits for a name that is looked for
                    self._step(None, None)
                place, vain = learned or 0, 0
                continue
            place %= len(self._order)
            name = self._order[place]
            chosen = name.matches(self.chunk, self.at, self.word)
            place += 1
            if chosen is not None and not len(chosen):
                vain += 1
                continue
            vain = 0
            steps += 1
            self._step(name, chosen)
            if chosen is not None:
                self._leave_ended()

    def remember(self) -> None:
        """Keep the order for the next chunk, unless it has become so long that it is better learned anew."""
        if self._documents:
            self._learned.order = self._order if len(self._order) < self._most else []

    def _step(self, name: _Name | None, chosen: Ints | None) -> None:
        """Over one element of the chosen documents (None: of all), whose name is this (None: any that is not looked for)."""
        everything = chosen is None
        at = self.at if everything else self.at[chosen]
        ends = self.ends if everything else self.ends[chosen]
        word = self.word if everything else self.word[chosen]
        types = word.astype(np.uint8)
        if not types.all():  # what follows the end of a document looks like the name
            self._leave_ended()
            return
        value = at + name.length if name is not None else after_zero(self.chunk, at + 1)
        if name is not None and name.wanted >= 0:
            self._note(name.wanted, self.rows if everything else self.rows[chosen], types, value)
        after = after_value(self.chunk, types, value, ends)
        following = self.chunk.u8[after]
        if everything:
            self.at, self.word = after, following
            if not following[0] & _TYPE:
                self._leave_ended()
        else:
            self.at[chosen], self.word[chosen] = after, following

    def _note(self, number: int, rows: Ints, types: Bytes, value: Ints) -> None:
        noted, positions = self.types[number], self.positions[number]
        if self._seen[number]:
            again = noted[rows] != 0
            if again.any():
                raise RepeatedField(int(rows[again][0]), self.names[number])
        self._seen[number] = True
        if len(rows) == len(noted):
            noted[:], positions[:] = types, value
        else:
            noted[rows], positions[rows] = types, value

    def _leave_ended(self) -> None:
        """Go on without the documents that have come to their end; DamagedData when that is not where it should be."""
        over = (self.word & _TYPE) == 0
        if not over.any():
            return
        if (self.at[over] != self.ends[over]).any():
            raise damaged("a document ends before its length says")
        left = np.flatnonzero(~over)
        self.rows, self.at, self.ends, self.word = self.rows[left], self.at[left], self.ends[left], self.word[left]

    def _learn(self) -> int | None:
        """Take the names of a document that waits into the order; the place of the name that it waits for.

        None when that is not in it, because the order is full or enough documents were learned from.
        """
        if self._documents >= _LEARNED or len(self._order) >= self._most:
            return None
        self._documents += 1
        document = int(self.rows[0])
        place, waits = 0, None
        for _, name, value in elements(self.chunk.data, int(self.starts[document]) + 4, int(self.ends[0])):
            known = self._known.get(name)
            if known is None:
                if len(self._order) >= self._most:
                    break
                known = self._known[name] = _Name(name, self._number.get(name, -1))
                self._order.insert(place, known)
                place += 1
            else:
                place = self._order.index(known) + 1
            if value == int(self.at[0]) + known.length:
                waits = known
        return None if waits is None else self._order.index(waits)

    def _look_for_all(self) -> None:
        """Take the names that are looked for and were in no document so far into the order."""
        for name in [name for name in self._number if name not in self._known]:
            self._known[name] = _Name(name, self._number[name])
            self._order.append(self._known[name])

    def _one_by_one(self) -> None:
        """The rest of a few documents: for those with very many fields a step of all is dearer than a loop."""
        for row, start, end in zip(self.rows.tolist(), self.at.tolist(), self.ends.tolist(), strict=True):
            for type_, name, value in elements(self.chunk.data, start, end):
                number = self._number.get(name)
                if number is None:
                    continue
                if self.types[number, row]:
                    raise RepeatedField(row, self.names[number])
                self.types[number, row], self.positions[number, row] = type_, value


@dataclass(frozen=True)
class Elements:
    """The elements of lists, those of one list after those of another, in their order; `owners`: the index of their list."""

    owners: Ints
    types: Bytes
    positions: Ints


def find_elements(chunk: Chunk, starts: Ints) -> Elements:
    """All elements of the lists that start at `starts`, whatever their names are; DamagedData."""
    ends = checked_ends(chunk, starts)
    rows, at = np.arange(len(starts)), starts + 4
    found: list[tuple[Ints, Bytes, Ints]] = []
    while len(rows):
        if len(found) > _STEPS and len(rows) <= _FEW:
            for row, start, end in zip(rows.tolist(), at.tolist(), ends.tolist(), strict=True):
                rest = [(type_, value) for type_, _, value in elements(chunk.data, start, end)]
                found.append(
                    (np.full(len(rest), row), np.array([t for t, _ in rest], np.uint8), np.array([v for _, v in rest], np.int64))
                )
            break
        type_ = chunk.u1[at]
        if not type_.all():
            over = type_ == 0
            if (at[over] != ends[over]).any():
                raise damaged("a list ends before its length says")
            rows, at, ends, type_ = rows[~over], at[~over], ends[~over], type_[~over]
            if not len(rows):
                break
        value = after_zero(chunk, at + 1)
        found.append((rows, type_, value))
        at = after_value(chunk, type_, value, ends)
    if not found:
        return Elements(np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(0, np.int64))
    owners = np.concatenate([owner for owner, _, _ in found])
    order = np.argsort(owners, kind="stable")
    types, positions = np.concatenate([t for _, t, _ in found]), np.concatenate([p for _, _, p in found])
    return Elements(owners[order], types[order], positions[order])
