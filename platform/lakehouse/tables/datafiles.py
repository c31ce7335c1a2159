"""Data files in the store: their names, which prove their bytes, and their rows with memory bounded by one row group.

Neither a table format nor Parquet, as it is written here, keeps a checksum of a file. So a file's name ends with the first 16
hexadecimal digits of its SHA-256: whoever reads it whole can prove it. Files of other writers are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from os.path import commonpath
from pathlib import Path
from typing import IO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from lakehouse.errors import DamagedData, DamagedMetadata, StoreUnavailable
from lakehouse.spec import RawFile
from lakehouse.stores import ObjectStore
from lakehouse.tables.format import DataFile
from lakehouse.tables.partitions import PartitionScheme

BATCH_ROWS = 65536
LONGEST_FOLDER = 120
"""Characters of a partition's folder beyond which it is named by a number: file systems allow 255 bytes."""

_BLOCK = 8 << 20
_DIGITS = 16
_PROVABLE = re.compile(r"-\d+-([0-9a-f]{16})\.parquet$")
_TEXTS = ("STRING", "JSON")


class Readable(Protocol):
    """An opened file."""

    def read(self, size: int, /) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        ...


def file_name(commit_id: str, index: int, local: Path) -> str:
    """The name of a data file in the store: unique by its commit, and proof of its bytes."""
    with local.open("rb") as file:
        return digest_name(commit_id, index, hashlib.file_digest(file, "sha256").hexdigest())


def digest_name(commit_id: str, index: int, sha256: str) -> str:
    """As `file_name`, for bytes whose SHA-256 is known."""
    return f"{commit_id}-{index}-{sha256[:_DIGITS]}.parquet"


def folder_name(partition: str) -> str:
    """The folder of a partition's files."""
    if len(partition) <= LONGEST_FOLDER:
        return partition
    return f"{partition[:60]}~{uuid.uuid5(uuid.NAMESPACE_URL, partition).hex}"


