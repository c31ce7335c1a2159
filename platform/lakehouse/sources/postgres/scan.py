"""Rows of a relation on an exported snapshot, as Arrow batches, read by DuckDB's Postgres scanner in bounded memory.

Each connection runs `COPY (query) TO STDOUT` over its own page ranges. DuckDB alters some values without a word, so the query
casts on the server whatever it does not read exactly (`columns.py`), and what is left is looked at here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import SchemaChanged
from lakehouse.network.postgres import hung_up_after
from lakehouse.pauses import pause
from lakehouse.rows.duck import connect_duckdb, literal, load_extension
from lakehouse.sources.postgres.columns import ReadColumn
from lakehouse.sources.postgres.connect import connection_lost, read_error, text_unreadable
from lakehouse.sources.prefetch import prefetched
from lakehouse.spec import Load

REFUSED = "_refused"
"""The extra column of a scan: true where a flagged column refuses its value."""

_FIRST_MICROSECOND = -62135596800_000_000
_LAST_MICROSECOND = 253402300799_999_999
_FIRST_DAY, _LAST_DAY = -719162, 2932896
_BATCH_BYTES = 4 * 2**20
_BATCH_ROWS = 65_536
_VECTOR_ROWS = 2_048
"""What DuckDB makes at a time; rows may be of any size, so these are gathered up to the bounds of a batch."""

_PAGES_PER_RANGE = 1_024
_LEAST_PAGES = 64
_READ_AHEAD = "128KiB"
"""What DuckDB makes before it is asked for. It counts 16 bytes for a text, so long texts make this twenty vectors by default."""

_HELD_BYTES = 16 * 2**20
"""A range is given out when it is whole, if it is no larger than this, so that a lost connection costs reading it again."""

_ATTEMPTS = 3
"""Readings of one range, the first included, when connections are lost."""


class RefusedValue(Exception):
    """A batch holds a value that its column refuses; the caller finds out which."""


class UnreadableText(Exception):
    """The server has a text that it cannot give as UTF-8; the caller finds out which. Its argument is what the server said."""


@dataclass(frozen=True)
class Scan:
    """What to read: the relation's SQL name, the columns, and conditions, each one query, together all rows once.

    large: some rows are so large that few of them should be in memory at a time.
    """

    relation: str
    columns: tuple[ReadColumn, ...]
    conditions: tuple[str, ...]
    large: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the rows."""
        return pa.schema([column.field for column in self.columns])

    def query(self, condition: str) -> str:
        """The SQL that the server runs for one condition."""
        flags = [column.refused for column in self.columns if column.flagged and column.refused]
        values = [f"{column.value} as c{i}" for i, column in enumerate(self.columns)]
        if flags:
            values.append(f"coalesce({' or '.join(flags)}, false) as {REFUSED}")
        return f"select {', '.join(values)} from {self.relation} where {condition}"


