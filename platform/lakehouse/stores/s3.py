"""A store in a bucket of S3, or of a server that speaks its protocol."""

from __future__ import annotations

import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from lakehouse.errors import ConfigurationError, LakehouseError, StoreUnavailable, Unsupported, WrongUse
from lakehouse.faults import FaultInjected, effect
from lakehouse.settings import StoreSettings
from lakehouse.stores.objects import ObjectInfo, checked_path

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

PAGE = 1000
PART = 16 * 2**20
CREATE_ATTEMPTS = 5
WRITER = "writer"
"""User metadata (`x-amz-meta-writer`) that tells which call created an object."""


class S3ObjectStore:
    """Objects below a prefix of one bucket.

    `put_new` is a PUT with `If-None-Match: *`. The client tries again when a connection breaks, so the server may answer "there
    already" to the second try of a first one that succeeded: each call writes a token of its own into the object's metadata, and
    whoever is told "there already" looks whose token is there.
    """

    def __init__(self, settings: StoreSettings, *, bucket: str, prefix: str) -> None:
        self._settings = settings
        self._bucket = bucket
        self._url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._store = _client(settings, bucket, prefix or None)
        self._root = _client(settings, bucket, None)

    @property
    def url(self) -> str:
        return self._url

    def url_of(self, path: str) -> str:
        return f"{self._url}/{checked_path(path)}"

    def check(self) -> None:
        self._check_bucket()
        path = f".probe/{uuid.uuid4().hex}"
        try:
            first, second = self.put_new(path, b"first"), self.put_new(path, b"second")
            found = self.get(path)
        finally:
            self.delete(path)
        if (first, second, found) != (True, False, b"first"):
            raise Unsupported(
                f"writing one object twice in {self.url} with If-None-Match",
                value=f"first write {first}, second write {second}, content {found!r}",
                allowed="the first write alone succeeds",
                remedy="Use a store with conditional writes: AWS S3, SeaweedFS 4, MinIO, Ceph 19 or later.",
            )

    def put_new(self, path: str, data: bytes) -> bool:
        token = uuid.uuid4().hex
        with self._mapped(f"writing {self.url_of(path)}"):
            for _ in range(CREATE_ATTEMPTS):
                try:
                    with effect("store.create"):
                        obstore.put(self._store, path, data, attributes={WRITER: token}, mode="create", use_multipart=False)
                    return True
                except AlreadyExistsError as error:
                    lost = error
                except (BaseError, FaultInjected) as error:
                    if self._writer(path) == token:
                        return True
                    raise error
                writer = self._writer(path)
                if writer is not None:
                    return writer == token
            raise lost

    def put(self, path: str, data: bytes) -> None:
        with self._mapped(f"writing {self.url_of(path)}"), effect("store.put"):
            obstore.put(self._store, path, data)

    def upload(self, local: Path, path: str) -> None:
        with self._mapped(f"uploading {local.name} to {self.url_of(path)}"), effect("store.upload"):
            obstore.put(self._store, path, local, chunk_size=PART, max_concurrency=4)

    def get(self, path: str) -> bytes:
        with self._mapped(f"reading {self.url_of(path)}"):
            return bytes(obstore.get(self._store, path).bytes())

    def exists(self, path: str) -> bool:
        try:
            with self._mapped(f"looking for {self.url_of(path)}"):
                obstore.head(self._store, path)
        except FileNotFoundError:
            return False
        return True

    def download(self, path: str, local: Path) -> None:
        with self._mapped(f"downloading {self.url_of(path)}"):
            stream = obstore.get(self._store, path).stream(min_chunk_size=PART // 2)
            with local.open("wb") as file:
                for chunk in stream:
                    file.write(chunk)

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        with self._mapped(f"listing {self.url}/{prefix}"):
            pages = obstore.list(self._store, prefix or None, offset=after, chunk_size=PAGE)
            found = [_info(meta) for page in pages for meta in page]
        return iter(sorted((info for info in found if info.path > (after or "")), key=lambda info: info.path))

    def page(self, folder: str, after: str | None = None) -> Sequence[ObjectInfo]:
        with self._mapped(f"listing {self.url_of(folder)}"):
            pages = obstore.list(self._store, folder, offset=after, chunk_size=PAGE)
            return [_info(meta) for meta in next(iter(pages), [])]

    def delete(self, path: str) -> None:
        try:
            with self._mapped(f"deleting {self.url_of(path)}"), effect("store.delete"):
                obstore.delete(self._store, path)
        except FileNotFoundError:
            return

    def _writer(self, path: str) -> str | None:
        """The token of the call that created the object, empty for an object of other origin, None when there is none."""
        try:
            attributes = obstore.get(self._store, path).attributes
        except FileNotFoundError:
            return None
        return str(attributes.get(WRITER, ""))

    def _check_bucket(self) -> None:
        tried = f"opening the bucket {self._bucket!r} at {self._settings.endpoint or 'AWS'}"
        with self._mapped(tried):
            address = obstore.sign(self._root, "HEAD", "", timedelta(minutes=5))
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=self._settings.answer_seconds):
                return
        except urllib.error.HTTPError as error:
            raise self._refusal(tried, error.code) from None
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise self._unreachable(tried, str(reason)) from None

    def _refusal(self, tried: str, status: int) -> LakehouseError:
        if status == 404:
            return _no_bucket(tried, self._bucket)
        if status in (400, 401, 403):
            return _wrong_keys(tried, f"HTTP {status}")
        if status == 301:
            return ConfigurationError(
                tried,
                value=f"HTTP {status}: the bucket is in another region than {self._settings.region!r}",
                allowed="the region of the bucket",
                remedy="Set LAKEHOUSE_STORE__REGION.",
            )
        return self._unreachable(tried, f"HTTP {status}")

    def _unreachable(self, tried: str, reason: str) -> StoreUnavailable:
        return StoreUnavailable(
            tried,
            value=reason,
            allowed=f"an answer from {self._settings.endpoint or 'AWS'}",
            remedy="Check LAKEHOUSE_STORE__ENDPOINT and that the server is up (`lakehouse status`), then run it again.",
        )

    @contextmanager
    def _mapped(self, tried: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise _no_bucket(tried, self._bucket) from None
            raise FileNotFoundError(f"{tried}: there is no such object") from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise _wrong_keys(tried, _code(error)) from None
        except ValueError as error:
            raise WrongUse(
                tried, value=str(error), allowed="a path of an object", remedy="Use another name for the object."
            ) from None
        except FaultInjected as error:
            raise self._unreachable(tried, str(error)) from None
        except BaseError as error:
            text = str(error)
            if any(code in text for code in ("403 Forbidden", "401 Unauthorized")):
                raise _wrong_keys(tried, _code(error)) from None
            if "NoSuchBucket" in text:
                raise _no_bucket(tried, self._bucket) from None
            raise self._unreachable(tried, text.split("\n\nDebug source")[0]) from None


def _client(settings: StoreSettings, bucket: str, prefix: str | None) -> S3Store:
    options: dict[str, Any] = {"region": settings.region, "virtual_hosted_style_request": settings.endpoint is None}
    if settings.endpoint is not None:
        options["endpoint"] = settings.endpoint
    if settings.access_key is not None and settings.secret_key is not None:
        options["access_key_id"] = settings.access_key.get_secret_value()
        options["secret_access_key"] = settings.secret_key.get_secret_value()
    else:
        options["credential_provider"] = _credential_chain()
    client: ClientConfig = {
        "allow_http": (settings.endpoint or "").startswith("http://"),
        "connect_timeout": timedelta(seconds=settings.connect_seconds),
        "read_timeout": timedelta(seconds=settings.answer_seconds),
        "timeout": timedelta(seconds=settings.request_seconds),
    }
    # The library draws each pause at random between the first and three times the last one.
    retry: RetryConfig = {
        "max_retries": settings.retries,
        "retry_timeout": timedelta(seconds=settings.retry_seconds),
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2},
    }
    return S3Store(bucket, prefix=prefix, client_options=client, retry_config=retry, **options)


