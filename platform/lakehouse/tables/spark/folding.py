"""The fold of a raw log as plans of Spark: the same rules as `lakehouse.rows.fold`, which see.

Of an upserted table's old rows, those whose keys the batches touch are ordered with the new ones, by key; the others pass by
without being ordered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as fn

from lakehouse.errors import DamagedData
from lakehouse.rows.fold import ALL_TIME
from lakehouse.spec import LogEntry, Table
from lakehouse.spec import Window as TimeWindow
from lakehouse.tables.spark.frames import POSITION, SEQUENCE, batch_rows, column, nothing, same_key, union

_ALLOWED = {"append": {"replace"}, "upsert": {"upsert", "delete"}, "snapshot": {"snapshot"}}


@dataclass(frozen=True)
class Plan:
    """A table with its new batches. entries: in order of sequence, from the last new beginning on. root: of the raw files."""

    session: SparkSession
    table: Table
    schema: pa.Schema
    entries: Sequence[LogEntry]
    root: str

    def __post_init__(self) -> None:
        entries = [_begun(self.table, entry) for entry in self.entries]
        for entry in entries:
            if entry.manifest.kind not in _ALLOWED[self.table.mode]:
                raise DamagedData(
                    f"folding entry {entry.sequence} of table {self.table.name!r} (mode {self.table.mode})",
                    value=entry.manifest.kind,
                    allowed=", ".join(sorted(_ALLOWED[self.table.mode])),
                    remedy="Declare the mode that the table had, or land it under another name.",
                )
        object.__setattr__(self, "entries", entries)

    def rows(self, entry: LogEntry) -> DataFrame:
        """The rows of a batch."""
        return batch_rows(self.session, entry, self.root, self.schema)

    def folded(self, old: DataFrame | None) -> DataFrame:
        """The rows after the batches; old: those before them, of the partitions that are folded."""
        if old is not None and not self.entries:
            return old.select(*self._columns())
        if self.table.mode == "snapshot":
            return self.rows(self.entries[-1]).select(*self._columns())
        return self._replaced(old) if self.table.mode == "append" else self._upserted(old)

    def keys(self) -> DataFrame:
        """The distinct keys of all batches."""
        return union([self.rows(entry).select(*self._key()) for entry in self.entries]).distinct()

    def _replaced(self, old: DataFrame | None) -> DataFrame:
        assert self.table.event_time is not None
        parts, later = [], list[TimeWindow]()
        for entry in reversed(self.entries):
            window = entry.manifest.window
            if window not in later:
                parts.append(_outside(self.rows(entry), self.table.event_time, later))
            if window is not None:
                later.append(window)
        if old is not None:
            parts.append(_outside(old, self.table.event_time, later))
        return union([part.select(*self._columns()) for part in parts])

    def _upserted(self, old: DataFrame | None) -> DataFrame:
        upserts = [self.rows(entry) for entry in self.entries if entry.manifest.kind == "upsert"]
        passing = None
        if old is not None:
            keys, match = self.keys().alias("k"), same_key("o", "k", self.table.key)
            touched = old.alias("o").join(keys, match, "left_semi").select(*self._columns())
            passing = old.alias("o").join(keys, match, "left_anti").select(*self._columns())
            upserts.append(touched.withColumns({SEQUENCE: fn.lit(0).cast("long"), POSITION: fn.lit(0).cast("long")}))
        if not upserts:
            return nothing(self.session, self.schema)
        standing = self._newest(self._alive(union(upserts))).select(*self._columns())
        return standing if passing is None else standing.unionAll(passing)

    def _alive(self, versions: DataFrame) -> DataFrame:
        deletes = [self.rows(entry) for entry in self.entries if entry.manifest.kind == "delete"]
        if not deletes:
            return versions
        last = union([rows.select(*self._key(), SEQUENCE) for rows in deletes]).groupBy(*self._key())
        gone = last.agg(fn.max(SEQUENCE).alias("_deleted")).alias("d")
        joined = versions.alias("v").join(gone, same_key("v", "d", self.table.key), "left")
        kept = joined.where(fn.col("_deleted").isNull() | (fn.col(SEQUENCE) > fn.col("_deleted")))
        return kept.select("v.*")

    def _newest(self, versions: DataFrame) -> DataFrame:
        order = [fn.col(SEQUENCE).desc(), fn.col(POSITION).desc()]
        if self.table.cursor is not None:
            order.insert(0, column(self.table.cursor).desc_nulls_last())
        place = fn.row_number().over(Window.partitionBy(*self._key()).orderBy(*order))
        return versions.withColumn("_place", place).where(fn.col("_place") == 1)

    def _columns(self) -> list[Column]:
        return [column(name) for name in self.schema.names]

    def _key(self) -> list[Column]:
        return [column(name) for name in self.table.key]


def _begun(table: Table, entry: LogEntry) -> LogEntry:
    """A snapshot in the log of a table of another mode, as that mode folds it: a replacement of all time, or rows by key."""
    if entry.manifest.kind != "snapshot" or table.mode == "snapshot":
        return entry
    if table.mode == "upsert":
        return replace(entry, manifest=replace(entry.manifest, kind="upsert"))
    return replace(entry, manifest=replace(entry.manifest, kind="replace", window=ALL_TIME))


def _outside(rows: DataFrame, event_time: str, windows: Sequence[TimeWindow]) -> DataFrame:
    """Those rows that no window holds; a row without a time is in none."""
    for window in dict.fromkeys(windows):
        inside = fn.lit(True)
        if window.low is not None:
            inside = inside & (column(event_time) >= fn.lit(window.low))
        if window.high is not None:
            inside = inside & (column(event_time) < fn.lit(window.high))
        rows = rows.where(~fn.coalesce(inside, fn.lit(False)))
    return rows
