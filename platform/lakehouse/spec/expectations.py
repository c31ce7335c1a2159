"""What every row of a table should be: declared with the table, looked at when rows land. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from lakehouse.errors import DeclarationError

Otherwise = Literal["stop", "warn", "quarantine"]
Rule = Literal["not_null", "between", "matches", "one_of"]


@dataclass(frozen=True)
class Expect:
    """One expectation of a column; make it by the rule's name: `Expect.between("price", 0, None)`.

    otherwise: what becomes of a batch with rows that are not so. `stop`: it does not land, and the table stops with an error that
    counts them and names the first. `warn`: it lands, and the table's check `expected` does the same. `quarantine`: it lands
    without them, and they go to the table's quarantine. Null is as expected, but for `not_null`.
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

    def __str__(self) -> str:
        """In words: `price is between 0 and 100`."""
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
