"""Objects of the store as files that pyarrow reads in parts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from pyarrow import fs

from lakehouse.settings import StoreSettings


def opener(store: StoreSettings) -> Callable[[str], AbstractContextManager[IO[bytes]]]:
    """What opens a path of the store for reading; FileNotFoundError when there is nothing."""

    @cache
    def system() -> fs.FileSystem:
        if is_folder(store):
            return fs.LocalFileSystem()
        keys = {}
        if store.access_key and store.secret_key:
            keys = {"access_key": store.access_key.get_secret_value(), "secret_key": store.secret_key.get_secret_value()}
        return fs.S3FileSystem(
            region=store.region,
            endpoint_override=store.endpoint,
            connect_timeout=store.connect_seconds,
            request_timeout=store.answer_seconds,
            **keys,
        )

    def opened(path: str) -> AbstractContextManager[IO[bytes]]:
        place = local_path(store, path) if is_folder(store) else f"{store.url.removeprefix('s3://').rstrip('/')}/{path}"
        return system().open_input_file(place)  # type: ignore[no-any-return]

    return opened


def is_folder(store: StoreSettings) -> bool:
    """Whether the store is a folder, and not S3."""
    return not store.url.startswith("s3://")


def local_path(store: StoreSettings, path: str) -> str:
    """The file of an object of a folder store."""
    return str(Path(unquote(urlsplit(store.url).path)) / path)
