"""What only a store in a folder can get wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lakehouse.errors import ConfigurationError, WrongUse
from lakehouse.settings import StoreSettings
from lakehouse.stores import ObjectStore, open_store

KILLED_IN_MID_WRITE = """
import os, signal, sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from lakehouse.settings import StoreSettings
from lakehouse.stores import folder, open_store

folder._flush = lambda path: os.kill(os.getpid(), signal.SIGKILL)
open_store(StoreSettings(url=sys.argv[1])).put_new("log/1", b"half")
"""


@pytest.fixture
def settings(tmp_path: Path) -> StoreSettings:
    return StoreSettings(url=(tmp_path / "a store, ü").as_uri())


@pytest.fixture
def store(settings: StoreSettings) -> ObjectStore:
    return open_store(settings)


def test_a_writer_that_is_killed_leaves_no_object(store: ObjectStore, settings: StoreSettings) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_MID_WRITE, settings.url], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(store.list("")) == []
    assert store.put_new("log/1", b"whole")
    assert store.get("log/1") == b"whole"


def test_an_object_can_be_read_by_whom_the_umask_lets(store: ObjectStore, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        store.put_new("a", b"")
        (tmp_path / "local").write_bytes(b"")
        store.upload(tmp_path / "local", "b")
    finally:
        os.umask(before)
    assert [(tmp_path / "a store, ü" / name).stat().st_mode & 0o777 for name in "ab"] == [0o644, 0o644]


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = open_store(StoreSettings(url=(tmp_path / "file").as_uri()))
    with pytest.raises(ConfigurationError, match="LAKEHOUSE_STORE__URL") as caught:
        store.check()
    assert "/file" in str(caught.value)


@contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Root may write everywhere, so root becomes `nobody` for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with as_an_ordinary_user(), pytest.raises(ConfigurationError, match="owner or mode"):
        open_store(StoreSettings(url=(tmp_path / "closed").as_uri())).check()


def test_a_name_that_the_file_system_refuses_is_an_error_of_the_platform(store: ObjectStore) -> None:
    with pytest.raises(WrongUse, match="255 bytes"):
        store.put("x" * 300, b"")


def test_an_object_cannot_be_the_folder_of_another(store: ObjectStore) -> None:
    store.put("a", b"")
    with pytest.raises(WrongUse, match="no other object's folder"):
        store.put("a/b", b"")
