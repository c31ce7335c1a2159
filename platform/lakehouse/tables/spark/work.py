"""What executors do in Python: prove raw files, digest rows, write data files. Knows Arrow and the store, not Spark's plans."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse.errors import LakehouseError
from lakehouse.rows.checksum import EMPTY, digests_checksum
from lakehouse.rows.digest import Words, row_digests
from lakehouse.settings import StoreSettings
from lakehouse.spec import RawFile, RowChecksum
from lakehouse.stores import ObjectStore, open_store
from lakehouse.tables.datafiles import DataFiles, digest_name, raw_difference, raw_gone
from lakehouse.tables.filesystem import opener
from lakehouse.tables.partitions import PartitionScheme

Line = TypeVar("Line")
PROVED = pa.schema([("path", pa.string()), ("partitions", pa.string()), ("found", pa.string()), ("allowed", pa.string())])
SUMS = pa.schema([("partition", pa.string()), ("sums", pa.string()), ("error", pa.string())])
WRITTEN = pa.schema(
    [
        ("partition", pa.string()),
        ("url", pa.string()),
        ("bytes", pa.int64()),
        ("footer", pa.binary()),
        ("sums", pa.string()),
    ]
)
FILE_BYTES = 512 << 20
ROW_GROUP_ROWS, ROW_GROUP_BYTES = 122_880, 32 << 20
_BLOCK = 1 << 20

DaySums = dict[str, RowChecksum]
"""Rows and checksum by day of the event time; one day, the empty text, where a table has none."""


def ddl(schema: pa.Schema) -> str:
    """The columns of a result, as Spark wants them told."""
    names = {pa.string(): "string", pa.int64(): "long", pa.binary(): "binary"}
    return ", ".join(f"{field.name} {names[field.type]}" for field in schema)


@dataclass(frozen=True)
class RawLine:
    """A raw file to prove: its path in the store, its columns, and what its manifest says of it."""

    path: str
    columns: tuple[str, ...]
    file: RawFile


@dataclass(frozen=True)
class ProveFiles:
    """Numbers of raw files: each is read and held against its manifest; the partitions that its rows are of, or what is wrong."""

    store: StoreSettings
    scheme: PartitionScheme
    lines: Sequence[RawLine]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        opened = opener(self.store)
        for line in chosen(self.lines, batches):
            with tempfile.TemporaryFile(prefix="lakehouse-prove-") as local:
                wrong = self._copied(opened, line, local)
                names = [] if wrong else self._names(line, local)
            found, allowed = wrong or (None, None)
            told = {"path": line.path, "partitions": json.dumps(names), "found": found, "allowed": allowed}
            yield pa.RecordBatch.from_pylist([told], schema=PROVED)

    def _copied(self, opened: Any, line: RawLine, local: IO[bytes]) -> tuple[str, str] | None:
        """Bring a file to the local disk; what was found and what was allowed, if it is not what it should be."""
        digest = hashlib.sha256()
        try:
            with opened(line.path) as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    local.write(block)
        except FileNotFoundError:
            return raw_gone(line.file)
        return raw_difference(line.file, local.tell(), digest.hexdigest())

    def _names(self, line: RawLine, local: IO[bytes]) -> list[str]:
        """The partitions of a file's rows; none for a file that lacks the partition's column."""
        column = self.scheme.partitioning.column
        if column is not None and column not in line.columns:
            return []
        local.seek(0)
        parquet = pq.ParquetFile(local)
        if column is None:
            return [self.scheme.name(None)] if parquet.metadata.num_rows else []
        found: set[str] = set()
        for batch in parquet.iter_batches(columns=[column]):
            found.update(pc.unique(names_of(self.scheme, batch.column(0))).to_pylist())
        return sorted(found)


def chosen(lines: Sequence[Line], batches: Iterable[pa.RecordBatch]) -> Iterator[Line]:
    """The lines of work whose numbers came."""
    for batch in batches:
        for number in batch.column(0).to_pylist():
            yield lines[number]


def names_of(scheme: PartitionScheme, values: pa.Array) -> pa.Array:
    """The partition's name of each value, as `PartitionScheme` has it, found once for each distinct day, bucket or value."""
    values, partitioning = values.cast(scheme.type), scheme.partitioning
    if partitioning.transform == "bucket":
        from pyiceberg_core.transform import bucket

        values = bucket(values, partitioning.buckets)
    elif partitioning.is_time:
        values = values.cast(pa.date32(), safe=False).cast(pa.int32())
    elif pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    elif pa.types.is_date(values.type):
        values = values.cast(pa.int32())
    encoded = values.dictionary_encode(null_encoding="encode")
    found = encoded.dictionary.to_pylist()
    if partitioning.transform == "month":
        found = [None if day is None else _month(day) for day in found]
    texts = pa.array([scheme.name(value) for value in found], pa.string())
    return pa.DictionaryArray.from_arrays(encoded.indices, texts).dictionary_decode()


def _month(day: int) -> int:
    """Months since January 1970, of days since its first."""
    at = np.datetime64(day, "D").astype("datetime64[M]")
    return int(at.astype(np.int64))


