"""A store in a folder of the local file system (or of one that is mounted and has hard links)."""

from __future__ import annotations

import errno
import heapq
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from lakehouse.errors import ConfigurationError, LakehouseError, StoreUnavailable, Unsupported, WrongUse
from lakehouse.faults import effect
from lakehouse.stores.objects import ObjectInfo, checked_path

UNFINISHED = ".unfinished"
"""Folder at the root in which objects are written before they get their name; never listed."""

PAGE = 1000
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class FolderStore:
    """Objects as files below `root`.

    A write goes to a file of its own, is flushed to the disk, and then gets its name by a hard link (`put_new`: refused when the
    name is taken) or a rename. A process that is killed leaves at most a file under `.unfinished`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def url(self) -> str:
        return self._root.as_uri()

    def url_of(self, path: str) -> str:
        return self._file(path).as_uri()

    def check(self) -> None:
        path = f".probe/{uuid.uuid4().hex}"
        try:
            first, second = self.put_new(path, b"first"), self.put_new(path, b"second")
            found = self.get(path)
        finally:
            with suppress(OSError, StoreUnavailable):
                self.delete(path)
                self._file(path).parent.rmdir()
        if (first, second, found) != (True, False, b"first"):
            raise Unsupported(
                f"writing one file twice in {self.url}",
                value=f"first write {first}, second write {second}, content {found!r}",
                allowed="the first write alone succeeds",
                remedy="Keep the store on a local disk, or use S3.",
            )

    def put_new(self, path: str, data: bytes) -> bool:
        target = self._file(path)
        with self._writing(path) as unfinished:
            unfinished.write_bytes(data)
            _flush(unfinished)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with effect("store.create"):
                    os.link(unfinished, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                raise Unsupported(
                    f"creating {self.url_of(path)} by a hard link",
                    value=str(error),
                    allowed="a file system with hard links: without them two writers can both win",
                    remedy="Keep the store on a local disk, or use S3.",
                ) from error
            _flush(target.parent)
            return True

    def put(self, path: str, data: bytes) -> None:
        with self._writing(path) as unfinished:
            unfinished.write_bytes(data)
            self._name(unfinished, path, point="store.put")

    def upload(self, local: Path, path: str) -> None:
        with self._writing(path) as unfinished:
            shutil.copyfile(local, unfinished)
            self._name(unfinished, path, point="store.upload")

    def get(self, path: str) -> bytes:
        with self._reading(path) as file:
            return file.read_bytes()

    def exists(self, path: str) -> bool:
        with self._reading(path) as file:
            return file.is_file()

    def download(self, path: str, local: Path) -> None:
        with self._reading(path) as file:
            shutil.copyfile(file, local)

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        found = list(self._walk(prefix, after or ""))
        return iter(sorted(found, key=lambda info: info.path))

    def page(self, folder: str, after: str | None = None) -> Sequence[ObjectInfo]:
        with suppress(FileNotFoundError), self._reading(folder) as directory:
            paths = (f"{folder}/{name}" for name in os.listdir(directory))
            first = heapq.nsmallest(PAGE, (path for path in paths if path > (after or "")))
            return [_info(path, self._file(path).stat()) for path in first]
        return []

    def delete(self, path: str) -> None:
        with self._reading(path) as file, effect("store.delete"):
            file.unlink(missing_ok=True)

    def _file(self, path: str) -> Path:
        return self._root / checked_path(path)

    def _walk(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        start = self._file(prefix) if prefix else self._root
        for folder, folders, names in os.walk(start, onerror=_unless_gone):
            if Path(folder) == self._root and UNFINISHED in folders:
                folders.remove(UNFINISHED)
            relative = Path(folder).relative_to(self._root).as_posix()
            for name in names:
                path = name if relative == "." else f"{relative}/{name}"
                if path <= after:
                    continue
                with suppress(FileNotFoundError):
                    yield _info(path, os.stat(os.path.join(folder, name)))

    @contextmanager
    def _writing(self, path: str) -> Iterator[Path]:
        tried = f"writing {self.url_of(path)}"
        try:
            folder = self._root / UNFINISHED
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / uuid.uuid4().hex
            try:
                yield unfinished
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise self._failure(tried, error) from error

    @contextmanager
    def _reading(self, path: str) -> Iterator[Path]:
        tried = f"reading {self.url_of(path)}"
        try:
            yield self._file(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(self.url_of(path)) from error
        except OSError as error:
            raise self._failure(tried, error) from error

    def _failure(self, tried: str, error: OSError) -> LakehouseError:
        if isinstance(error, PermissionError) or (self._root.exists() and not self._root.is_dir()):
            return _refused(tried, error)
        if isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError) or error.errno == errno.ENAMETOOLONG:
            return WrongUse(
                tried,
                value=str(error),
                allowed="names of at most 255 bytes; an object's path is no other object's folder",
                remedy="Use another name for the object.",
            )
        return StoreUnavailable(
            tried,
            value=str(error),
            allowed="a folder on a disk that is mounted and has room",
            remedy="Look at the disk (`df -h`), then run it again.",
        )

    def _name(self, unfinished: Path, path: str, *, point: str) -> None:
        target = self._file(path)
        _flush(unfinished)
        target.parent.mkdir(parents=True, exist_ok=True)
        with effect(point):
            os.replace(unfinished, target)
            _flush(target.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _info(path: str, stat: os.stat_result) -> ObjectInfo:
    tag = f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_ctime_ns}-{stat.st_size}"
    return ObjectInfo(path, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC), tag)


def _unless_gone(error: OSError) -> None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return
    raise _refused(f"listing {error.filename}", error)


def _refused(tried: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        tried,
        value=str(error),
        allowed="a folder that this user may read and write",
        remedy="Change the folder's owner or mode, or set LAKEHOUSE_STORE__URL to another one.",
    )
