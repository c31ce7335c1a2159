"""What dead attempts left behind: files that nothing names, tables that were being built, scratch folders.

A file is removed only when no writer can be alive that would still name it. That is certain, not hoped for. A writer notes a
clock that nobody sets before its first file, and refuses to claim or commit later than `LAKEHOUSE_LONGEST_WRITE_HOURS` after that
(`lakehouse.stores.elapsed`). The last request may take minutes more, the limit is an hour at least, and a file is an orphan
when it is twice as old as the limit. Its age is by the store's own clock: when the store says it was written, against when it
says that a probe was, just now. Objects are listed first, then log and metadata are read: whatever was claimed by then is seen.
Where a log or the metadata cannot be read, nothing of that copy is touched: it might name any file. An entry of the log that a
later snapshot made void is the exception.
"""

from __future__ import annotations

import fcntl
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from lakehouse.errors import DamagedData
from lakehouse.pipeline.deployment import Deployment, with_quarantines
from lakehouse.spec import History, Source, Table
from lakehouse.stores import ObjectInfo, ObjectStore

PROBE = ".probe"
SCRATCH = ("apply-*", "lakehouse-scratch-*")
"""Scratch folders of applies and of the raw log; each holds a file `.lock` that its owner has locked."""


@dataclass(frozen=True)
class Orphan:
    """Something that nothing names. where: `raw`, `lake`, `warehouse` or `scratch`. young: its writer may still be alive."""

    table: str
    where: str
    name: str
    bytes: int
    age: timedelta
    young: bool


@dataclass(frozen=True)
class Orphans:
    """What was found. skipped: copies that were not looked at, and why."""

    found: tuple[Orphan, ...]
    skipped: tuple[str, ...]


def find_orphans(deployment: Deployment, chosen: Sequence[tuple[Source, Table]]) -> Orphans:
    """Look for what dead attempts at the chosen tables and their quarantines left; nothing is removed."""
    found: list[Orphan] = []
    skipped: list[str] = []
    limit = oldest_writer(deployment)
    for source, table in with_quarantines(chosen):
        name = f"{source.name}.{table.name}"
        copies = (("lake", _lake),) if isinstance(table, History) else (("raw", _raw), ("lake", _lake))
        for where, look in copies:
            try:
                files, now = look(deployment, source, table)
            except DamagedData as error:
                skipped.append(f"{name}, {where}: {error.tried}: {error.value}")
                continue
            for info in files:
                age = now - info.modified
                found.append(Orphan(name, where, info.path, info.size, age, age <= limit))
        for left in deployment.warehouse.leftovers(source.name, table):
            found.append(Orphan(name, "warehouse", left.name, left.bytes, left.age, left.age <= limit))
    found += _scratch(deployment)
    return Orphans(tuple(found), tuple(skipped))


def remove_orphans(deployment: Deployment, found: Orphans) -> list[Orphan]:
    """Remove those that are not young; what was removed."""
    removed = [orphan for orphan in found.found if not orphan.young]
    for orphan in removed:
        if orphan.where in ("raw", "lake"):
            deployment.store.delete(orphan.name)
        elif orphan.where == "scratch":
            _remove_folder(Path(orphan.name))
    for name in {orphan.table for orphan in removed if orphan.where == "warehouse"}:
        ((source, table),) = deployment.select([name])
        deployment.warehouse.drop_leftovers(source.name, table)
    return removed


def oldest_writer(deployment: Deployment) -> timedelta:
    """The age beyond which nobody can be about to name a file."""
    return 2 * timedelta(hours=deployment.settings.longest_write_hours)


def store_time(store: ObjectStore) -> datetime:
    """What the store's clock says: the time of an object that it has just written."""
    path = f"{PROBE}/{uuid.uuid4().hex}"
    store.put(path, b"")
    try:
        return next(info.modified for info in store.list(PROBE) if info.path == path)
    finally:
        store.delete(path)


def _raw(deployment: Deployment, source: Source, table: Table) -> tuple[list[ObjectInfo], datetime]:
    log = deployment.log(source, table)
    there = [info for info in deployment.store.list(log.folder) if not info.path.startswith(f"{log.folder}/_log/")]
    now = store_time(deployment.store)
    # An entry that a later snapshot made void and that cannot be read names files that nobody will ask for.
    named = {f"{log.folder}/{file.path}" for entry in log.entries() for file in entry.manifest.files}
    return [info for info in there if info.path not in named], now


def _lake(deployment: Deployment, source: Source, table: Table) -> tuple[list[ObjectInfo], datetime]:
    folder = deployment.lake.root(source.name, table)
    there = list(deployment.store.list(folder))
    now = store_time(deployment.store)
    named = deployment.lake.referenced(source.name, table)
    if named is None and any(deployment.lake.is_metadata(source.name, table, info.path) for info in there):
        raise DamagedData(
            f"looking for lake table {source.name}.{table.name}",
            value="there is no such table, and the store has its metadata",
            allowed="the catalog that the table was written with, or a Delta log that can be read",
            remedy="Correct LAKEHOUSE_CATALOG__URL and LAKEHOUSE_CATALOG__NAME, or run `lakehouse repair` on the table.",
        )
    paths = {address.removeprefix(f"{deployment.store.url}/") for address in named or ()}
    if named and paths.isdisjoint(info.path for info in there):
        raise DamagedData(
            f"looking for lake table {source.name}.{table.name}",
            value=f"no file under {deployment.store.url_of(folder)} is one that the table's metadata names",
            allowed="the store that the table is in, by the address that its files were written with",
            remedy="Correct LAKEHOUSE_STORE__URL.",
        )
    return [info for info in there if info.path not in paths], now


def _scratch(deployment: Deployment) -> Iterator[Orphan]:
    now = datetime.now().timestamp()
    for parent in {deployment.settings.home / "tmp", Path(tempfile.gettempdir())}:
        for pattern in SCRATCH:
            for folder in parent.glob(pattern):
                found = _abandoned(folder, now)
                if found is not None:
                    yield found


def _abandoned(folder: Path, now: float) -> Orphan | None:
    """A folder that nobody holds; None for one that somebody does, or that another process has just removed."""
    if not _is_abandoned(folder):
        return None
    try:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        age = timedelta(seconds=max(0.0, now - folder.stat().st_mtime))
    except FileNotFoundError:
        return None
    return Orphan("", "scratch", str(folder), size, age, age <= timedelta(hours=1))


def _is_abandoned(folder: Path) -> bool:
    """Whether nobody holds the folder's lock: its owner is dead."""
    try:
        with (folder / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _remove_folder(folder: Path) -> None:
    import shutil

    if _is_abandoned(folder):
        shutil.rmtree(folder, ignore_errors=True)
