"""What every row of a table should be: declared with the table, looked at when rows land. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from lakehouse.errors import DeclarationError

Otherwise = Literal["stop", "warn", "quarantine"]
Rule = Literal["not_null", "between", "matches", "one_of", "unique", "references"]

RELATIONS: tuple[Rule, ...] = ("unique", "references")
"""Rules that tell of a row what other rows say: of its own table, or of another."""


@dataclass(frozen=True)
class Expect:
    """One expectation of a column; make it by the rule's name: `Expect.between("price", 0, None)`.

    otherwise: what becomes of a batch with rows that are not so. `stop`: it does not land, and the table stops with an error that
    counts them and names the first. `warn`: it lands, and the table's check `expected` does the same. `quarantine`: it lands
    without them, and they go to the table's quarantine. Null is as expected, but for `not_null`.
    values: the rule's own: bounds, a pattern, the allowed values; of `unique` the other columns that are one with the first; of
    `references` the other table, and its column if it is named.
    """

    column: str
    rule: Rule
    values: tuple[Any, ...] = ()
    otherwise: Otherwise = "stop"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("otherwise", self.otherwise, get_args(Otherwise)),
            ("rule", self.rule, get_args(Rule)),
        ):
            if value not in allowed:
                raise self._refused(name, value, ", ".join(allowed), f"Give {name} one of the allowed values.")
        if any(isinstance(value, list | dict | set) or value != value for value in self.values):  # NaN
            raise self._refused("values", self.values, "single values, none of them NaN", 'Write them one by one: "free", "pro".')
        if self.rule == "matches" and not (len(self.values) == 1 and isinstance(self.values[0], str)):
            raise self._refused("values", self.values, "one regular expression, as text", 'Write Expect.matches("email", "@").')
        if self.rule == "between" and len(self.values) != 2:
            raise self._refused("values", self.values, "a low and a high bound", 'Write Expect.between("price", 0, None).')
        if self.rule == "between" and None not in self.values and self.values[0] > self.values[1]:
            raise self._refused("values", self.values, "a low bound that is not above the high one", "Swap them.")
        if self.rule == "unique" and self.otherwise == "quarantine":
            raise self._refused(
                "otherwise",
                self.otherwise,
                "stop or warn: of rows that are the same, no rule can tell which one is wrong",
                "Write otherwise='warn' to let them land and be told of.",
            )
        if self.rule == "unique" and len({self.column, *self.values}) <= len(self.values):
            raise self._refused("values", (self.column, *self.values), "each column once", "Remove the repeated one.")

    def _refused(self, field: str, value: object, allowed: str, remedy: str) -> DeclarationError:
        tried = f"expecting something of column {self.column!r}: field {field!r}"
        return DeclarationError(tried, value=value, allowed=allowed, remedy=remedy)

    @classmethod
    def not_null(cls, column: str, *, otherwise: Otherwise = "stop") -> Expect:
        """The column has a value in every row."""
        return cls(column, "not_null", (), otherwise)

    @classmethod
    def between(cls, column: str, low: Any, high: Any, *, otherwise: Otherwise = "stop") -> Expect:
        """The value is at least `low` and at most `high`, numbers or times; None leaves that side open. NaN is nowhere."""
        if low is None and high is None:
            raise DeclarationError(
                f"expecting something of column {column!r}: between",
                value="None and None",
                allowed="at least one bound",
                remedy="Give one, or write Expect.not_null.",
            )
        return cls(column, "between", (low, high), otherwise)

    @classmethod
    def matches(cls, column: str, pattern: str, *, otherwise: Otherwise = "stop") -> Expect:
        """The regular expression (RE2) is found in the text; `^` and `$` bind it to its ends."""
        return cls(column, "matches", (pattern,), otherwise)

    @classmethod
    def one_of(cls, column: str, *values: Any, otherwise: Otherwise = "stop") -> Expect:
        """The value is one of these."""
        if not values:
            raise DeclarationError(
                f"expecting something of column {column!r}: one_of",
                value="no values",
                allowed="at least one",
                remedy='Write Expect.one_of("tier", "free", "pro").',
            )
        return cls(column, "one_of", values, otherwise)

    @classmethod
    def unique(cls, column: str, *others: str, otherwise: Otherwise = "stop") -> Expect:
        """No two rows of the table have the same value, or the same values of all these columns; a null is like no other."""
        return cls(column, "unique", others, otherwise)

    @classmethod
    def references(cls, column: str, table: str, other: str = "", *, otherwise: Otherwise = "stop") -> Expect:
        """Each value is there in another table: `table` of the same source, or `source.table` of any.

        other: its column (default: its key, which is then one column).
        """
        return cls(column, "references", (table, other) if other else (table,), otherwise)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that it looks at."""
        return (self.column, *self.values) if self.rule == "unique" else (self.column,)

    def __str__(self) -> str:
        """In words: `price is between 0 and 100`."""
        if self.rule == "unique":
            return f"{' and '.join(self.columns)} {'are' if self.values else 'is'} unique"
        if self.rule == "references":
            return f"{self.column} is in {'.'.join(map(str, self.values))}"
        if self.rule == "not_null":
            return f"{self.column} is not null"
        if self.rule == "matches":
            return f"{self.column} matches {self.values[0]!r}"
        if self.rule == "one_of":
            return f"{self.column} is one of {', '.join(map(str, self.values))}"
        low, high = self.values
        if high is None:
            return f"{self.column} is at least {low}"
        return f"{self.column} is at most {high}" if low is None else f"{self.column} is between {low} and {high}"
