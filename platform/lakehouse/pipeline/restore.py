"""Back from a backup, into a place that is empty. Everything is read and compared before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from lakehouse.errors import ConfigurationError, DamagedData, DamagedMetadata
from lakehouse.pipeline.backup_database import StorageTables, check_empty, copy_in
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
    the backup names, by name. dagster: whether its storage was filled."""

    backup: BackupManifest
    catalog: bool
    newer: dict[str, str]
    dagster: bool


def restore_backup(
    deployment: Deployment,
    url: str,
    storage: StorageTables | None,
    *,
    name: str | None = None,
    newest: bool = False,
    another_key: bool = False,
) -> Restored:
    """Write a backup's catalog and Dagster's storage into this deployment's, each in one transaction, the catalog first.

    name: which backup; the newest for None. storage: Dagster's, or None to leave it out. newest: lead tables whose metadata file
    is gone to the newest that there is. another_key: go on with another privacy key.

    Before anything is written it raises WrongUse (no such backup; a catalog or storage that is not empty), DamagedData (a part
    that is not what was written; lake files that are gone, by name), ConfigurationError (another store or privacy key),
    Unsupported (another schema of Dagster's storage). When it dies between the two transactions, the next call finds the
    catalog's rows there and goes on.
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
        rows, newer = _check_lake(deployment, catalog, manifest, rows, newest=newest)
        if rows.tables:
            catalog.holds(rows)
        if storage is not None and copied is not None:
            check_empty(storage, settings.catalog, copied)
        written = bool(rows.tables) and catalog.write(rows)
        if storage is not None and copied is not None:
            copy_in(storage, settings.catalog, copied, files)
    return Restored(manifest, written, newer, copied is not None)


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
) -> tuple[CatalogRows, dict[str, str]]:
    """The rows to write, and the tables among them that are led to newer metadata; DamagedData names what the store has lost."""
    noted = {reference.table: reference for reference in manifest.lake if reference.format == "iceberg"}
    missing, tables, newer = list[str](), list[CatalogTable](), dict[str, str]()
    for row in rows.tables:
        problem = _problem(catalog, row, noted[row.name])
        if problem and newest and (found := catalog.newest(row)) is not None:
            newer[row.name] = found.metadata
            tables.append(found)
        else:
            missing += [f"{row.name}: {problem}"] if problem else []
            tables.append(row)
    missing += [
        f"{reference.table}: {reference.place} holds no version {reference.version} or later"
        for reference in manifest.lake
        if reference.format == "delta" and not _has_version(deployment, reference)
    ]
    if missing:
        raise _gone(manifest, missing)
    return replace(rows, tables=tuple(tables)), newer


def _problem(catalog: CatalogCopy, row: CatalogTable, noted: LakeReference) -> str:
    """What is wrong with the metadata that a row names; empty when it is as it was."""
    try:
        at = catalog.marker(row)
    except DamagedMetadata as error:
        return f"{row.metadata} ({error.value})"
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
        allowed="every metadata file, as it was",
        remedy="Put the files back from a replica of the bucket, restore a later backup, or give --newest: such tables are led "
        "to the newest metadata that there is. Without a backup, `lakehouse run` builds every table from its raw log.",
    )