def _credential_chain() -> Any:
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except (ValueError, BotoCoreError) as error:
        raise ConfigurationError(
            "looking for AWS credentials in the environment, the profile and the machine's role",
            value=str(error),
            allowed="an access key with its secret, or a role",
            remedy="Set LAKEHOUSE_STORE__ACCESS_KEY and LAKEHOUSE_STORE__SECRET_KEY.",
        ) from None


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], meta["last_modified"], meta.get("e_tag") or "")


def _code(error: BaseError) -> str:
    """The server's own code for a refusal, or its HTTP status."""
    text = str(error)
    if "<Code>" in text:
        return text.split("<Code>", 1)[1].split("</Code>", 1)[0]
    return "HTTP 401" if "401 Unauthorized" in text else "HTTP 403"


def _wrong_keys(tried: str, found: str) -> ConfigurationError:
    return ConfigurationError(
        tried,
        value=found,
        allowed="keys that the server knows, with the right to list, read, write and delete in the bucket",
        remedy="Correct LAKEHOUSE_STORE__ACCESS_KEY and LAKEHOUSE_STORE__SECRET_KEY, or the rights of that key.",
    )


def _no_bucket(tried: str, bucket: str) -> ConfigurationError:
    return ConfigurationError(
        tried,
        value=f"no bucket {bucket!r}",
        allowed="a bucket that exists",
        remedy="Create the bucket, or correct LAKEHOUSE_STORE__URL.",
    )
