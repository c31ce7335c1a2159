"""Partitions of a lake table: their names, their values in Iceberg's terms, and the SQL that tells a row's partition.

A partition is named `<field>=<value>`: `created_at_day=2026-01-31`, `created_at_month=2026-01`, `id_bucket=3`, `country=de`
(percent-encoded), `created_at_day=null` for rows without a value, and `all` where the table is in one piece. A day or month
outside of the years 1 to 9999 is named by its signed number since 1970.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote, unquote

import duckdb
import pyarrow as pa
from duckdb.func import ARROW, SPECIAL

from lakehouse.errors import DeclarationError
from lakehouse.rows.duck import quoted
from lakehouse.rows.partition import WHOLE, partition_names, partition_prefix
from lakehouse.spec import Partitioning, Window
from lakehouse.spec.types import declared_type
from lakehouse.tables.columns import duck_type

NULL = "null"
PartitionValue = int | bool | str | Decimal | None
"""As Iceberg keeps it: days or months since 1970, the bucket, or the value (dates as days, timestamps as microseconds)."""

_EPOCH = date(1970, 1, 1)
FIRST_DAY, LAST_DAY = (date.min - _EPOCH).days, (date.max - _EPOCH).days
FIRST_MONTH, LAST_MONTH = -1969 * 12, 8030 * 12 - 1
"""Days and months since 1970 that are named by their date: those of the years 1 to 9999."""

_NO_VALUE = -(2**62)
"""Stands for the missing value in the name of a folder; no day, month or bucket has this number."""

_NUMBER = re.compile(r"[+-]\d+")


@dataclass(frozen=True)
class PartitionScheme:
    """The partitions of one table: its declared partitioning over a column of a known Arrow type."""

    partitioning: Partitioning
    type: pa.DataType | None

    @classmethod
    def of(cls, partitioning: Partitioning, schema: pa.Schema) -> PartitionScheme:
        """The scheme over the columns of `schema`; DeclarationError when the column's type has no such transform."""
        if partitioning.column is None:
            return cls(partitioning, None)
        type_ = schema.field(partitioning.column).type
        time = pa.types.is_timestamp(type_) or pa.types.is_date(type_)
        simple = time or pa.types.is_integer(type_) or pa.types.is_string(type_) or pa.types.is_decimal(type_)
        fits = {"day": time, "month": time, "bucket": simple or pa.types.is_binary(type_)}
        if not fits.get(partitioning.transform, simple or pa.types.is_boolean(type_)):
            raise DeclarationError(
                f"partitioning by {partitioning.transform} of column {partitioning.column!r}",
                value=str(type_),
                allowed="day and month: timestamp, date; bucket and identity: integer, string, decimal, date, timestamp",
                remedy="Partition by another column, or leave the table in one piece.",
            )
        return cls(partitioning, type_)

    @property
    def field(self) -> str:
        """The name of the partition field: the column for identity, else `<column>_<transform>`."""
        return partition_prefix(self.partitioning)

    def name(self, value: Any) -> str:
        """The name of the partition with a value; dates and datetimes are taken as well as Iceberg's numbers."""
        if self.partitioning.column is None:
            return WHOLE
        return f"{self.field}={NULL if value is None else self._text(value)}"

    def value(self, name: str) -> PartitionValue:
        """The value of the partition of a name."""
        text = name.partition("=")[2]
        if self.partitioning.column is None or text == NULL:
            return None
        if self.partitioning.transform == "month":
            return int(text) if _NUMBER.fullmatch(text) else (int(text[:4]) - 1970) * 12 + int(text[5:7]) - 1
        if self.partitioning.transform == "bucket":
            return int(text)
        assert self.type is not None
        if self.partitioning.transform == "day" or pa.types.is_date(self.type):
            return int(text) if _NUMBER.fullmatch(text) else (date.fromisoformat(text) - _EPOCH).days
        if pa.types.is_boolean(self.type):
            return text == "true"
        if pa.types.is_decimal(self.type):
            return Decimal(text)
        return unquote(text) if pa.types.is_string(self.type) else int(text)

    def shown(self, name: str) -> str:
        """The name that every hop gives the partition (`lakehouse.rows.partition`), of its name here.

        They differ for texts, which are percent-encoded here so that a folder can have the name and `null` is not the missing
        value, and for timestamps.
        """
        if self.partitioning.transform != "identity" or self.type is None:
            return name
        column = pa.array([self.value(name)], pa.int64() if pa.types.is_timestamp(self.type) else None)
        if pa.types.is_string(self.type) or pa.types.is_timestamp(self.type):
            batch = pa.RecordBatch.from_arrays([column.cast(self.type)], names=[str(self.partitioning.column)])
            return str(partition_names(batch, self.partitioning)[0].as_py())
        return name

    def _text(self, value: Any) -> str:
        if self.partitioning.transform == "month":
            return f"{1970 + value // 12:04d}-{value % 12 + 1:02d}" if FIRST_MONTH <= value <= LAST_MONTH else f"{value:+d}"
        if self.partitioning.transform == "bucket":
            return str(value)
        assert self.type is not None
        if self.partitioning.transform == "day" or pa.types.is_date(self.type):
            if isinstance(value, date):
                return value.isoformat()
            return (_EPOCH + timedelta(days=value)).isoformat() if FIRST_DAY <= value <= LAST_DAY else f"{value:+d}"
        if pa.types.is_boolean(self.type):
            return "true" if value else "false"
        if pa.types.is_string(self.type):
            return "%6Eull" if value == NULL else quote(value, safe="")
        return str(value)

    def key_sql(self) -> str:
        """A DuckDB expression over a row that tells its partition: a number where that can be, else text. See `named`.

        It is evaluated for every row, and so has no calendar and no text in it where it can do without. `prepare` the connection
        first.
        """
        column, type_ = quoted(str(self.partitioning.column)), self.type
        if type_ is None:
            return "0::bigint"
        if self.partitioning.transform == "bucket":
            return f"{_bucket_function(self.partitioning)}({column})::bigint"
        if self.partitioning.transform == "month":
            return f"((year({column}) - 1970) * 12 + month({column}) - 1)::bigint"
        if pa.types.is_date(type_) or self.partitioning.transform == "day":
            return day_sql(column, type_)
        if pa.types.is_timestamp(type_):
            return f"epoch_us({column})"
        return f"{column}::{'bigint' if self._is_number else 'varchar'}"

    def named(self, key: int | str | None) -> str:
        """The name of the partition that `key_sql` tells."""
        if self.type is not None and isinstance(key, str) and not pa.types.is_string(self.type):
            return self.name(Decimal(key) if pa.types.is_decimal(self.type) else key == "true")
        return self.name(key)

    def folder_sql(self) -> str:
        """A DuckDB expression over a row: a folder of its partition, short and of plain characters. See `folder`."""
        if self.partitioning.transform == "identity":
            return f"md5(coalesce('=' || {self.key_sql()}::varchar, ''))"
        return f"coalesce({self.key_sql()}, {_NO_VALUE})"

    @property
    def folder_type(self) -> str:
        """The DuckDB type of `folder_sql`."""
        return "varchar" if self.partitioning.transform == "identity" else "bigint"

    def is_in_sql(self, names: Sequence[str]) -> str:
        """A DuckDB condition on a row: it is of one of these partitions."""
        folders = ", ".join(f"'{self.folder(name)}'::{self.folder_type}" for name in names)
        return f"{self.folder_sql()} in ({folders})"

    def folder(self, name: str) -> str:
        """The folder of `folder_sql` for the partition of a name."""
        value = self.value(name)
        if self.type is None or self.partitioning.transform != "identity":
            return str(0 if self.type is None else _NO_VALUE if value is None else value)
        text = "" if value is None else f"={value:f}" if isinstance(value, Decimal) else f"={value}"
        return hashlib.md5((text.lower() if isinstance(value, bool) else text).encode(), usedforsecurity=False).hexdigest()

    @property
    def key_type(self) -> pa.DataType:
        """The Arrow type of `key_sql`."""
        return pa.int64() if self._is_number else pa.string()

    @property
    def _is_number(self) -> bool:
        """Whether `key_sql` is a number."""
        type_ = self.type
        if type_ is None or self.partitioning.transform != "identity":
            return True
        return bool(pa.types.is_integer(type_) or pa.types.is_date(type_) or pa.types.is_timestamp(type_))

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Give a DuckDB connection the functions that `key_sql` uses."""
        if self.partitioning.transform != "bucket":
            return
        from pyiceberg_core.transform import bucket

        buckets = self.partitioning.buckets

        def bucket_of(values: pa.Array | pa.ChunkedArray) -> pa.Array:
            array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
            return bucket(array.cast(self.type), buckets)

        connection.create_function(
            _bucket_function(self.partitioning),
            bucket_of,
            [duckdb.sqltype(duck_type(declared_type(pa.field("column", self.type))))],
            duckdb.sqltype("INTEGER"),
            type=ARROW,
            null_handling=SPECIAL,
        )

    def overlapped(self, names: Sequence[str], windows: Sequence[Window]) -> set[str]:
        """Of the day partitions `names`, those that hold any time of the windows."""
        assert self.partitioning.transform == "day"
        found = set()
        for name in names:
            day = self.value(name)
            if not isinstance(day, int):
                continue
            if any(_overlaps(day, window) for window in windows):
                found.add(name)
        return found


def day_sql(column: str, type_: pa.DataType) -> str:
    """A DuckDB expression for the day of a date or timestamp, as a number since 1970."""
    if pa.types.is_date(type_):
        return f"({column} - date '1970-01-01')::bigint"
    moment, day = f"epoch_us({column})", 86_400_000_000
    return f"({moment} // {day} - ({moment} % {day} < 0)::bigint)"


def _overlaps(day: int, window: Window) -> bool:
    after_low = window.low is None or day >= (window.low.date() - _EPOCH).days
    if window.high is None:
        return after_low
    last = window.high - timedelta(microseconds=1)
    return after_low and day <= (last.date() - _EPOCH).days


def _bucket_function(partitioning: Partitioning) -> str:
    return f"lakehouse_bucket_{partitioning.buckets}"
