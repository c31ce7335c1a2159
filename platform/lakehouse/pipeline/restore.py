"""Back from a backup, into a place that is empty. Everything is read and compared before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from lakehouse.errors import ConfigurationError, DamagedData, DamagedMetadata
from lakehouse.pipeline.backup_database import StorageTables, check_empty, copy_in, forget
from lakehouse.pipeline.backup_manifest import (
    CATALOG,
    BackupManifest,
    LakeReference,
    fetch_parts,
    open_place,
    read_manifest,
)
from lakehouse.pipeline.deployment import Deployment
from lakehouse.raw.scratch import scratch_folder
from lakehouse.rows.privacy import key_fingerprint
from lakehouse.tables.iceberg.rows import CatalogCopy, CatalogRows, CatalogTable

_ROWS = TypeAdapter(CatalogRows)


@dataclass(frozen=True)
class Restored:
    """What a restore did. catalog: whether its rows were written; else they were there. newer: tables led to other metadata than
    the backup names, by name. lacking: tables that the store has not got, by name, and what is missing. dagster: whether its
    storage was filled. settled: what was told of it then."""

    backup: BackupManifest
    catalog: bool
    newer: dict[str, str]
    lacking: dict[str, str]
    dagster: bool
    settled: tuple[str, ...]


def restore_backup(
    deployment: Deployment,
    url: str,
    storage: StorageTables | None,
    *,
    name: str | None = None,
    newest: bool = False,
    another_key: bool = False,
    settle: Callable[[], Sequence[str]] = tuple,
) -> Restored:
    """Write a backup's catalog and Dagster's storage into this deployment's, each in one transaction, the catalog first.

    name: which backup; the newest for None. storage: Dagster's, or None to leave it out. newest: lead tables whose metadata file
    is gone to the newest that there is, and leave out those without any. another_key: go on with another privacy key. settle:
    what is done with Dagster's storage once it is filled, until it has been done.

    Before anything is written it raises WrongUse (no such backup; a catalog or storage that is not empty), DamagedData (a part
    that is not what was written; lake files that are gone, by name), ConfigurationError (another store or privacy key),
    Unsupported (another schema of Dagster's storage). Wherever it dies, the next call finds what was written and goes on.
    """
    settings = deployment.settings
    place = open_place(settings.store, url)
    manifest = read_manifest(place, name)
    copied = manifest.dagster if storage is not None else None
    _check_settings(deployment, manifest, another_key=another_key)
    with scratch_folder(settings.home / "tmp") as folder:
        wanted = [CATALOG, *(table.part for table in (copied.tables if copied else ()))]
        files = fetch_parts(place, manifest, wanted, folder)
        rows = _ROWS.validate_json(files[CATALOG].read_bytes())
        catalog = CatalogCopy(settings, deployment.store)
        rows, newer, lacking = _check_lake(deployment, catalog, manifest, rows, newest=newest)
        if rows.tables:
            catalog.holds(rows)
        if storage is not None and copied is not None:
            check_empty(storage, settings.catalog, copied, manifest.name)
        written, settled = bool(rows.tables) and catalog.write(rows), tuple[str, ...]()
        if storage is not None and copied is not None:
            copy_in(storage, settings.catalog, copied, files, manifest.name)
            settled = tuple(settle())
            forget(storage, settings.catalog)
    return Restored(manifest, written, newer, lacking, copied is not None, settled)


def _check_settings(deployment: Deployment, manifest: BackupManifest, *, another_key: bool) -> None:
    settings = deployment.settings
    found = key_fingerprint(settings.privacy_key.get_secret_value())
    if manifest.privacy_key and found != manifest.privacy_key and not another_key:
        raise ConfigurationError(
            f"restoring {manifest.name}: the privacy key is not the one that the backup's tokens were made with",
            value=f"a key with the fingerprint {found}" if found else "no key",
            allowed=f"the key with the fingerprint {manifest.privacy_key}; the backup does not hold it",
            remedy="Set LAKEHOUSE_PRIVACY_KEY to the old key: it is in the old home's services.json, or wherever you keep it. "
            "If it is lost, give --another-key: new tokens differ from old ones until `lakehouse run --full` has read all anew.",
        )
    if deployment.store.url != manifest.store:
        raise ConfigurationError(
            f"restoring {manifest.name}: lake tables name their files by full address, and these are in another store",
            value=deployment.store.url,
            allowed=manifest.store,
            remedy="Set LAKEHOUSE_STORE__URL to that address (the endpoint may be another), or begin without the backup: "
            "`lakehouse run` builds every table from its raw log.",
        )


def _check_lake(
    deployment: Deployment, catalog: CatalogCopy, manifest: BackupManifest, rows: CatalogRows, *, newest: bool
) -> tuple[CatalogRows, dict[str, str], dict[str, str]]:
    """The rows to write, the tables among them that are led to newer metadata, and what the store has lost of others.

    DamagedData names tables that could be led to newer metadata, where that was not asked for.
    """
    noted = {reference.table: reference for reference in manifest.lake if reference.format == "iceberg"}
    tables, newer, lacking = list[CatalogTable](), dict[str, str](), dict[str, str]()
    for row in rows.tables:
        problem = _problem(catalog, row, noted[row.name])
        found = catalog.newest(row) if problem and newest else None
        if found is not None:
            newer[row.name] = found.metadata
        elif problem:
            lacking[row.name] = problem
        tables += [found or row] if found or not problem else []
    if lacking and not newest:
        raise _gone(manifest, [f"{name}: {problem}" for name, problem in lacking.items()])
    for reference in manifest.lake:
        if reference.format == "delta" and not _has_version(deployment, reference):
            lacking[reference.table] = f"{reference.place} holds no version {reference.version} or later"
    return replace(rows, tables=tuple(tables)), newer, lacking


def _problem(catalog: CatalogCopy, row: CatalogTable, noted: LakeReference) -> str:
    """What is wrong with the metadata that a row names; empty when it is as it was."""
    try:
        at = catalog.marker(row)
    except DamagedMetadata as error:
        return f"{row.metadata} ({error.value})"
    if not catalog.is_whole(row):
        return f"{row.metadata} names files that are gone"
    return "" if at is None or at[0] == noted.version else f"{row.metadata} is at version {at[0]}, not {noted.version}"


def _has_version(deployment: Deployment, reference: LakeReference) -> bool:
    """Whether a Delta table's log reaches the version that was noted: its commits and checkpoints are named by version."""
    assert reference.version is not None
    folder = reference.place.removeprefix(f"{deployment.store.url}/") + "/_delta_log"
    return any(info.path[len(folder) + 1 :][:1].isdigit() for info in deployment.store.list(folder, _before(folder, reference)))


def _before(folder: str, reference: LakeReference) -> str:
    assert reference.version is not None
    return f"{folder}/{reference.version:020d}"


def _gone(manifest: BackupManifest, missing: Sequence[str]) -> DamagedData:
    return DamagedData(
        f"restoring {manifest.name}: the lake has not got what the backup refers to",
        value="; ".join(missing),
        allowed="every metadata file as it was, and what it names",
        remedy="Put the files back from a replica of the bucket, restore a later backup, or give --newest: such tables are led "
        "to the newest metadata that is whole; `lakehouse run` builds those that have none from their raw log.",
    )