def page_ranges(pages: int, leaves: int = 1) -> tuple[str, ...]:
    """Conditions on `ctid` that cover every row once; the last one is open, for pages that came since.

    pages: of the longest of `leaves` heaps. A condition on a partitioned table takes the same pages of each of its partitions.
    """
    step = max(_PAGES_PER_RANGE // max(leaves, 1), min(_LEAST_PAGES, _PAGES_PER_RANGE))
    starts = range(0, max(pages, 1), step)
    ranges = [f"ctid >= '({start},0)' and ctid < '({start + step},0)'" for start in starts[:-1]]
    return (*ranges, f"ctid >= '({starts[-1]},0)'")


class SnapshotScanner:
    """DuckDB attached to one Postgres database, reading on one exported snapshot. Scans may run in several threads.

    One scan takes half of the declared connections, since two tables of a source are read at once.
    """

    def __init__(self, conninfo: str, snapshot: str, load: Load, answer_seconds: float | None = None) -> None:
        self._conninfo = conninfo
        self._snapshot = snapshot
        self._answer = answer_seconds
        self._pause = load.pause.total_seconds()
        self._threads = (load.connections + 1) // 2
        self._slots = threading.BoundedSemaphore(load.connections)
        self._lock = threading.Lock()
        self._database: duckdb.DuckDBPyConnection | None = None

    def scan(self, scan: Scan, tried: str, dropped: Callable[[int], None] | None = None) -> Generator[pa.RecordBatch, None, None]:
        """The rows, in no order.

        dropped: is told how many rows were left out because a column refuses their value, from the threads that read; without it
        that is an error. A range whose connection is lost before any of its rows was given out is read again. Raises
        RefusedValue, UnreadableText, SchemaChanged, or what `read_error` makes of the server's error.
        """
        left: queue.SimpleQueue[str] = queue.SimpleQueue()
        for condition in scan.conditions:
            left.put(condition)
        readers = 1 if scan.large else min(self._threads, len(scan.conditions))
        return prefetched([lambda: self._work(scan, tried, left, dropped)] * readers, ahead=1 if scan.large else readers + 1)

    def close(self) -> None:
        """Close the connections; scans must have ended."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _work(
        self, scan: Scan, tried: str, left: queue.SimpleQueue[str], dropped: Callable[[int], None] | None
    ) -> Generator[pa.RecordBatch, None, None]:
        """One reader: take conditions until none is left."""
        with suppress(queue.Empty):
            while True:
                condition = left.get_nowait()
                yield from self._range(scan, condition, tried, dropped)
                time.sleep(self._pause)

    def _range(
        self, scan: Scan, condition: str, tried: str, dropped: Callable[[int], None] | None
    ) -> Generator[pa.RecordBatch, None, None]:
        for attempt in count(1):
            held: list[pa.RecordBatch] = []
            out: list[int] = []
            size, given_out = 0, False
            try:
                with self._slots, hung_up_after(self._conninfo, self._answer):
                    for batch in self._read(scan, condition, None if dropped is None else out.append):
                        held.append(batch)
                        size += batch.nbytes
                        if size > _HELD_BYTES:
                            given_out = True
                            yield from _handed(held)
                        del batch
                break
            except (duckdb.Error, OSError, pa.ArrowInvalid) as error:
                if text_unreadable(error):
                    raise UnreadableText(" ".join(str(error).split())) from None
                if given_out or attempt == _ATTEMPTS or not connection_lost(error):
                    raise read_error(error, tried) from None
                pause(attempt)
        if dropped is not None and out:
            dropped(sum(out))
        yield from _handed(held)

    def _read(self, scan: Scan, condition: str, dropped: Callable[[int], None] | None) -> Generator[pa.RecordBatch, None, None]:
        cursor = self._cursor()
        try:
            cursor.execute(f"set streaming_buffer_size = '{_READ_AHEAD}'")
            cursor.execute("begin")
            join = f"set transaction snapshot {literal(self._snapshot)}"
            cursor.execute(f"call postgres_execute('source', {literal(join)})").fetchall()
            query = f"from postgres_query('source', {literal(scan.query(condition))})"
            rows = gathered(cursor.execute(query).to_arrow_reader(_VECTOR_ROWS))
            yield from map(partial(conform, columns=scan.columns, dropped=dropped), rows)
        finally:
            # Without this rollback DuckDB sends one from a destructor, where a lost connection ends the whole process.
            with suppress(duckdb.Error):
                cursor.execute("rollback")
            cursor.close()

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._database is None:
                database = connect_duckdb(threads=1)
                load_extension(database, "postgres_scanner")
                database.execute(f"attach {literal(self._conninfo)} as source (type postgres, read_only)")
                self._database = database
            return self._database.cursor()


def gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of at most 65,536 rows, and of 4 MB where one of DuckDB's is not already larger."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if waiting and (rows + batch.num_rows > _BATCH_ROWS or size + batch.nbytes > _BATCH_BYTES):
            yield _together(waiting)
            rows = size = 0
        if batch.num_rows:
            waiting.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
        del batch
    if waiting:
        yield _together(waiting)


def _together(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """The batches as one; the list is empty then."""
    whole = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    batches.clear()
    return whole


def _handed(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, none of which is kept when it has been handed on."""
    batches.reverse()
    while batches:
        yield batches.pop()


def conform(batch: pa.RecordBatch, columns: Sequence[ReadColumn], dropped: Callable[[int], None] | None = None) -> pa.RecordBatch:
    """The batch with the declared schema.

    dropped: is told how many rows are left out because a column refuses their value; RefusedValue without it.
    """
    try:
        if batch.schema.names[-1] == REFUSED and pc.any(batch.column(REFUSED)).as_py():
            raise RefusedValue
        arrays = [_column(batch.column(i), column.field) for i, column in enumerate(columns)]
    except RefusedValue:
        if dropped is None:
            raise
        refused = _refused(batch, columns)
        dropped(refused.true_count)
        return conform(batch.filter(pc.invert(refused)), columns)
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([column.field for column in columns]))


