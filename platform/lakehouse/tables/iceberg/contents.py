"""Reading a snapshot to verify it: what tells the files of a partition from others, and their rows at the least cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from os.path import commonpath

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.table import Table as IcebergTable

from lakehouse.stores import ObjectStore
from lakehouse.tables.iceberg.files import BATCH_ROWS, LiveFile, file_batches, reading
from lakehouse.tables.partitions import PartitionScheme

_TEXTS = ("STRING", "JSON")


def partition_contents(store: ObjectStore, scheme: PartitionScheme, files: Sequence[LiveFile]) -> dict[str, str]:
    """For each partition a hash of its data and delete files: address, size and time of the last write, as the store lists them.

    Data files are never changed in place by Iceberg, so the addresses alone would do for what goes by its rules; size and time
    show what does not. An empty text stands for a partition with a file that is not there, or not in this store.
    """
    named = {file.path for file in files} | {deleted.file_path for file in files for deleted in file.task.delete_files}
    written = _written(store, named)
    parts: dict[str, list[list[str | None]]] = {}
    for file in files:
        addresses = [file.path, *sorted(deleted.file_path for deleted in file.task.delete_files)]
        parts.setdefault(scheme.shown(file.partition), []).append(
            [text for address in addresses for text in (address, written.get(address))]
        )
    return {name: _hash(found) if all(all(file) for file in found) else "" for name, found in sorted(parts.items())}


def encoded_batches(
    handle: IcebergTable, file: LiveFile, schema: pa.Schema, *, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a data file, texts that the file keeps as a dictionary left as one; a column that the file lacks is null.

    One row group is in memory at a time, and is fetched with few requests.
    """
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    if file.task.delete_files:
        yield from file_batches(handle, file, schema, columns=columns)
        return
    with reading(f"reading {file.path}", handle), handle.io.new_input(file.path).open() as stream:
        footer = pq.read_metadata(stream)
        parquet = pq.ParquetFile(stream, metadata=footer, read_dictionary=_dictionaries(footer), pre_buffer=True)
        present = [name for name in wanted.names if name in parquet.schema_arrow.names]
        for group in range(footer.num_row_groups):
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=present, use_threads=False):
                yield _encoded(batch, wanted)


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
    arrays = [batch.column(field.name) if field.name in present else pa.nulls(batch.num_rows, field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, names=schema.names)
