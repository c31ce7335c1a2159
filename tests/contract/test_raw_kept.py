"""Manifests that were read before are not read again, and what is kept of them never hides what the store has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lakehouse.errors import DamagedData
from lakehouse.raw import KeptManifests, RawLog, encode_manifest
from lakehouse.raw.log import FEW
from lakehouse.stores import ObjectStore
from tests.contract.test_raw_log import EVENTS, landed, manifest_of, rows


@pytest.fixture
def asked(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the objects that were read whole since."""
    paths: list[str] = []
    get = store.get

    def noted(path: str) -> bytes:
        paths.append(path)
        return get(path)

    monkeypatch.setattr(store, "get", noted)
    return paths


def keeping(store: ObjectStore, file: Path, count: int) -> RawLog:
    """A log of so many entries that keeps what it reads in a file."""
    kept = RawLog(store, "shop", EVENTS, kept=KeptManifests(file))
    manifest = manifest_of(kept)
    for number in range(1, count + 1):
        store.put(f"{kept.folder}/_log/{number:020d}.json", encode_manifest(replace(manifest, run_id=f"run {number} žluť")))
    return kept


def test_a_log_that_was_read_here_before_costs_a_listing_and_its_new_entries(
    store: ObjectStore, asked: list[str], tmp_path: Path
) -> None:
    events = keeping(store, tmp_path / "kept" / "events.jsonl", 40)
    first = events.entries()
    assert len(asked) == 40
    asked.clear()
    assert RawLog(store, "shop", EVENTS, kept=KeptManifests(tmp_path / "kept" / "events.jsonl")).entries() == first
    assert asked == []
    entry = landed(events, rows(1))
    asked.clear()
    assert events.entries() == [*first, entry]
    assert asked == [f"{events.folder}/_log/{41:020d}.json"]
    asked.clear()
    assert events.entries(after=20) == [*first[20:], entry]
    assert asked == []
    assert events.entries(afresh=True) == [*first, entry]
    assert len(asked) == 41


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: data.replace(b'"rows": 0', b'"rows": 2')])
def test_a_kept_manifest_never_hides_that_the_stores_own_is_damaged_or_gone(
    store: ObjectStore, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    events = keeping(store, tmp_path / "events.jsonl", 12)
    whole = events.entries()
    path = f"{events.folder}/_log/{5:020d}.json"
    data = store.get(path)
    store.put(path, damage(data))
    with pytest.raises(DamagedData, match=path):
        events.entries()
    store.put(path, data)
    assert events.entries() == whole
    store.delete(path)
    with pytest.raises(DamagedData, match=path):
        events.entries()


def test_what_is_kept_may_be_cut_short_gone_or_in_a_place_that_cannot_be_written(
    store: ObjectStore, asked: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    events = keeping(store, file, 12)
    whole = events.entries()
    file.write_bytes(file.read_bytes()[:-300] + b"\xff")
    asked.clear()
    assert events.entries() == whole
    assert asked == [f"{events.folder}/_log/{12:020d}.json"]
    asked.clear()
    assert events.entries() == whole
    assert asked == []
    file.unlink()
    file.mkdir()
    assert events.entries() == whole
    assert len(asked) == 12


def test_reading_again_keeps_nothing_twice(store: ObjectStore, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    events = keeping(store, file, 40)
    events.entries()
    size = file.stat().st_size
    for after, afresh in ((0, False), (0, True), (40 - FEW, False), (20, False), (39, True)):
        assert len(events.entries(after, afresh=afresh)) == 40 - after
    assert file.stat().st_size == size
