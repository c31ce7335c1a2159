"""A copy of what the lake cannot rebuild by itself: the Iceberg catalog, Dagster's storage; and a note of what the lake held.

The files of raw log and lake are named, not copied: they never change once they are written, so the bucket is what to replicate.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from lakehouse.pipeline.backup_database import StorageTables, copy_out
from lakehouse.pipeline.backup_manifest import (
    CATALOG,
    MANIFEST,
    BackupManifest,
    LakeReference,
    Part,
    encode_manifest,
    open_place,
)
from lakehouse.pipeline.deployment import Deployment, with_quarantines
from lakehouse.raw import sha256_of
from lakehouse.raw.scratch import scratch_folder
from lakehouse.rows.privacy import key_fingerprint
from lakehouse.spec import Marker
from lakehouse.tables.iceberg.rows import CatalogCopy, CatalogRows


def make_backup(deployment: Deployment, url: str, storage: StorageTables | None) -> BackupManifest:
    """Write a backup below a URL; what is in it. storage: Dagster's, or None to leave it out. Safe beside runs.

    The catalog is of one moment, and Dagster's storage of a later one. Raises WrongUse for a URL that is none, DamagedMetadata
    when the metadata of a lake table cannot be read. What a failure leaves behind has no manifest, and is no backup.
    """
    settings = deployment.settings
    place = open_place(settings.store, url)
    made = datetime.now(UTC)
    name = f"{made:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    with scratch_folder(settings.home / "tmp") as folder:
        rows, lake = _lake(deployment)
        (folder / CATALOG).write_text(json.dumps(asdict(rows), ensure_ascii=False, indent=1) + "\n")
        counts = {CATALOG: len(rows.tables)}
        copied = copy_out(storage, settings.catalog, folder) if storage is not None else None
        database, more = copied or (None, {})
        parts = tuple(_part(folder, path, count) for path, count in (counts | more).items())
        manifest = BackupManifest(
            name=name,
            made_at=made,
            release=version("lakehouse"),
            store=deployment.store.url,
            catalog=settings.catalog.name,
            privacy_key=key_fingerprint(settings.privacy_key.get_secret_value()),
            lake=lake,
            dagster=database,
            parts=parts,
        )
        for part in parts:
            place.upload(folder / part.path, f"{name}/{part.path}")
        place.put(f"{name}/{MANIFEST}", encode_manifest(manifest))
    return manifest


def _lake(deployment: Deployment) -> tuple[CatalogRows, tuple[LakeReference, ...]]:
    """The catalog's rows, and every lake table as these rows, or its Delta log, say that it is."""
    rows, found = CatalogRows((), ()), list[LakeReference]()
    if deployment.settings.catalog.url.get_secret_value():
        catalog = CatalogCopy(deployment.settings, deployment.store)
        rows = catalog.read()
        for row in rows.tables:
            at = catalog.marker(row)
            found.append(LakeReference(row.name, "iceberg", row.metadata, at[0] if at else None, **_told(at[1] if at else None)))
    for source, table in with_quarantines(deployment.select()):
        state = deployment.lake.state(source.name, table) if table.format == "delta" else None
        if state is not None:
            folder = deployment.lake.root(source.name, table)
            now, name = state.current, f"{source.name}.{table.name}"
            found.append(LakeReference(name, "delta", deployment.store.url_of(folder), now.version, **_told(now.marker)))
    return rows, tuple(found)


def _told(marker: Marker | None) -> Mapping[str, None]:
    return asdict(marker) if marker is not None else dict.fromkeys(("sequence", "rows", "checksum"))


def _part(folder: Path, path: str, rows: int) -> Part:
    file = folder / path
    return Part(path, rows, file.stat().st_size, sha256_of(file))