@dataclass(frozen=True)
class DigestFiles:
    """Numbers of data files: the checksums of their rows, by partition and day; or the platform's error, as text."""

    store: StoreSettings
    schema: pa.Schema
    event_time: str | None
    lines: Sequence[tuple[str, str]]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        store_url, opened = open_store(self.store).url, opener(self.store)
        files = DataFiles(lambda url: opened(url.removeprefix(store_url + "/")), self.store.endpoint or "the object store")
        for partition, url in chosen(self.lines, batches):
            sums: DaySums = {}
            told: dict[str, str] = {"partition": partition}
            try:
                for rows in files.batches(url, self.schema):
                    add_days(sums, rows, row_digests(rows, self.schema), self.event_time)
                told["sums"] = to_text(sums)
            except LakehouseError as error:
                facts = {"tried": error.tried, "value": str(error.value), "allowed": error.allowed, "remedy": error.remedy}
                told["error"] = json.dumps({"kind": type(error).__name__, **facts})
            yield pa.RecordBatch.from_pylist([told], schema=SUMS)


@dataclass(frozen=True)
class WriteFiles:
    """Batches of rows, sorted by `_partition`: data files of them in the store, one line for each.

    folders: where the files of a partition go, by its name. A task that is done again writes under the same numbers: files with
    the same bytes have the same name, and others are named by nobody.
    """

    store: StoreSettings
    schema: pa.Schema
    file_schema: pa.Schema
    event_time: str | None
    folders: dict[str, str]
    commit_id: str

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        number = context.partitionId() * 10_000
        store = open_store(self.store)
        with tempfile.TemporaryDirectory(prefix="lakehouse-write-") as folder:
            file: _File | None = None
            for partition, rows in _runs(batches):
                if file is not None and (file.partition != partition or file.is_full):
                    yield file.stored(store, self)
                    file = None
                if file is None:
                    number += 1
                    file = _File(partition, Path(folder) / f"{number}.parquet", number, self.file_schema)
                file.write(rows, self)
            if file is not None:
                yield file.stored(store, self)


@dataclass
class _File:
    """A data file that is being written."""

    partition: str
    path: Path
    number: int
    file_schema: pa.Schema
    sums: DaySums = field(default_factory=dict)
    _waiting: list[pa.RecordBatch] = field(default_factory=list)
    _rows: int = 0
    _bytes: int = 0

    def __post_init__(self) -> None:
        self._writer = pq.ParquetWriter(self.path, self.file_schema, compression="zstd", store_schema=False)

    @property
    def is_full(self) -> bool:
        return self.path.stat().st_size >= FILE_BYTES

    def write(self, rows: pa.RecordBatch, told: WriteFiles) -> None:
        """Add rows, and write a row group when there are enough."""
        batch = pa.RecordBatch.from_arrays(
            [rows.column(name).cast(type_.type) for name, type_ in zip(self.file_schema.names, self.file_schema, strict=True)],
            schema=self.file_schema,
        )
        add_days(self.sums, batch, row_digests(batch, told.schema), told.event_time)
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def stored(self, store: ObjectStore, told: WriteFiles) -> pa.RecordBatch:
        """Close and upload the file, and tell of it."""
        self._flush()
        self._writer.close()
        with self.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        url = told.folders[self.partition] + digest_name(told.commit_id, self.number, digest)
        size = self.path.stat().st_size
        footer = BytesIO()
        pq.read_metadata(self.path).write_metadata_file(footer)
        store.upload(self.path, url.removeprefix(store.url + "/"))
        path = self.path
        path.unlink()
        line = {"partition": self.partition, "url": url, "bytes": size, "footer": footer.getvalue(), "sums": to_text(self.sums)}
        return pa.RecordBatch.from_pylist([line], schema=WRITTEN)

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting), row_group_size=ROW_GROUP_ROWS)
        self._waiting, self._rows, self._bytes = [], 0, 0


def _runs(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Stretches of rows of one partition, which the last column names."""
    for batch in batches:
        if not batch.num_rows:
            continue
        names = pc.run_end_encode(batch.column(batch.num_columns - 1))
        start = 0
        for end, name in zip(names.run_ends.to_pylist(), names.values.to_pylist(), strict=True):
            yield name, batch.slice(start, end - start)
            start = end


def add_days(sums: DaySums, batch: pa.RecordBatch, digests: Words, event_time: str | None) -> None:
    """Add rows with these digests to those of their days."""
    if event_time is None or not batch.num_rows:
        sums[""] = sums.get("", EMPTY) + digests_checksum(digests)
        return
    days = batch.column(event_time).cast(pa.date32()).cast(pa.int32()).fill_null(_NO_DAY).to_numpy()
    order = np.argsort(days, kind="stable")
    starts = np.flatnonzero(np.diff(days[order], prepend=days[order[0]] - 1))
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        day = str(days[order[start]])
        sums[day] = sums.get(day, EMPTY) + digests_checksum(digests[order[start:end]])


_NO_DAY = -(2**31)
NO_DAY = str(_NO_DAY)
"""The day of rows whose event time is null."""


def to_text(sums: DaySums) -> str:
    """Sums as JSON."""
    return json.dumps({day: [found.rows, found.value] for day, found in sums.items()})


def from_text(text: str) -> DaySums:
    """Sums from JSON."""
    found: dict[str, Any] = json.loads(text)
    return {day: RowChecksum(rows, value) for day, (rows, value) in found.items()}
