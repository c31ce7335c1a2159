"""Log entries as local files that are proven to be what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lakehouse.spec import LogEntry, Manifest, RawFile
from lakehouse.stores import ObjectStore
from lakehouse.tables.datafiles import raw_damaged, raw_difference, raw_gone
from lakehouse.tables.embedded.localrows import LocalRows

_DOWNLOADS = 4


@dataclass(frozen=True)
class LocalBatch:
    """One log entry whose files are on the local disk."""

    sequence: int
    manifest: Manifest
    paths: tuple[Path, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the batch came with."""
        return tuple(field.name for field in self.manifest.fields)

    def files(self) -> tuple[LocalRows, ...]:
        """The batch's files; rows are in their place across all of them."""
        first, found = 0, []
        stored = {field.name: field.stored for field in self.manifest.fields if field.stored}
        for path, file in zip(self.paths, self.manifest.files, strict=True):
            found.append(LocalRows(path, self.columns, f"file_row_number + {first}", stored=stored))
            first += file.rows
        return tuple(found)


@dataclass(frozen=True)
class BatchRows:
    """The rows of one batch that a fold sees: all of them, or those of some partitions."""

    batch: LocalBatch
    files: tuple[LocalRows, ...]


def fetch_batches(store: ObjectStore, files_root: str, entries: Sequence[LogEntry], folder: Path) -> list[LocalBatch]:
    """Copy the entries' files to `folder` and prove each by size and SHA-256; DamagedData names the first that differs."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(entry.sequence, index, file) for entry in entries for index, file in enumerate(entry.manifest.files)]
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        paths = list(
            pool.map(lambda job: _fetch(store, f"{files_root}/{job[2].path}", job[2], folder / f"{job[0]}-{job[1]}"), jobs)
        )
    found = dict(zip([(sequence, index) for sequence, index, _ in jobs], paths, strict=True))
    return [
        LocalBatch(
            entry.sequence, entry.manifest, tuple(found[entry.sequence, index] for index in range(len(entry.manifest.files)))
        )
        for entry in entries
    ]


def _fetch(store: ObjectStore, path: str, file: RawFile, local: Path) -> Path:
    try:
        store.download(path, local)
    except FileNotFoundError:
        raise raw_damaged(store.url_of(path), *raw_gone(file)) from None
    with local.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if wrong := raw_difference(file, local.stat().st_size, digest):
        raise raw_damaged(store.url_of(path), *wrong)
    return local
