"""From settings to a store."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from lakehouse.errors import ConfigurationError
from lakehouse.settings import StoreSettings
from lakehouse.stores.objects import ObjectStore

ALLOWED = "`s3://bucket[/prefix]` or `file:///absolute/folder`"


def open_store(settings: StoreSettings) -> ObjectStore:
    """The store that the settings name. No I/O: `check()` proves that it can be used."""
    parts = urlsplit(settings.url)
    if parts.scheme == "s3" and parts.netloc and not parts.query:
        from lakehouse.stores.s3 import S3ObjectStore

        return S3ObjectStore(settings, bucket=parts.netloc, prefix=parts.path.strip("/"))
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and len(parts.path) > 1:
        from lakehouse.stores.folder import FolderStore

        return FolderStore(Path(unquote(parts.path)))
    raise ConfigurationError(
        "reading the setting LAKEHOUSE_STORE__URL",
        value=settings.url or "nothing",
        allowed=ALLOWED,
        remedy="Set LAKEHOUSE_STORE__URL, or start the embedded servers with `lakehouse up`.",
    )
