"""The fold engine of a cluster: executors read raw and old files from the store, fold, and write new files there.

The driver plans, and collects a line for each file. What Spark leaves behind are files like those of the embedded engine, with
the same names and footers, and the same code commits them. So Iceberg and Delta are written by one rule, whoever folds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta
from functools import cached_property
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from lakehouse import errors
from lakehouse.errors import EngineFailed, LakehouseError, Unsupported
from lakehouse.rows.checksum import EMPTY, total
from lakehouse.settings import Settings
from lakehouse.spec import History, Table
from lakehouse.stores import ObjectStore
from lakehouse.tables.columns import field_specs
from lakehouse.tables.datafiles import raw_damaged
from lakehouse.tables.folds import Folded, FoldTask
from lakehouse.tables.format import DataFile, StoredFile
from lakehouse.tables.spark.folding import Plan
from lakehouse.tables.spark.frames import PARTITION, column, keys_frame, partition_of, read_files, same_key
from lakehouse.tables.spark.session import open_session
from lakehouse.tables.spark.work import (
    NO_DAY,
    PROVED,
    SUMS,
    WRITTEN,
    DaySums,
    DigestFiles,
    ProveFiles,
    RawLine,
    WriteFiles,
    ddl,
    from_text,
)

MOST_TASKS = 1000
"""Tasks of one job that reads files; each takes its share of them."""

_EPOCH = date(1970, 1, 1)


class SparkEngine:
    """FoldEngine on Spark. The session starts with the first fold and is shared by all of the process."""

    def __init__(self, settings: Settings, store: ObjectStore) -> None:
        self._settings = settings
        self._store = store

    @cached_property
    def _session(self) -> SparkSession:
        return open_session(self._settings)

    def fold(self, task: FoldTask) -> Folded:
        """See `lakehouse.tables.folds.FoldEngine`."""
        refuse_history(f"{task.source}.{task.table.name}", task.table)
        with _failing(f"folding {task.source}.{task.table.name}"):
            new = self._proved(task)
            plan = Plan(self._session, task.table, task.schema, task.entries, f"{self._store.url}/{task.files_root}")
            touched = self._touched(task, plan, new)
            if not touched:
                return Folded()
            old = {name: task.old[name] for name in touched if name in task.old}
            refuse_deletes(f"{task.source}.{task.table.name}", old)
            with ThreadPoolExecutor(1) as beside:
                digests = beside.submit(self._digests, task, old)
                rows = plan.folded(self._read(task.schema, old) if old else None)
                after, files = self._write(task, rows, touched)
                before = digests.result()
        return self._compared(task, touched, before, after, files)

    def _proved(self, task: FoldTask) -> set[str]:
        """Read every raw file once, on the executors, and hold it against its manifest; the partitions of all rows."""
        lines = [
            RawLine(f"{task.files_root}/{file.path}", tuple(f.name for f in entry.manifest.fields), file)
            for entry in task.entries
            for file in entry.manifest.files
        ]
        found: set[str] = set()
        for row in self._each(lines, ProveFiles(self._settings.store, task.scheme, lines), PROVED):
            if row.found is not None:
                raise raw_damaged(self._store.url_of(row.path), row.found, row.allowed)
            found.update(json.loads(row.partitions))
        return found

    def _each(self, lines: Sequence[Any], work: Any, result: pa.Schema) -> list[Any]:
        """Lines of work, each done by whoever is free; what they return."""
        if not lines:
            return []
        numbers = self._session.range(0, len(lines), 1, min(len(lines), MOST_TASKS))
        found: list[Any] = numbers.mapInArrow(work, ddl(result)).collect()
        return found

    def _touched(self, task: FoldTask, plan: Plan, new: set[str]) -> list[str]:
        """The partitions whose rows can change; new: those of the batches' rows."""
        if task.table.mode == "snapshot" or task.every_row:
            return sorted(new | task.old.keys())
        if task.table.mode == "append":
            windows = [entry.manifest.window for entry in plan.entries if entry.manifest.window is not None]
            return sorted(new | task.scheme.overlapped(list(task.old), windows))
        if not task.separable:
            others = {name: files for name, files in task.old.items() if name not in new}
            new = new | self._holding_keys(task, plan, others)
        return sorted(new)

    def _names(self, task: FoldTask, rows: DataFrame) -> list[str]:
        found = rows.select(partition_of(task.scheme).alias(PARTITION)).distinct().collect()
        return [row[PARTITION] for row in found]

    def _holding_keys(self, task: FoldTask, plan: Plan, old: Mapping[str, Sequence[DataFile]]) -> set[str]:
        """The partitions that have an old version of a key that the batches bring: keys and partition column are read."""
        if not old or not plan.entries:
            return set()
        narrow = list(dict.fromkeys([*task.table.key, *filter(None, [task.table.partition.column])]))
        rows = self._read(keys_frame(task.schema, narrow), old)
        held = rows.alias("o").join(plan.keys().alias("k"), same_key("o", "k", task.table.key), "left_semi")
        return set(self._names(task, held.select(*(column(name, "o") for name in narrow))))

    def _read(self, schema: pa.Schema, old: Mapping[str, Sequence[DataFile]]) -> DataFrame:
        urls = [file.url for files in old.values() for file in files]
        return read_files(self._session, urls, field_specs(schema))

    def _write(
        self, task: FoldTask, rows: DataFrame, touched: Sequence[str]
    ) -> tuple[dict[str, list[DaySums]], list[StoredFile]]:
        """Write the rows as data files; the checksums of what was written, by partition."""
        placed = rows.withColumn(PARTITION, partition_of(task.scheme))
        spread = placed.hint("rebalance", PARTITION) if len(touched) > 1 else placed.hint("rebalance")
        folders = {name: task.address(name, "") for name in touched}
        work = WriteFiles(self._settings.store, task.schema, task.file_schema, task.table.event_time, folders, task.commit_id)
        lines = spread.sortWithinPartitions(PARTITION).mapInArrow(work, ddl(WRITTEN)).collect()
        sums: dict[str, list[DaySums]] = {}
        files = []
        for line in lines:
            sums.setdefault(line.partition, []).append(from_text(line.sums))
            footer = pq.read_metadata(BytesIO(bytes(line.footer)))
            files.append(StoredFile(line.url, line.partition, line.bytes, footer))
        return sums, files

    def _digests(self, task: FoldTask, old: Mapping[str, Sequence[DataFile]]) -> dict[str, list[DaySums]]:
        """The checksums of the old rows, by partition."""
        lines = [(name, file.url) for name, files in old.items() for file in files]
        work = DigestFiles(self._settings.store, task.schema, task.table.event_time, lines)
        sums: dict[str, list[DaySums]] = {}
        for row in self._each(lines, work, SUMS):
            if row.error is not None:
                told = json.loads(row.error)
                kind: type[LakehouseError] = getattr(errors, told.pop("kind"))
                raise kind(told.pop("tried"), **told)
            sums.setdefault(row.partition, []).append(from_text(row.sums))
        return sums

    def _compared(
        self,
        task: FoldTask,
        touched: Sequence[str],
        before: Mapping[str, list[DaySums]],
        after: Mapping[str, list[DaySums]],
        files: Sequence[StoredFile],
    ) -> Folded:
        folded = Folded()
        for name in touched:
            old, new = _added(before.get(name, [])), _added(after.get(name, []))
            folded.sums[name] = total(old.values()), total(new.values())
            if task.table.event_time is not None:
                differing = {day for day in old.keys() | new.keys() if old.get(day, EMPTY) != new.get(day, EMPTY)}
                folded.days |= {_iso(day) for day in differing - {NO_DAY}}
        changed = set(folded.changed)
        for file in files:
            if task.rewrite or file.partition in changed:
                folded.files.append(file)
            else:
                self._store.delete(file.url.removeprefix(self._store.url + "/"))
        return folded


