"""One fold, one snapshot: data files out, data files in, marker and schema, in one commit that nobody's commit can slip under.

pyiceberg's own `overwrite()` makes two snapshots, keeps manifests without live files for ever, and re-bases over another's commit
up to four times. So the snapshot is produced here, from the handle that the watermark was read from, and never tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Literal

import pyarrow.parquet as pq
from pydantic import Field
from pyiceberg.exceptions import CommitFailedException, TableAlreadyExistsError, ValidationException
from pyiceberg.expressions.visitors import _ManifestEvalVisitor
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestContent, ManifestEntry, ManifestFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table import Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, Summary
from pyiceberg.table.update import ValidatableTableRequirement
from pyiceberg.table.update.snapshot import (
    _ManifestMergeManager,
    _OverwriteFiles,
)
from pyiceberg.typedef import EMPTY_DICT, Record
from sqlalchemy.exc import SQLAlchemyError

from lakehouse.faults import effect
from lakehouse.tables.format import StoredFile
from lakehouse.tables.partitions import PartitionScheme

RETRIES = "commit.retry.num-retries"
_MANIFEST_BYTES = 8 << 20
_MANIFESTS = 20
"""Small manifests beyond which they are merged into one; each one costs a request whenever the table is planned."""

_STALE = "Cannot add snapshot with sequence number"

MOVED = (CommitFailedException, ValidationException, TableAlreadyExistsError)
"""What pyiceberg raises when it is certain that the commit did not go through."""

UNKNOWN = (SQLAlchemyError, OSError)
"""What leaves open whether the commit went through."""


class Unmoved(ValidatableTableRequirement):
    """A requirement of a commit: nobody has committed anything since a table was read.

    files: the metadata files before the one that was read, as that lists them. Whatever is committed after it lists it, too.
    """

    type: Literal["assert-unmoved"] = Field(default="assert-unmoved")
    files: tuple[str, ...]

    @classmethod
    def since(cls, metadata: TableMetadata) -> Unmoved:
        """That nothing was committed since this metadata."""
        return cls(files=_files_before(metadata))

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override]  # pydantic's, of that name
        """See pyiceberg."""
        if base_metadata is None or _files_before(base_metadata) != self.files:
            raise CommitFailedException("the table was committed to since it was read")


def _files_before(metadata: TableMetadata) -> tuple[str, ...]:
    return tuple(entry.metadata_file for entry in metadata.metadata_log)


class _OneSnapshot(_OverwriteFiles):
    """Replace data files by others; manifests without live files are left behind, small ones merged."""

    def _build_manifest_evaluator(self, spec_id: int) -> Callable[[ManifestFile], bool]:
        """An evaluator a manifest: pyiceberg's keeps the manifest at hand in itself, and asks it from several threads."""
        bound = super()._build_manifest_evaluator(spec_id)
        evaluator: _ManifestEvalVisitor = bound.__self__  # type: ignore[attr-defined]  # the method of one
        return lambda manifest: copy(evaluator).eval(manifest)

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        live = [manifest for manifest in manifests if _is_live(manifest) or manifest.added_snapshot_id == self.snapshot_id]
        data = [manifest for manifest in live if manifest.content == ManifestContent.DATA]
        others = [manifest for manifest in live if manifest.content != ManifestContent.DATA]
        merging: _ManifestMergeManager[_OverwriteFiles] = _ManifestMergeManager(
            target_size_bytes=_MANIFEST_BYTES, min_count_to_merge=_MANIFESTS, merge_enabled=True, snapshot_producer=self
        )
        return merging.merge_manifests(data) + others


class _SameRows(_OneSnapshot):
    """A rewrite: what it is called tells readers of changes that there are none. pyiceberg counts no such snapshots' totals."""

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        counted = super()._summary(snapshot_properties)
        return Summary(operation=Operation.REPLACE, **counted.additional_properties)


class _WholeTable(_OneSnapshot):
    """Nothing of the snapshot before is kept, and nothing of it is read: its manifests may be damaged."""

    def _existing_manifests(self) -> list[ManifestFile]:
        return []

    def _deleted_entries(self) -> list[ManifestEntry]:
        return []

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        parent, self._parent_snapshot_id = self._parent_snapshot_id, None  # totals begin at nothing
        try:
            return super()._summary(snapshot_properties)
        finally:
            self._parent_snapshot_id = parent


def _is_live(manifest: ManifestFile) -> bool:
    return manifest.has_added_files() or manifest.has_existing_files()


def commit_snapshot(
    transaction: Transaction,
    handle: IcebergTable | None,
    scheme: PartitionScheme,
    *,
    removed: Iterable[DataFile] | None,
    added: Sequence[StoredFile],
    properties: Mapping[str, str],
    same_rows: bool = False,
) -> IcebergTable:
    """Stage one snapshot in the transaction and commit it; the table as it is then.

    handle: the table that the transaction is on, None when the transaction creates it. removed: None for all that there are.
    Raises one of MOVED (certainly not committed; nothing of the snapshot's own files is left) or UNKNOWN.
    """
    if handle is not None:
        handle.metadata.properties[RETRIES] = "0"
    kind = _WholeTable if removed is None else _SameRows if same_rows else _OneSnapshot
    overwrites = handle is not None if removed is None else bool(removed := list(removed))
    producer = kind(
        operation=Operation.OVERWRITE if overwrites else Operation.APPEND,
        transaction=transaction,
        io=transaction._table.io,
        snapshot_properties=dict(properties),
    )
    for old in removed or ():
        producer.delete_data_file(old)
    for new in added:
        producer.append_data_file(_data_file(transaction, scheme, new))
    try:
        with effect("lake.manifests"):
            producer.commit()
        with effect("lake.commit"):
            return transaction.commit_transaction()
    except MOVED:
        producer._clean_all_uncommitted()
        raise
    except ValueError as error:
        if _STALE not in str(error):
            raise
        producer._clean_all_uncommitted()
        raise CommitFailedException(str(error)) from error


def _data_file(transaction: Transaction, scheme: PartitionScheme, file: StoredFile) -> DataFile:
    metadata = transaction.table_metadata
    schema = metadata.schema()
    statistics = data_file_statistics_from_parquet_metadata(
        parquet_metadata=file.footer,
        stats_columns=compute_statistics_plan(schema, metadata.properties),
        parquet_column_mapping=parquet_path_to_id_mapping(schema),
    )
    for column in _without_bounds(file.footer, schema):
        statistics.column_aggregates.pop(column, None)
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=file.url,
        file_format=FileFormat.PARQUET,
        partition=Record() if metadata.spec().is_unpartitioned() else Record(scheme.value(file.partition)),
        file_size_in_bytes=file.bytes,
        sort_order_id=None,
        spec_id=metadata.default_spec_id,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )


def _without_bounds(footer: pq.FileMetaData, schema: Schema) -> set[int]:
    """Field ids of columns of which some row group has values but no bounds: the others' would be wrong for the file."""
    ids = parquet_path_to_id_mapping(schema)
    found = set()
    for index in range(footer.num_row_groups):
        group = footer.row_group(index)
        for position in range(group.num_columns):
            column = group.column(position)
            statistics = column.statistics
            empty = statistics is not None and statistics.has_null_count and statistics.null_count == column.num_values
            if not empty and (statistics is None or not statistics.has_min_max):
                found.add(ids[column.path_in_schema])
    return found
