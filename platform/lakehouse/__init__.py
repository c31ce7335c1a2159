"""Declare a table, get everything: the whole public API."""

from lakehouse.spec import Column, Expect, Load, Partitioning, Source, Table, bucket, days, identity, months, unpartitioned

__all__ = [
    "Column",
    "Expect",
    "Load",
    "Partitioning",
    "Source",
    "Table",
    "bucket",
    "days",
    "identity",
    "months",
    "unpartitioned",
]