def refuse_history(name: str, table: Table) -> None:
    """Histories are folded by the embedded engine alone."""
    if isinstance(table, History):
        raise Unsupported(
            f"folding {name} with Spark",
            value=f"the history of {table.of.name!r}",
            allowed="tables without a history; the embedded engine folds histories",
            remedy=f"Run it with LAKEHOUSE_ENGINE=embedded (the engines take turns), or leave history out of {table.of.name!r}.",
        )


def refuse_deletes(name: str, old: Mapping[str, Sequence[DataFile]]) -> None:
    """Executors read data files as they are: rows that another tool deleted by a delete file would come back."""
    for file in (file for files in old.values() for file in files if file.deletes):
        raise Unsupported(
            f"folding {name} with Spark",
            value=f"{file.url} has delete files, which another tool wrote",
            allowed="data files without delete files; the embedded engine reads both",
            remedy="Run it once with LAKEHOUSE_ENGINE=embedded: what it rewrites has none.",
        )


def _added(parts: Sequence[DaySums]) -> DaySums:
    found: DaySums = {}
    for part in parts:
        for day, sums in part.items():
            found[day] = found.get(day, EMPTY) + sums
    return found


def _iso(day: str) -> str:
    return (_EPOCH + timedelta(days=int(day))).isoformat()


@contextmanager
def _failing(tried: str) -> Iterator[None]:
    """Turn what Spark raises into the platform's error; nothing was committed."""
    try:
        yield
    except PySparkException as error:
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = next((line for line in reversed(said) if "Error" in line or "Exception" in line), said[0] if said else "no word")
        raise EngineFailed(
            tried,
            value=told[:1000],
            allowed="a fold that Spark finishes",
            remedy="Look at Spark's log; give its executors more memory (LAKEHOUSE_SPARK__EXECUTOR_MEMORY_MB) if they ran out, "
            "and run it again.",
        ) from error