class DataFiles:
    """The Parquet files of one table. opener: opens an address; place: what the store is called in an error."""

    def __init__(self, opener: Callable[[str], AbstractContextManager[IO[bytes]]], place: str) -> None:
        self._opener = opener
        self._place = place

    def batches(self, url: str, schema: pa.Schema, *, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """See `TableHandle.batches`, for a file that nobody deleted from."""
        wanted = _columns(schema, columns)
        with self.reading(f"reading {url}"), self._opened(url, whole=columns is None) as stream:
            parquet = pq.ParquetFile(stream)
            present = [name for name in wanted.names if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=present):
                yield as_schema(batch, wanted)

    def encoded_batches(self, url: str, schema: pa.Schema, *, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """See `TableHandle.encoded_batches`, for a file that nobody deleted from. A row group is fetched with few requests."""
        wanted = _columns(schema, columns)
        with self.reading(f"reading {url}"), self._opener(url) as stream:
            footer = pq.read_metadata(stream)
            parquet = pq.ParquetFile(stream, metadata=footer, read_dictionary=_dictionaries(footer), pre_buffer=True)
            present = [name for name in wanted.names if name in parquet.schema_arrow.names]
            for group in range(footer.num_row_groups):
                for batch in parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=present, use_threads=False):
                    yield _encoded(batch, wanted)

    def footer(self, url: str) -> pq.FileMetaData:
        """The footer of a file."""
        with self.reading(f"reading {url}"), self._opener(url) as stream:
            return pq.read_metadata(stream)

    def copy(self, url: str, local: Path) -> Path:
        """A file on the local disk, proved."""
        with self.reading(f"reading {url}"), self._opener(url) as source, open(local, "wb") as target:
            copy_proved(source, target, url)
        return local

    @contextmanager
    def reading(self, tried: str) -> Iterator[None]:
        """Turn what pyarrow's file systems and Parquet raise into the platform's errors."""
        try:
            yield
        except FileNotFoundError as error:
            raise damaged(tried, str(error), "every file that the table's metadata names") from error
        except pa.ArrowInvalid as error:
            raise damaged(tried, str(error), "a file as it was written") from error
        except OSError as error:
            if _is_content(error):
                raise damaged(tried, str(error), "a file as it was written") from error
            raise StoreUnavailable(
                tried,
                value=str(error),
                allowed=f"an answer from {self._place}",
                remedy="Look at the store, then run this again.",
            ) from error

    @contextmanager
    def _opened(self, url: str, *, whole: bool) -> Iterator[IO[bytes]]:
        """A data file to read from. One that is wanted whole is copied to the local disk and proved before any row is seen."""
        with self._opener(url) as source:
            if not (whole and _PROVABLE.search(url)):
                yield source
                return
            with tempfile.TemporaryFile(prefix="lakehouse-") as local:
                copy_proved(source, local, url)
                local.seek(0)
                yield local


def copy_proved(source: Readable, target: IO[bytes], path: str) -> None:
    """Copy a file; DamagedData, naming it, when its bytes are not those that its name stands for."""
    digest = hashlib.sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
        target.write(block)
    named = _PROVABLE.search(path)
    if named and not digest.hexdigest().startswith(named[1]):
        raise damaged(f"reading {path}", f"SHA-256 {digest.hexdigest()[:_DIGITS]}…", f"SHA-256 {named[1]}…, as its name says")


def damaged(tried: str, found: str, allowed: str) -> DamagedData:
    """The error of a copy that is not as it was written."""
    return DamagedData(
        tried,
        value=found,
        allowed=allowed,
        remedy="Run `lakehouse repair` on the table: it is folded anew from its raw log.",
    )


def raw_difference(file: RawFile, size: int, sha256: str) -> tuple[str, str] | None:
    """What is found of a raw file and what its manifest says of it; None when both are the same."""
    if size != file.bytes:
        return f"{size} bytes", f"{file.bytes} bytes, as its manifest says"
    if sha256 != file.sha256:
        return f"SHA-256 {sha256}", f"SHA-256 {file.sha256}, as its manifest says"
    return None


def raw_gone(file: RawFile) -> tuple[str, str]:
    """What is found of a raw file that is gone, and what its manifest says of it."""
    return "the file is gone", f"{file.bytes} bytes, as its manifest says"


def raw_damaged(url: str, found: str, allowed: str) -> DamagedData:
    """The error of a raw file that is not as it was landed."""
    return DamagedData(
        f"reading raw file {url}",
        value=found,
        allowed=allowed,
        remedy="Run `lakehouse repair` on the table, or restore the file from a copy of the store; nothing was applied.",
    )


def damaged_metadata(tried: str, found: str, allowed: str) -> DamagedMetadata:
    """The error of a file that says what a table is made of, and cannot be read."""
    remedy = "Run `lakehouse repair` on the table: it goes back to metadata that can be read and catches up."
    return DamagedMetadata(tried, value=found, allowed=allowed, remedy=remedy)


def partition_contents(store: ObjectStore, scheme: PartitionScheme, files: Sequence[DataFile]) -> dict[str, str]:
    """For each partition a hash of its data and delete files: address, size and time of the last write, as the store lists them.

    Data files are never changed in place by a format, so the addresses alone would do for what goes by its rules; size and time
    show what does not. An empty text stands for a partition with a file that is not there, or not in this store.
    """
    written = _written(store, {address for file in files for address in (file.url, *file.deletes)})
    parts: dict[str, list[list[str | None]]] = {}
    for file in files:
        addresses = [file.url, *sorted(file.deletes)]
        parts.setdefault(scheme.shown(file.partition), []).append(
            [text for address in addresses for text in (address, written.get(address))]
        )
    return {name: _hash(found) if all(all(file) for file in found) else "" for name, found in sorted(parts.items())}


def as_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with the columns of `schema`, in its types; a missing one is null."""
    names = set(batch.schema.names)
    arrays = [
        batch.column(field.name).cast(field.type) if field.name in names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    if not arrays:
        return batch
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _columns(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    return schema if columns is None else pa.schema([schema.field(name) for name in columns])


def _is_content(error: OSError) -> bool:
    """Whether pyarrow means what is in a file: such an error has no number of the system's, nor is it the service's."""
    return error.errno is None and "AWS Error" not in str(error) and not isinstance(error, ConnectionError | TimeoutError)


def _written(store: ObjectStore, addresses: set[str]) -> dict[str, str]:
    """Size and time of the last write of each object, by address; what is not in the store is left out."""
    root = store.url + "/"
    paths = {address.removeprefix(root) for address in addresses if address.startswith(root)}
    if not paths:
        return {}
    listed = store.list(commonpath([path.rpartition("/")[0] for path in paths]))
    return {root + info.path: f"{info.size} {info.modified.isoformat()}" for info in listed if info.path in paths}


def _hash(files: list[list[str | None]]) -> str:
    return hashlib.sha256(json.dumps(sorted(files, key=str)).encode()).hexdigest()[:32]


def _dictionaries(footer: pq.FileMetaData) -> list[str]:
    """The columns of texts that have a dictionary in every row group."""
    shapes = [footer.schema.column(place) for place in range(footer.num_columns)]
    texts = [place for place, shape in enumerate(shapes) if shape.logical_type.type in _TEXTS and "." not in shape.path]
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    return [shapes[place].path for place in texts if all(group.column(place).has_dictionary_page for group in groups)]


def _encoded(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    present = set(batch.schema.names)
    if not schema.names:
        return batch
    arrays = []
    for field in schema:
        if field.name not in present:
            arrays.append(pa.nulls(batch.num_rows, field.type))
        elif pa.types.is_nested(field.type):
            arrays.append(batch.column(field.name).cast(field.type))
        else:
            arrays.append(batch.column(field.name))
    return pa.RecordBatch.from_arrays(arrays, names=schema.names)
