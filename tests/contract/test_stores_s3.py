"""What only a store behind a network can get wrong: lost answers, refusals, and servers that ignore the condition."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from lakehouse.errors import ConfigurationError, LakehouseError, StoreUnavailable, Unsupported
from lakehouse.settings import StoreSettings
from lakehouse.stores import open_store


class LossyProxy:
    """A TCP proxy in front of a server that forwards every request and loses the answer to the first `losses` PUTs."""

    def __init__(self, endpoint: str, losses: int, *, silent: bool) -> None:
        parts = urlsplit(endpoint)
        self.server = (str(parts.hostname), int(parts.port or 80))
        self.losses = losses
        self.silent = silent
        self.puts = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open: list[socket.socket] = [self.listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(self.server)
            self.open += [client, server]
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answers, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with_data = iter(lambda: _received(client), b"")
        for data in with_data:
            self.puts += data.startswith(b"PUT")
            server.sendall(data)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        for data in iter(lambda: _received(server), b""):
            if self.losses and self.puts:
                self.losses -= 1
                if not self.silent:
                    client.shutdown(socket.SHUT_RDWR)
                return
            client.sendall(data)

    def close(self) -> None:
        for one in self.open:
            one.close()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:
        return b""


class CarelessServer(BaseHTTPRequestHandler):
    """Just enough of S3 to be told apart from a sound one: it stores what it is given and looks at no condition."""

    objects: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Sat, 31 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def do_GET(self) -> None:
        body = self.objects.get(self.path)
        self._answer(404) if body is None else self._answer(200, body)

    def do_HEAD(self) -> None:
        self._answer(200)

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self._answer(204)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.objects.clear()
        self._answer(200, b"<DeleteResult><Deleted><Key>any</Key></Deleted></DeleteResult>")

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def careless_server() -> Iterator[str]:
    handler = type("Careless", (CarelessServer,), {"objects": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def losing(settings: StoreSettings, losses: int, *, silent: bool) -> Iterator[tuple[StoreSettings, LossyProxy]]:
    assert settings.endpoint is not None
    proxy = LossyProxy(settings.endpoint, losses, silent=silent)
    try:
        yield settings.model_copy(update={"endpoint": proxy.endpoint}), proxy
    finally:
        proxy.close()


def test_a_create_whose_answer_was_lost_is_known_to_have_written(s3_store: StoreSettings) -> None:
    with losing(s3_store, 1, silent=False) as (lossy, proxy):
        assert open_store(lossy).put_new("log/1", b"mine") is True
        assert proxy.losses == 0
        assert proxy.puts > 1
        assert open_store(lossy).put_new("log/1", b"mine") is False
    assert open_store(s3_store).get("log/1") == b"mine"


def test_a_create_that_was_never_answered_is_known_to_have_written(s3_store: StoreSettings) -> None:
    with losing(s3_store.model_copy(update={"answer_seconds": 1}), 1, silent=True) as (lossy, proxy):
        assert open_store(lossy).put_new("log/1", b"mine") is True
        assert proxy.losses == 0


def test_a_create_that_lost_to_another_is_known_to_have_lost_even_without_an_answer(s3_store: StoreSettings) -> None:
    assert open_store(s3_store).put_new("log/1", b"theirs") is True
    with losing(s3_store, 1, silent=False) as (lossy, proxy):
        assert open_store(lossy).put_new("log/1", b"mine") is False
        assert proxy.losses == 0
    assert open_store(s3_store).get("log/1") == b"theirs"


def test_a_store_that_ignores_the_condition_is_refused() -> None:
    with careless_server() as endpoint:
        settings = StoreSettings(
            url="s3://bucket", endpoint=endpoint, access_key=SecretStr("key"), secret_key=SecretStr("secret")
        )
        store = open_store(settings)
        with pytest.raises(Unsupported, match="If-None-Match") as caught:
            store.check()
    assert "first write True, second write True" in str(caught.value)


@pytest.mark.parametrize("field", ["access_key", "secret_key"])
def test_wrong_keys_are_named_before_any_work_and_never_shown(s3_store: StoreSettings, field: str) -> None:
    store = open_store(s3_store.model_copy(update={field: SecretStr("wrong-and-private")}))
    for attempt in (store.check, lambda: store.list("raw"), lambda: store.put_new("a", b""), lambda: store.get("a")):
        with pytest.raises(ConfigurationError, match="LAKEHOUSE_STORE__ACCESS_KEY") as caught:
            attempt()
        assert "wrong-and-private" not in str(caught.value)


def test_a_missing_bucket_is_named(s3_store: StoreSettings) -> None:
    store = open_store(s3_store.model_copy(update={"url": "s3://no-such-bucket/prefix"}))
    for attempt in (store.check, lambda: store.list("raw")):
        with pytest.raises(ConfigurationError, match="no bucket 'no-such-bucket'"):
            attempt()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://no-such-host.invalid:9000"])
def test_a_server_that_cannot_be_reached_is_named_and_may_be_tried_again(s3_store: StoreSettings, endpoint: str) -> None:
    store = open_store(s3_store.model_copy(update={"endpoint": endpoint, "retries": 1}))
    for attempt in (store.check, lambda: store.list("raw"), lambda: store.put_new("a", b""), lambda: store.get("a")):
        with pytest.raises(StoreUnavailable, match="LAKEHOUSE_STORE__ENDPOINT") as caught:
            attempt()
        assert endpoint in str(caught.value)


def test_missing_keys_are_named(monkeypatch: pytest.MonkeyPatch, s3_store: StoreSettings) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(LakehouseError) as caught:
        open_store(s3_store.model_copy(update={"access_key": None, "secret_key": None})).check()
    assert isinstance(caught.value, ConfigurationError)
    assert "LAKEHOUSE_STORE__ACCESS_KEY" in str(caught.value)
