"""How a table is cut into partitions, as one transform of one column (Iceberg spec, "Partition Transforms")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lakehouse.errors import DeclarationError

Transform = Literal["none", "identity", "day", "month", "bucket"]


@dataclass(frozen=True)
class Partitioning:
    """One transform of one column; `none` keeps the table in one piece."""

    transform: Transform = "none"
    column: str | None = None
    buckets: int | None = None

    def __post_init__(self) -> None:
        if self.transform not in get_args(Transform):
            raise DeclarationError(
                "declaring a partitioning",
                value=self.transform,
                allowed=", ".join(get_args(Transform)),
                remedy="Use days(column), months(column), bucket(column, n), identity(column) or unpartitioned().",
            )
        if (self.transform == "none") != (self.column is None):
            raise DeclarationError(
                f"declaring a partitioning by {self.transform}",
                value=f"column={self.column!r}",
                allowed="a column for every transform but none",
                remedy="Name the column to partition by.",
            )
        if (self.transform == "bucket") != (self.buckets is not None) or (self.buckets is not None and self.buckets < 1):
            raise DeclarationError(
                f"declaring a partitioning by {self.transform}",
                value=f"buckets={self.buckets!r}",
                allowed="a positive number of buckets for bucket, none otherwise",
                remedy="Write bucket(column, n) with n of at least 1.",
            )

    def __str__(self) -> str:
        """As it is declared."""
        if self.column is None:
            return "unpartitioned()"
        name = {"day": "days", "month": "months"}.get(self.transform, self.transform)
        return f"{name}({self.column}{f', {self.buckets}' if self.buckets else ''})"

    @property
    def is_time(self) -> bool:
        """Whether each partition is a span of time."""
        return self.transform in ("day", "month")


def unpartitioned() -> Partitioning:
    """The whole table in one piece: right below about a million rows."""
    return Partitioning()


def days(column: str) -> Partitioning:
    """One partition for each UTC day of a timestamp column."""
    return Partitioning("day", column)


def months(column: str) -> Partitioning:
    """One partition for each UTC month of a timestamp column."""
    return Partitioning("month", column)


def identity(column: str) -> Partitioning:
    """One partition for each value of a column."""
    return Partitioning("identity", column)


def bucket(column: str, n: int) -> Partitioning:
    """`n` partitions by a hash of a column: for large mutable tables without a date."""
    return Partitioning("bucket", column, n)
