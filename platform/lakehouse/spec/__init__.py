"""What a user declares and what travels between the hops: pure data, no I/O."""

from lakehouse.spec.batch import (
    REBUILDS,
    BatchKind,
    FieldSpec,
    LogEntry,
    Manifest,
    Marker,
    Position,
    RawFile,
    RowChecksum,
    Window,
    since_rebuilt,
)
from lakehouse.spec.declaration import Column, Source, Table
from lakehouse.spec.expectations import Expect
from lakehouse.spec.history import History, declared_tables, history_of, lake_tables, logged
from lakehouse.spec.load import Load
from lakehouse.spec.partitioning import Partitioning, bucket, days, identity, months, unpartitioned

__all__ = [
    "REBUILDS",
    "BatchKind",
    "Column",
    "Expect",
    "FieldSpec",
    "History",
    "Load",
    "LogEntry",
    "Manifest",
    "Marker",
    "Partitioning",
    "Position",
    "RawFile",
    "RowChecksum",
    "Source",
    "Table",
    "Window",
    "bucket",
    "days",
    "declared_tables",
    "history_of",
    "identity",
    "lake_tables",
    "logged",
    "months",
    "since_rebuilt",
    "unpartitioned",
]
