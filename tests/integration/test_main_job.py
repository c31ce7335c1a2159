"""The main job as the README says it: clone, `make run`, look, let an hour happen, `make down`.

The clone lies outside of the checkout. It differs from a newcomer's in one thing: it borrows the virtual environment of the tests
(`.venv` is a link, and `STAMP` names a fresh file, so that make does not install 2 GB again), and `PYTHONPATH` puts the clone's
own package before the one that this environment was installed with. And its demo is a small one (`DEMO`).
"""

from __future__ import annotations

import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymongo
import pytest

from tests.deployments import SMALL, Finished, Project, fresh_project

DAILY = ("users", "user_sessions", "api_logs", "conversations", "messages")
"""Tables whose rows belong to a day of the statistics."""


def make(clone: Project, goal: str) -> Finished:
    return clone.program("make", goal, "STAMP=.stamp", f"DEMO={' '.join(SMALL)}")


@pytest.fixture(scope="module")
def clone() -> Iterator[Project]:
    with fresh_project() as project:
        (project.folder / ".venv").symlink_to(sys.prefix)
        (project.folder / ".stamp").touch()
        yield project


@pytest.fixture(scope="module")
def first(clone: Project) -> Finished:
    """`make run` in the fresh clone."""
    return make(clone, "run")


def test_make_run_prints_daily_statistics_and_equal_hops(first: Finished, clone: Project) -> None:
    lines = first.out.splitlines()
    header = next(line for line in lines if line.startswith("day ")).split()
    assert header[:5] == ["day", "active_users", "new_users", "sessions", "avg_session_minutes"]
    full_days = [line.split() for line in lines if re.match(r"\d{4}-\d\d-\d\d ", line) and len(line.split()) == len(header)]
    assert len(full_days) == 3
    calls = sum(int(day[header.index("api_calls")].replace(",", "")) for day in full_days)
    assert calls == clone.warehouse("select count() from lakehouse.chronochat__api_logs")[0][0] > 100

    hops = {line.split()[0]: line.split() for line in lines[lines.index("Hops") + 2 :] if line.startswith("chronochat")}
    assert len({name for name in hops if name.startswith("chronochat")}) == 7
    verified = [line.split() for line in lines if re.match(r"chronochat\S+ +(source|raw|lake|warehouse) ", line)]
    assert len(verified) == 7 * 4
    by_table: dict[str, set[tuple[str, ...]]] = {}
    for name, _, *rest in verified:
        by_table.setdefault(name, set()).add(tuple(rest))
    for name, found in by_table.items():
        assert len(found) == 1, (name, found)
        assert next(iter(found))[-1] == "equal"
    assert "equal: every copy of 7 tables holds the same rows" in first.err


def test_the_printed_address_is_a_dagster_ui_that_knows_the_run(first: Finished) -> None:
    address = re.search(r"Dagster UI: (http://127\.0\.0\.1:\d+)", first.out)
    assert address is not None, first.out
    with urllib.request.urlopen(f"{address[1]}/server_info", timeout=60) as answer:
        assert b"dagster_webserver_version" in answer.read()
    run = re.search(r"run ([0-9a-f-]{36}) done", first.err)
    assert run is not None, first.err
    with urllib.request.urlopen(f"{address[1]}/runs/{run[1]}", timeout=60) as answer:
        assert answer.status == 200


def test_a_second_make_run_does_no_work_twice(first: Finished, clone: Project) -> None:
    before, built = clone.sequences(), clone.built_at()
    again = make(clone, "run")
    assert clone.sequences() == before
    assert clone.built_at() == built
    assert "was loaded already" in again.err
    assert "no run was needed" in again.err
    assert "equal: every copy of 7 tables" in again.err


def test_one_more_hour_arrives_everywhere_and_rebuilds_just_the_days_it_touched(first: Finished, clone: Project) -> None:
    before = Everything(clone)
    ticked = clone.lakehouse("demo", "tick")
    hour = {line.split()[0]: re.split(r"\s{2,}", line.strip()) for line in ticked.out.splitlines()[1:]}
    touched = {day for table in DAILY for day in hour[table][-1].split(", ")}
    assert len(touched) > 1
    clone.lakehouse("run")
    clone.verify()
    after = Everything(clone)

    changed = {day for day in before.built.keys() | after.built.keys() if before.built.get(day) != after.built.get(day)}
    assert changed == touched
    assert sum(int(row[5]) for row in hour.values()) > 0
    assert after.published == after.at_source
    gone = {name: before.published[name] - after.published[name] for name in before.published}
    assert {name: len(keys) for name, keys in gone.items()} == {name: int(row[4]) for name, row in hour.items()}
    arrived = {name: len(after.published[name] - before.published[name]) for name in before.published}
    assert arrived == {name: int(row[1]) for name, row in hour.items()}
    assert len(after.closed_users - before.closed_users) == int(hour["users"][3]) > 0
    assert len(after.archived - before.archived) == int(hour["conversations"][3]) > 0


class Everything:
    """Keys of each table at the source and in the warehouse, soft-deleted rows in the warehouse, and when each day was built."""

    def __init__(self, clone: Project) -> None:
        self.built = clone.built_at()
        self.published = {
            table.partition("__")[2]: {str(row[0]) for row in clone.warehouse(f"select {key} from lakehouse.{table}")}
            for table, key in PUBLISHED.items()
        }
        env = clone.env()
        self.at_source: dict[str, set[str]] = {}
        with psycopg.connect(env["CHRONOCHAT_URL"]) as connection:
            for table in ("users", "user_usage_stats", "user_sessions", "api_logs", "user_preferences"):
                self.at_source[table] = {str(row[0]) for row in connection.execute(f"select id from {table}".encode())}
        with pymongo.MongoClient[dict[str, Any]](env["CHRONOCHAT_MONGO_URL"]) as client:
            for collection in ("conversations", "messages"):
                found = client.get_default_database()[collection].find({}, {"_id": 1})
                self.at_source[collection] = {str(document["_id"]) for document in found}
        self.closed_users = set(clone.warehouse("select id from lakehouse.chronochat__users where not is_active"))
        self.archived = set(clone.warehouse("select _id from lakehouse.chronochat_mongo__conversations where is_archived"))


PUBLISHED = {
    "chronochat__users": "id",
    "chronochat__user_usage_stats": "id",
    "chronochat__user_sessions": "id",
    "chronochat__api_logs": "id",
    "chronochat__user_preferences": "id",
    "chronochat_mongo__conversations": "_id",
    "chronochat_mongo__messages": "_id",
}


def test_make_down_leaves_no_process_and_the_data_and_wipe_removes_it(first: Finished, clone: Project) -> None:
    running = clone.processes()
    assert len(running) >= 6, running
    make(clone, "down")
    assert clone.processes() == {}
    assert (clone.home / "data" / "postgres").is_dir()
    clone.lakehouse("down", "--wipe")
    assert not clone.home.exists()
    assert Path(clone.folder / "assets").is_dir()