def _refused(batch: pa.RecordBatch, columns: Sequence[ReadColumn]) -> pa.BooleanArray:
    """Which rows have a value that its column refuses, never null."""
    flagged = batch.schema.names[-1] == REFUSED
    refused = batch.column(REFUSED) if flagged else pa.array(np.zeros(batch.num_rows, bool))
    for i, column in enumerate(columns):
        array, wanted = batch.column(i), column.field.type
        if pa.types.is_timestamp(wanted) and pa.types.is_timestamp(array.type) and array.type.unit == "us":
            beyond = _beyond(array.view(pa.int64()), _FIRST_MICROSECOND, _LAST_MICROSECOND)
        elif pa.types.is_date(wanted) and pa.types.is_date32(array.type):
            beyond = _beyond(array.view(pa.int32()), _FIRST_DAY, _LAST_DAY)
        else:
            continue
        refused = pc.or_(refused, pc.fill_null(beyond, False))
    return refused


def _column(array: pa.Array, field: pa.Field) -> pa.Array:
    if array.null_count and not field.nullable:
        raise _changed(field, "a null")
    if pa.types.is_list(field.type) and pa.types.is_list(array.type):
        return _list(array, field)
    return _values(array, field.type, field)


def _list(array: pa.Array, field: pa.Field) -> pa.Array:
    values = _values(array.values, field.type.value_type, field)
    mask = array.is_null() if array.null_count else None
    if array.offset or mask is not None:
        offsets = pc.cast(array.offsets, pa.int32())
        return pa.ListArray.from_arrays(offsets, values, type=field.type, mask=mask)
    return pa.ListArray.from_arrays(array.offsets, values, type=field.type)


def _values(array: pa.Array, wanted: pa.DataType, field: pa.Field) -> pa.Array:
    if pa.types.is_timestamp(wanted) and pa.types.is_timestamp(array.type) and array.type.unit == "us":
        _check_range(array.view(pa.int64()), _FIRST_MICROSECOND, _LAST_MICROSECOND)
        return array.view(pa.int64()).view(wanted)
    if pa.types.is_date(wanted) and pa.types.is_date32(array.type):
        _check_range(array.view(pa.int32()), _FIRST_DAY, _LAST_DAY)
        return array
    if array.type == wanted:
        return array
    if pa.types.is_decimal(wanted) and pa.types.is_string(array.type):
        return array.cast(wanted)
    raise _changed(field, f"{array.type}")


def _beyond(integers: pa.Array, low: int, high: int) -> pa.BooleanArray:
    return pc.or_(pc.less(integers, low), pc.greater(integers, high))


def _check_range(integers: pa.Array, low: int, high: int) -> None:
    extent = pc.min_max(integers)
    if extent["min"].is_valid and (extent["min"].as_py() < low or extent["max"].as_py() > high):
        raise RefusedValue


def _changed(field: pa.Field, found: str) -> SchemaChanged:
    return SchemaChanged(
        f"reading column {field.name!r}",
        value=f"{found} came from the source",
        allowed=f"{field.type}{'' if field.nullable else ', not null'}, as the catalog said when the run began",
        remedy="Run again: the column has changed since.",
    )
