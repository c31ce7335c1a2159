"""What a backup is: a folder below its URL, named by the time it was made, with a manifest that is written last.

    <name>/catalog.json             the rows of the Iceberg catalog
    <name>/dagster/<table>.zst      the rows of one table of Dagster's storage, as COPY writes them
    <name>/manifest.json            {"format": 1, …, "seal": SHA-256 of the document without it}

A folder without a manifest is of a backup that did not come to its end, and is no backup. The manifest has the SHA-256 of every
part. No secret is in it: of the privacy key there is a fingerprint.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lakehouse.errors import ConfigurationError, DamagedData, WrongUse
from lakehouse.raw import seal_of, sha256_of
from lakehouse.settings import StoreSettings
from lakehouse.stores import ObjectStore, open_store
from lakehouse.stores.opening import ALLOWED

FORMAT = 1
MANIFEST = "manifest.json"
CATALOG = "catalog.json"


@dataclass(frozen=True)
class Part:
    """One object of a backup: its path below the backup's folder, and what was written there."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class CopiedTable:
    """A table of a database. part: the path of its rows. serial: the column that numbers them, if any, and the next number."""

    name: str
    columns: tuple[str, ...]
    part: str
    serial: tuple[str, int] | None


@dataclass(frozen=True)
class CopiedDatabase:
    """Dagster's storage. schema: its alembic version."""

    schema: str
    tables: tuple[CopiedTable, ...]


@dataclass(frozen=True)
class LakeReference:
    """A lake table as it stood. place: its metadata file (Iceberg), its folder (Delta). The rest is none without our marker."""

    table: str
    format: str
    place: str
    version: int | None
    sequence: int | None
    rows: int | None
    checksum: str | None


@dataclass(frozen=True)
class BackupManifest:
    """One backup. store: the lake's address. privacy_key: its fingerprint, empty for no key."""

    name: str
    made_at: datetime
    release: str
    store: str
    catalog: str
    privacy_key: str
    lake: tuple[LakeReference, ...]
    dagster: CopiedDatabase | None
    parts: tuple[Part, ...]

    def part(self, path: str) -> Part:
        """The part of that path."""
        return next(part for part in self.parts if part.path == path)


_READER = TypeAdapter(BackupManifest)


def encode_manifest(manifest: BackupManifest) -> bytes:
    """The manifest as JSON, sealed."""
    document: dict[str, Any] = {"format": FORMAT, **asdict(manifest), "made_at": manifest.made_at.isoformat()}
    document = json.loads(json.dumps(document))
    document["seal"] = seal_of(document)
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


def decode_manifest(data: bytes, name: str) -> BackupManifest:
    """The manifest in an object called `name`; DamagedData when it is not what was written."""
    try:
        document = json.loads(data)
        form, seal = document.pop("format"), document.pop("seal")
        if form != FORMAT:
            raise _damaged(name, f"format {form!r}", f"format {FORMAT}: restore it with the release that made it")
        if seal != seal_of({"format": form, **document}):
            raise _damaged(name, "content that does not fit its seal", "the bytes that were written")
        return _READER.validate_python(document)
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise _damaged(name, f"{type(error).__name__}: {error}", "a manifest as `lakehouse backup` writes it") from error


def open_place(settings: StoreSettings, url: str) -> ObjectStore:
    """The place of backups at a URL, reached with the keys of the deployment's store; WrongUse for what is no URL of one."""
    try:
        return open_store(settings.model_copy(update={"url": url}))
    except ConfigurationError as error:
        raise WrongUse("opening the place of backups", value=url, allowed=ALLOWED, remedy="Give such a URL.") from error


def whole_backups(place: ObjectStore) -> list[str]:
    """The names of the backups that came to their end, oldest first."""
    parted = (info.path.split("/") for info in place.list(""))
    return sorted(parts[0] for parts in parted if len(parts) == 2 and parts[1] == MANIFEST)


def read_manifest(place: ObjectStore, name: str | None) -> BackupManifest:
    """The manifest of a backup, of the newest for None. WrongUse when there is no such whole one, DamagedData for a bad one."""
    names = whole_backups(place)
    if not names or (name is not None and name not in names):
        raise WrongUse(
            f"looking for a backup in {place.url}",
            value=name or "no whole one (one that was cut short has no manifest)",
            allowed=", ".join(names[-5:]) or "a folder that `lakehouse backup --to` has written",
            remedy="Give the URL that the backups were written to" + (", and one of these names." if names else "."),
        )
    chosen = name or names[-1]
    path = f"{chosen}/{MANIFEST}"
    return decode_manifest(place.get(path), place.url_of(path))


def fetch_parts(place: ObjectStore, manifest: BackupManifest, wanted: list[str], folder: Path) -> dict[str, Path]:
    """Parts as local files, by path; DamagedData names one that is gone, or is not what was written."""
    files = {}
    for number, path in enumerate(wanted):
        part, name = manifest.part(path), f"{manifest.name}/{path}"
        file = folder / f"part-{number}"
        try:
            place.download(name, file)
        except FileNotFoundError:
            raise _damaged(place.url_of(name), "nothing", f"{part.bytes:,} bytes") from None
        if (found := sha256_of(file)) != part.sha256:
            raise _damaged(place.url_of(name), f"SHA-256 {found}", f"SHA-256 {part.sha256}, as it was written")
        files[path] = file
    return files


def _damaged(name: str, found: str, allowed: str) -> DamagedData:
    return DamagedData(
        f"reading {name}", value=found, allowed=allowed, remedy="Restore another backup: `lakehouse restore --name BACKUP`."
    )
