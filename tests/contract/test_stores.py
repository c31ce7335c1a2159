"""What every object store must do; run over a folder and over S3."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from lakehouse.errors import ConfigurationError, WrongUse
from lakehouse.settings import StoreSettings
from lakehouse.stores import ObjectStore, open_store
from tests.crash.forks import FORKS

ODD_NAMES = ["%41", "100%/é", "a", "a b#1?", "a-b/x", "a.b", "ab", "day=2026-01-31/𝄞.parquet", "ü+&=;", "\uffee"]
RACES = 6
RACERS = 4


def paths(store: ObjectStore, prefix: str = "", after: str | None = None) -> list[str]:
    return [info.path for info in store.list(prefix, after)]


def create_each(settings: StoreSettings, barrier: Barrier, racer: int, queue: Queue[tuple[int, int]]) -> None:
    """In a process of its own: try to create each path at the same moment as the others."""
    store = open_store(settings)
    for race in range(RACES):
        barrier.wait(60)
        if store.put_new(f"race/{race}", f"{racer}".encode()):
            queue.put((race, racer))
    queue.put((-1, racer))


def test_a_sound_store_passes_its_check_and_keeps_nothing_of_it(store: ObjectStore) -> None:
    store.check()
    assert paths(store) == []


def test_only_the_first_create_of_a_path_writes(store: ObjectStore) -> None:
    assert store.put_new("log/1", b"first") is True
    assert store.put_new("log/1", b"second") is False
    assert store.get("log/1") == b"first"


def test_a_second_create_of_the_same_bytes_is_told_that_they_were_there(store: ObjectStore) -> None:
    assert store.put_new("log/1", b"same") is True
    assert store.put_new("log/1", b"same") is False


def test_a_create_does_not_replace_what_was_put_or_uploaded(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"uploaded")
    store.put("put", b"put")
    store.upload(tmp_path / "local", "uploaded")
    assert not store.put_new("put", b"new")
    assert not store.put_new("uploaded", b"new")
    assert (store.get("put"), store.get("uploaded")) == (b"put", b"uploaded")


def test_of_many_threads_one_creates(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        for race in range(3):
            won = list(pool.map(lambda racer, path=f"race/{race}": store.put_new(path, b"%d" % racer), range(8)))
            assert won.count(True) == 1
            assert store.get(f"race/{race}") == b"%d" % won.index(True)


def test_of_many_processes_one_creates(store: ObjectStore, store_settings: StoreSettings) -> None:
    barrier, queue = FORKS.Barrier(RACERS), FORKS.Queue()
    racers = [FORKS.Process(target=create_each, args=(store_settings, barrier, n, queue)) for n in range(RACERS)]
    for racer in racers:
        racer.start()
    winners: dict[int, list[int]] = {}
    done = 0
    while done < RACERS:
        race, winner = queue.get(timeout=60)
        done += race < 0
        winners.setdefault(race, []).append(winner)
    for racer in racers:
        racer.join(60)
    winners.pop(-1)
    assert sorted(winners) == list(range(RACES))
    for race, who in winners.items():
        assert len(who) == 1
        assert store.get(f"race/{race}") == f"{who[0]}".encode()


def test_a_put_replaces(store: ObjectStore) -> None:
    store.put("a/b", b"1")
    store.put("a/b", b"22")
    assert store.get("a/b") == b"22"
    assert [(info.path, info.size) for info in store.list("a")] == [("a/b", 2)]


def test_an_object_may_be_empty(store: ObjectStore) -> None:
    assert store.put_new("empty", b"")
    assert not store.put_new("empty", b"")
    assert store.get("empty") == b""
    assert store.exists("empty")


def test_a_missing_object_is_a_file_not_found(store: ObjectStore, tmp_path: Path) -> None:
    store.put("there/is", b"1")
    for path in ("nowhere", "there/not", "there/is/below"):
        with pytest.raises(FileNotFoundError, match=path.split("/")[-1]):
            store.get(path)
        with pytest.raises(FileNotFoundError):
            store.download(path, tmp_path / "local")
        assert not store.exists(path)


def test_a_folder_is_no_object(store: ObjectStore) -> None:
    store.put("folder/object", b"1")
    assert not store.exists("folder")


def test_a_deleted_object_is_gone_and_may_be_deleted_again(store: ObjectStore) -> None:
    store.put("a/b", b"1")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert not store.exists("a/b")
    assert paths(store) == []
    assert store.put_new("a/b", b"2")


def test_a_large_file_goes_up_and_down_unchanged(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(os.urandom(2**20) * 33 + b"end")
    store.upload(tmp_path / "up", "large/file")
    store.download("large/file", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
    assert [info.size for info in store.list("large")] == [33 * 2**20 + 3]


def test_names_of_any_script_and_sign_come_back_sorted(store: ObjectStore) -> None:
    for name in ODD_NAMES:
        store.put(f"odd/{name}", name.encode())
    found = paths(store, "odd")
    assert found == sorted(f"odd/{name}" for name in ODD_NAMES)
    assert [store.get(path).decode() for path in found] == sorted(ODD_NAMES)
    assert store.put_new(f"odd/{ODD_NAMES[0]}", b"again") is False


def test_a_list_begins_after_the_given_path(store: ObjectStore) -> None:
    for name in ODD_NAMES:
        store.put(f"odd/{name}", b"")
    everything = paths(store, "odd")
    for after in [*everything, "odd/", "odd/b", "p"]:
        assert paths(store, "odd", after) == [path for path in everything if path > after]


def test_a_list_holds_the_folder_named_and_no_other_that_begins_so(store: ObjectStore) -> None:
    for path in ("raw/a/1", "raw/a/b/c/2", "raw/ab/3", "raw/a.json"):
        store.put(path, b"")
    assert paths(store, "raw/a") == ["raw/a/1", "raw/a/b/c/2"]
    assert paths(store, "raw/none") == []


def test_a_page_is_the_first_thousand_after_a_path(store: ObjectStore) -> None:
    names = [f"flat/{number:06d}" for number in range(1, 1011)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert [info.path for info in store.page("flat")] == names[:1000]
    assert [info.path for info in store.page("flat", names[999])] == names[1000:]
    assert store.page("flat", names[-1]) == []
    assert store.page("none") == []
    assert paths(store, "flat") == names


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "..", "a/../../b", "./a", "a\0b"])
def test_a_path_that_leads_elsewhere_is_refused(store: ObjectStore, path: str) -> None:
    with pytest.raises(WrongUse, match="do next"):
        store.put(path, b"")
    with pytest.raises(WrongUse):
        store.put_new(path, b"")
    with pytest.raises(WrongUse):
        store.get(path)


def test_the_address_of_an_object_begins_with_that_of_the_store(store: ObjectStore, store_settings: StoreSettings) -> None:
    assert store.url == store_settings.url
    assert store.url_of("a/b.parquet") == f"{store_settings.url}/a/b.parquet"


@pytest.mark.parametrize("url", ["", "s3://", "file://", "file://host/folder", "gs://bucket", "/folder", "s3://b?x=1"])
def test_an_address_that_is_no_store_is_refused_with_the_allowed_forms(url: str) -> None:
    with pytest.raises(ConfigurationError, match="LAKEHOUSE_STORE__URL") as caught:
        open_store(StoreSettings(url=url))
    assert "s3://bucket[/prefix]" in str(caught.value)
