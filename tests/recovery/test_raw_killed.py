"""A process that is killed while it lands a batch: the log is whole; what may be left is files that no entry names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from lakehouse.raw import RawLog
from lakehouse.raw.scratch import PREFIX
from lakehouse.settings import StoreSettings
from lakehouse.spec import Table, days
from lakehouse.spec.types import arrow_field
from lakehouse.stores import ObjectStore, open_store

EVENTS = Table("events", "append", ("id",), event_time="at", partition=days("at"))
SCHEMA = pa.schema([arrow_field("id", "int64"), arrow_field("at", "timestamp")])

LANDING = """
import os, signal, sys
from datetime import date
from pathlib import Path
from lakehouse.raw import RawLog, log, writer
from lakehouse.settings import StoreSettings
from lakehouse.spec import Position, Window
from lakehouse.stores import open_store
from tests.recovery.test_raw_killed import EVENTS, MOMENT, SCHEMA, batch

moment = sys.argv[3]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def rows():
    for number in range(6):
        if moment == "between batches" and number == 4:
            die()
        yield batch(number)

writer.GROUP_ROWS = 1
writer.FILE_BYTES = 1
store = open_store(StoreSettings.model_validate_json(sys.argv[1]))
raw = RawLog(store, "shop", EVENTS, scratch=Path(sys.argv[2]))
if moment == "before the upload":
    store.upload = die
written = raw.write(rows(), SCHEMA, folder="day=2026-01-31")
manifest = raw.manifest(written, kind="replace", window=Window.of_day(MOMENT.date()), closed=True, schema=SCHEMA,
                        position=Position(MOMENT, MOMENT, True))
if moment == "before the claim":
    die()
put_new = store.put_new
if moment == "after the claim":
    store.put_new = lambda path, data: put_new(path, data) and die()
raw.claim(manifest)
"""
MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def batch(number: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"id": number, "at": MOMENT}], schema=SCHEMA)


def with_secrets(settings: StoreSettings) -> str:
    plain = settings.model_dump()
    for name in ("access_key", "secret_key"):
        plain[name] = plain[name].get_secret_value() if plain[name] is not None else None
    return json.dumps(plain)


def land_until_killed(settings: StoreSettings, scratch: Path, moment: str) -> int:
    command = [sys.executable, "-c", LANDING, with_secrets(settings), str(scratch), moment]
    root = Path(__file__).parents[2]
    return subprocess.run(command, check=False, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=120).returncode


def unreferenced(store: ObjectStore, log: RawLog) -> set[str]:
    named = {f"{log.folder}/{file.path}" for entry in log.entries() for file in entry.manifest.files}
    return {info.path for info in store.list(log.folder) if "/_log/" not in info.path} - named


@pytest.mark.parametrize(
    ("moment", "files", "entries"),
    [
        ("before the upload", {0}, 0),
        ("between batches", {1, 2, 3, 4}, 0),
        ("before the claim", {6}, 0),
        ("after the claim", {0}, 1),
    ],
)
def test_a_landing_that_is_killed_leaves_a_whole_log_and_at_most_unreferenced_files(
    store_settings: StoreSettings, tmp_path: Path, moment: str, files: set[int], entries: int
) -> None:
    assert land_until_killed(store_settings, tmp_path / "scratch", moment) == -signal.SIGKILL
    store = open_store(store_settings)
    log = RawLog(store, "shop", EVENTS, scratch=tmp_path / "scratch")
    assert log.head() == len(log.entries()) == entries
    left = unreferenced(store, log)
    assert len(left) in files

    assert land_until_killed(store_settings, tmp_path / "scratch", "never") == 0
    assert log.head() == entries + 1
    for entry in log.entries():
        assert [n for rows in log.read(entry) for n in rows.column("id").to_pylist()] == list(range(6))
    assert unreferenced(store, log) == left
    assert list((tmp_path / "scratch").glob(f"{PREFIX}*")) == []
