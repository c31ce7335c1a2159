"""How delta-rs reaches the object store that a deployment's settings name."""

from __future__ import annotations

from urllib.parse import quote

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from lakehouse.errors import StoreUnavailable
from lakehouse.settings import StoreSettings
from lakehouse.tables.datafiles import damaged_metadata
from lakehouse.tables.filesystem import is_folder, local_path


def storage_options(store: StoreSettings) -> dict[str, str]:
    """delta-rs's options. It waits as long as the platform's own client does."""
    if is_folder(store):
        return {}
    options = {
        "AWS_REGION": store.region,
        "aws_conditional_put": "etag",
        "connect_timeout": f"{store.connect_seconds}s",
        "timeout": f"{store.request_seconds}s",
        "max_retries": str(store.retries),
        "retry_timeout": f"{store.retry_seconds}s",
    }
    if store.endpoint:
        options["AWS_ENDPOINT_URL"] = store.endpoint
        options["AWS_ALLOW_HTTP"] = str(store.endpoint.startswith("http://")).lower()
    if store.access_key and store.secret_key:
        options["AWS_ACCESS_KEY_ID"] = store.access_key.get_secret_value()
        options["AWS_SECRET_ACCESS_KEY"] = store.secret_key.get_secret_value()
    return options


def open_table(root: str, store: StoreSettings, version: int | None = None) -> DeltaTable | None:
    """delta-rs's view of the table in a folder of the store, or of one of its versions; None when there is none.

    Raises DamagedData for a log that cannot be read, StoreUnavailable for a store that does not answer.
    """
    place = local_path(store, root) if is_folder(store) else f"{store.url.rstrip('/')}/{quote(root)}"
    tried = f"reading the Delta log of {place}" + ("" if version is None else f" up to version {version}")
    try:
        return DeltaTable(place, version=version, storage_options=storage_options(store))
    except TableNotFoundError:
        return None
    except DeltaError as error:
        raise damaged_metadata(tried, _first_line(error), "a Delta log as it was written") from None
    except OSError as error:
        raise StoreUnavailable(
            tried,
            value=_first_line(error),
            allowed=f"an answer from {store.endpoint or 'the object store'}",
            remedy="Look at the store, then run this again.",
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
