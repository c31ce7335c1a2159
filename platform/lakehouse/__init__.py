"""Declare a table, get everything: the whole public API."""

from lakehouse.spec import Column, Partitioning, Source, Table, bucket, days, identity, months, unpartitioned

__all__ = [
    "Column",
    "Partitioning",
    "Source",
    "Table",
    "bucket",
    "days",
    "identity",
    "months",
    "unpartitioned",
]
