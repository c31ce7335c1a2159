"""Rows held against what their table expects of them, as they pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import DeclarationError
from lakehouse.spec import Expect, Table
from lakehouse.spec.expectations import RELATIONS
from lakehouse.spec.types import declared_type

NAMED = 5
"""So many rows are named, by their keys: a key is never personal."""


@dataclass(frozen=True)
class Unmet:
    """Rows that are not what was expected: how many, and the first of them by key."""

    expected: Expect
    rows: int
    named: tuple[str, ...]

    def __str__(self) -> str:
        """In words, for a note or an error."""
        more = "; …" if self.rows > len(self.named) else ""
        return f"{self.expected}: not so in {self.rows:,} row{'s' if self.rows > 1 else ''} ({'; '.join(self.named)}{more})"

    def __add__(self, other: Unmet) -> Unmet:
        return Unmet(self.expected, self.rows + other.rows, (*self.named, *other.named)[:NAMED])


def check_expectations(source: str, table: Table, schema: pa.Schema) -> None:
    """Raise DeclarationError for an expectation of a column that is not there, or that is of another type."""
    for expected in table.expect:
        tried = f"expecting of {source}.{table.name} that {expected}"
        for missing in (name for name in expected.columns if name not in schema.names):
            raise DeclarationError(
                tried,
                value=f"no column {missing!r}",
                allowed=", ".join(schema.names),
                remedy="Name one of these columns; if the source has lost this one, bring it back, declare it as `renamed`, or "
                "take the expectation away.",
            )
        if expected.rule in RELATIONS:
            _refuse_incomparable(tried, [schema.field(name) for name in expected.columns])
            continue
        field = schema.field(expected.column)
        try:
            _unmet(pa.nulls(1, field.type), expected)
            if expected.rule in ("between", "one_of"):
                _refuse_altered(expected, field.type)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise DeclarationError(
                tried,
                value=f"a column of type {declared_type(field)}: {str(error).splitlines()[0]}",
                allowed="numbers and times for `between`, text for `matches`, values of the column's own type for `one_of`",
                remedy="Correct the expectation.",
            ) from error


def _refuse_incomparable(tried: str, fields: Sequence[pa.Field]) -> None:
    """Raise DeclarationError for a column whose values are not told from each other by comparing them."""
    for field in fields:
        type_ = declared_type(field)
        if type_ == "json" or pa.types.is_nested(field.type) or pa.types.is_floating(field.type):
            raise DeclarationError(
                tried,
                value=f"column {field.name!r} of type {type_}",
                allowed="columns of whole numbers, decimals, text, binary, dates and times",
                remedy="Take the expectation away, or declare the column in one of these types.",
            )


def _refuse_altered(expected: Expect, type_: pa.DataType) -> None:
    """Raise ValueError for a value that the column's type would not hold as it is: a half in a column of integers."""
    for value in expected.values:
        held: Any = None if value is None else pa.scalar(value, type_).as_py()
        if held != value and not (pa.types.is_floating(type_) and math.isfinite(held)):
            raise ValueError(f"{value!r} would be {held!r}")


class Watch:
    """Rows on their way, each held against what the table expects of a row alone. unmet: what was found of those that passed."""

    def __init__(
        self, table: Table, leave_out: Callable[[pa.RecordBatch, Expect], None] = lambda _batch, _expected: None
    ) -> None:
        """leave_out: is given the rows that do not pass, with the expectation of the kind `quarantine` that they do not meet."""
        self._table = table
        self._leave_out = leave_out
        self._unmet = {expected: Unmet(expected, 0, ()) for expected in table.expect if expected.rule not in RELATIONS}

    @property
    def unmet(self) -> tuple[Unmet, ...]:
        """The expectations that some of the rows did not meet."""
        return tuple(unmet for unmet in self._unmet.values() if unmet.rows)

    def passing(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches, but for rows that are left out."""
        if not self._unmet:
            yield from batches
            return
        leaving = [expected for expected in self._unmet if expected.otherwise == "quarantine"]
        staying = [expected for expected in self._unmet if expected.otherwise != "quarantine"]
        for whole in batches:
            batch = whole
            for expected in leaving:
                bad = _unmet(batch.column(expected.column), expected)
                if bad.true_count:
                    self._leave_out(batch.filter(bad), expected)
                    batch = batch.filter(pc.invert(bad))
            for expected in staying:
                bad, found = _unmet(batch.column(expected.column), expected), self._unmet[expected]
                rows = bad.true_count
                if rows:
                    named = tuple(named_rows(batch.filter(bad), self._table.key, NAMED - len(found.named)))
                    self._unmet[expected] = replace(found, rows=found.rows + rows, named=(*found.named, *named))
            yield batch


def _unmet(values: pa.Array, expected: Expect) -> pa.BooleanArray:
    """True for each value that is not as expected, never null."""
    if expected.rule == "not_null":
        return pc.is_null(values)
    if expected.rule == "matches":
        met = pc.match_substring_regex(values, expected.values[0])
    elif expected.rule == "one_of":
        met = pc.is_in(values, pa.array(expected.values, values.type))
        return pc.and_(pc.is_valid(values), pc.invert(met))
    else:
        low, high = (None if bound is None else pa.scalar(bound, values.type) for bound in expected.values)
        above = None if low is None else pc.greater_equal(values, low)
        below = None if high is None else pc.less_equal(values, high)
        met = above if below is None else below if above is None else pc.and_(above, below)
    return pc.invert(pc.fill_null(met, True))


def named_rows(rows: pa.RecordBatch, key: Sequence[str], most: int = NAMED) -> Iterator[str]:
    """The first rows by their keys: `id=7`."""
    for row in rows.select(list(key)).slice(0, max(most, 0)).to_pylist():
        yield ", ".join(f"{name}={value}" for name, value in row.items())


def together(found: Iterable[Unmet]) -> tuple[Unmet, ...]:
    """One for each expectation."""
    result: dict[Expect, Unmet] = {}
    for unmet in found:
        result[unmet.expected] = result[unmet.expected] + unmet if unmet.expected in result else unmet
    return tuple(result.values())
