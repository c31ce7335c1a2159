"""What the command refuses, with what was tried, found and allowed, and what to do; and two runs at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.deployments import Finished, Project, another_folder, fresh_project


def assert_told(refused: Finished, *, tried: str, found: str, allowed: str, remedy: str) -> None:
    """The four parts of an error, on standard error, and nothing of how the program is built."""
    parts = re.search(r"(?s)lakehouse: (.*?)\n  found:   (.*?)\n  allowed: (.*?)\n  do next: (.*)", refused.err)
    assert parts is not None, refused.err
    for part, expected in zip(parts.groups(), (tried, found, allowed, remedy), strict=True):
        assert expected in part, refused.err
    assert refused.out == ""
    assert "Traceback" not in refused.err


@pytest.mark.parametrize(
    ("arguments", "tried", "found", "allowed", "remedy"),
    [
        (
            ("run", "--from", "1999-01-01", "--to", "1999-01-02"),
            "running the days 1999-01-01 to 1999-01-02",
            "1999-01-01",
            "2025-01-01 (the deployment's first day)",
            "LAKEHOUSE_START_DATE",
        ),
        (("run", "--from", "2026-01-02", "--to", "2026-01-01"), "choosing a range of days", "2026-01-02", "not after", "Swap"),
        (("run", "--from", "2026-01-01"), "choosing days", "only one of --from and --to", "both or none", "Give both"),
        (("run", "--select", "chronochat.nothing"), "table 'chronochat.nothing'", "nothing", "chronochat.users", "source.table"),
        (("verify", "nothing"), "looking for table 'nothing'", "nothing", "chronochat_mongo.messages", "Name a declared table"),
        (("show", "users"), "looking for table 'users'", "users", "chronochat.users", "Name a declared table"),
        (("rollback", "chronochat", "--to", "1"), "rolling back", "chronochat", "one table", "Name the table"),
        (("rollback", "chronochat.users", "--to", "1"), "chronochat.users at a version", "1", "", "lakehouse show"),
        (("sql", "select 1", "--on", "nowhere"), "choosing where to query", "nowhere", "lake, warehouse, chronochat", "--on"),
        (("sql", "select * from chronochat.none"), "running the statement", "none", "chronochat.users", "Correct"),
        (("sql", "select 1", "--on", "warehouse", "--version", "1"), "the warehouse as of", "1", "--on lake", "Query the lake"),
        (
            ("sql", "select * from chronochat.users", "--as-of", "1999-01-01"),
            "chronochat.users as of 1999-01-01",
            "oldest version",
            "at or after",
            "lakehouse show",
        ),
        (("demo", "load", "--days", "4"), "loading the example data", "days=3, users=60", "same parameters", "down --wipe"),
    ],
)
def test_wrong_use_is_refused(
    demo: Project, arguments: tuple[str, ...], tried: str, found: str, allowed: str, remedy: str
) -> None:
    assert_told(demo.lakehouse(*arguments, ends=2), tried=tried, found=found, allowed=allowed, remedy=remedy)


def test_a_statement_that_the_warehouse_refuses_is_told_in_its_words(demo: Project) -> None:
    refused = demo.lakehouse("sql", "select * from nothing", "--on", "warehouse", ends=1)
    assert "Code: 60" in refused.err
    assert "do next:" in refused.err


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LAKEHOUSE_ENGINE", "flink", "'embedded' or 'spark'"),
        ("LAKEHOUSE_THREADS", "many", "a valid integer"),
        ("LAKEHOUSE_MEMORY_LIMIT_MB", "1", "greater than or equal to 64"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(demo: Project, name: str, value: str, allowed: str) -> None:
    refused = demo.having(**{name: value}).lakehouse("tables", ends=1)
    assert_told(refused, tried=f"reading the setting {name}", found=value, allowed=allowed, remedy=f"Correct {name}")


URL = "LAKEHOUSE_SOURCES__{}__URL"


@pytest.mark.parametrize(
    ("source", "change", "found", "allowed"),
    [
        ("chronochat", ("password", "wrong"), "password authentication failed", "a user, password and database"),
        ("chronochat", ("port", "1"), "Connection refused", "a server that answers"),
        ("chronochat_mongo", ("password", "wrong"), "authentication failed", "a user and password"),
        ("chronochat_mongo", ("port", "1"), "Connection refused", "a server that answers"),
    ],
)
def test_a_source_that_cannot_be_reached_is_named_before_any_work(
    demo: Project, source: str, change: tuple[str, str], found: str, allowed: str
) -> None:
    variable = URL.format(source.upper())
    broken = demo.having(**{variable: changed(demo.env()[variable], *change)})
    before = demo.sequences()
    refused = broken.lakehouse("run", ends=1)
    assert_told(refused, tried=f"connecting to source '{source}'", found=found, allowed=allowed, remedy=variable)
    assert "wrong" not in refused.err
    assert demo.sequences() == before
    status = broken.lakehouse("status", ends=1)
    assert "cannot be read as declared" in next(line for line in status.out.splitlines() if line.startswith(f"{source} "))
    assert f"{source}: connecting to source '{source}'" in status.err


def changed(url: str, part: str, value: str) -> str:
    """A connection URL with another port, and another password: with its own it would mean the embedded server."""
    url = re.sub(r":[^:@/]+@", ":wrong@", url)
    return re.sub(r"@([^:/]+):\d+", rf"@\g<1>:{value}", url) if part == "port" else url


@contextmanager
def altered(demo: Project, change: str, back: str) -> Iterator[None]:
    """The source changed for a while."""
    with psycopg.connect(demo.env()["CHRONOCHAT_URL"], autocommit=True) as connection:
        connection.execute(change.encode())
        try:
            yield
        finally:
            connection.execute(back.encode())


def test_a_table_or_column_that_the_source_dropped_is_named_before_any_work(demo: Project) -> None:
    before = demo.sequences()
    with altered(demo, "alter table user_preferences rename to choices", "alter table choices rename to user_preferences"):
        refused = demo.lakehouse("run", ends=1)
        assert_told(refused, tried="'user_preferences'", found="no such table", allowed="choices", remedy="relation=")
        assert "'user_preferences'" in demo.lakehouse("status", ends=1).err
        demo.lakehouse("run", "--select", "chronochat_mongo", "--no-show")
    with altered(demo, "alter table users rename updated_at to changed", "alter table users rename changed to updated_at"):
        refused = demo.lakehouse("run", "--select", "chronochat.users", ends=1)
        assert "updated_at" in refused.err
        assert "changed" in refused.err
        assert "do next:" in refused.err
    assert demo.sequences() == before


def test_a_column_that_changes_its_type_stops_its_table_alone_and_lands_nothing(demo: Project) -> None:
    demo.lakehouse("demo", "tick")
    before = demo.sequences()
    change, back = (f"alter table user_preferences alter temperature type {name}" for name in ("text", "double precision"))
    with altered(demo, change, f"{back} using temperature::float8"):
        failed = demo.lakehouse("run", ends=1)
        assert "column 'temperature' changed its type" in failed.err
        assert "declare on_change='quarantine'" in failed.err
        assert "found:   string in the source, float64 in what was landed before" in failed.err
        assert "Nothing was landed" in failed.err
    after = demo.sequences()
    assert after["chronochat.user_preferences"] == before["chronochat.user_preferences"]
    assert after["chronochat.api_logs"] > before["chronochat.api_logs"]
    demo.lakehouse("run", "--no-show")
    demo.verify()


def test_a_table_that_the_source_emptied_is_kept_until_a_run_accepts_it(demo: Project) -> None:
    emptied = "create table aside as table user_preferences; truncate user_preferences"
    one = ("run", "--select", "chronochat.user_preferences", "--no-show")
    with altered(demo, emptied, "insert into user_preferences table aside; drop table aside"):
        before = demo.sequences()
        refused = demo.lakehouse(*one, ends=1)
        assert "rows are gone from the source" in refused.err
        assert "do next: Look at the source" in refused.err
        assert demo.sequences() == before
        demo.lakehouse(*one, "--accept-deletes")
        assert demo.warehouse("select count() from lakehouse.chronochat__user_preferences") == [(0,)]
    demo.lakehouse(*one)
    demo.verify()


def test_a_row_that_its_table_cannot_hold_is_kept_shown_and_discarded_and_all_others_arrive(demo: Project) -> None:
    table, one = "chronochat.user_preferences", ("run", "--select", "chronochat.user_preferences", "--no-show")
    with psycopg.connect(demo.env()["CHRONOCHAT_URL"]) as connection:
        found = connection.execute("select id::text, updated_at::text from user_preferences order by 1 limit 1").fetchone()
    assert found is not None
    key, was = found
    bad = f"update user_preferences set updated_at = 'infinity' where id = '{key}'"
    with altered(demo, bad, f"update user_preferences set updated_at = '{was}' where id = '{key}'"):
        before = demo.lakehouse("sql", "select count(*) from chronochat.user_preferences").out
        assert "rows in quarantine: 1" in demo.lakehouse(*one).err
        assert demo.lakehouse("sql", "select count(*) from chronochat.user_preferences").out != before
        assert f"{table}: rows in quarantine: 1" in demo.lakehouse("status").err
        (row,) = demo.lakehouse("quarantine", "list", "--json").json()
        assert (row["table"], row["key"], row["column"]) == (table, f'["{key}"]', "updated_at")
        assert "infinity" in row["reason"]
        assert "updated_at" in demo.lakehouse("quarantine", "list").out
        assert '"updated_at": "infinity"' in demo.lakehouse("quarantine", "show", table, row["row_id"][:8]).out
        assert "still refused" in demo.lakehouse("quarantine", "replay", table, ends=1).err
        refused = demo.lakehouse("quarantine", "discard", table, ends=2)
        assert_told(refused, tried="discarding rows", found="no row", allowed="--all", remedy="quarantine list")
        assert "Give --yes" in demo.lakehouse("quarantine", "discard", table, "--all", ends=1).err
        assert "rows discarded: 1" in demo.lakehouse("quarantine", "discard", table, "--all", "--yes").err
        assert "no rows are in quarantine" in demo.lakehouse("quarantine", "list").err
        demo.verify()
    demo.lakehouse(*one)
    assert demo.lakehouse("quarantine", "list", "--all", "--json").json() == []
    demo.verify()


@pytest.mark.parametrize(
    ("before", "after", "found", "allowed"),
    [
        ('mode="snapshot"', 'mode="whole"', "whole", "append, upsert, snapshot"),
        ('cursor="last_activity_at"', 'curser="last_activity_at"', "unexpected keyword argument 'curser'", "lakehouse.Table"),
        ('partition=days("started_at"),', 'partition=days("started_at",', "was never closed", "Python that imports"),
        ('partition=days("created_at"),', 'partition=bucket("id", 4),', "bucket", "days('created_at')"),
        (
            "from datetime import timedelta",
            "from datetimes import timedelta",
            "No module named 'datetimes'",
            "Python that imports",
        ),
    ],
)
def test_a_malformed_declaration_is_named_with_its_place(
    demo: Project, before: str, after: str, found: str, allowed: str
) -> None:
    with another_folder(demo) as folder:
        declared = folder.folder / "assets" / "chronochat.py"
        text = declared.read_text()
        assert before in text
        declared.write_text(text.replace(before, after, 1))
        refused = folder.lakehouse("run", ends=1)
        assert_told(refused, tried="declar", found=found, allowed=allowed, remedy="")
        if "keyword" in found or "closed" in found:
            assert f"{declared}:" in refused.err


@pytest.mark.parametrize("command", ["up", "status", "run", "tables", "verify", "ui", "env"])
def test_outside_of_a_deployment_every_command_says_so(demo: Project, tmp_path: Path, command: str) -> None:
    refused = demo.lakehouse(command, ends=1, cwd=tmp_path)
    if command == "env":
        assert_told(
            refused, tried="looking for a deployment", found=str(tmp_path), allowed="LAKEHOUSE_HOME", remedy="lakehouse up"
        )
    else:
        assert_told(refused, tried=str(tmp_path), found="No module named 'assets'", allowed="", remedy="LAKEHOUSE_DECLARATIONS")
    assert list(tmp_path.iterdir()) == []


def test_when_nothing_is_up_every_command_says_what_to_start_and_changes_nothing() -> None:
    with fresh_project() as project:
        for command in (["run"], ["verify"], ["tables"], ["demo", "tick"], ["sql", "select 1"], ["ui"]):
            refused = project.lakehouse(*command, ends=1)
            assert_told(
                refused,
                tried="using the deployment",
                found="postgres, mongodb, s3, clickhouse",
                allowed="",
                remedy="lakehouse up",
            )
        status = project.lakehouse("status", ends=1)
        assert "Not running: postgres, mongodb, s3, clickhouse; `lakehouse up` starts them" in status.err
        assert [line.split()[1] for line in status.out.splitlines()[1:]] == ["stopped"] * 6
        assert project.lakehouse("status", "--json", ends=1).json()["tables"] == []
        assert "nothing was running" in project.lakehouse("down").err
        assert project.processes() == {}


def test_two_runs_at_once_end_well_and_nothing_is_doubled(demo: Project) -> None:
    demo.lakehouse("demo", "tick")
    runs = [demo.started("run", "--no-show"), demo.started("run", "--no-show")]
    assert [run.end() for run in runs] == [0, 0], [run.text for run in runs]
    demo.verify()
    for table, key in (("chronochat__api_logs", "id"), ("chronochat__users", "id"), ("chronochat_mongo__messages", "_id")):
        assert demo.warehouse(f"select count() - uniqExact({key}) from lakehouse.{table}") == [(0,)]


def test_a_plan_ends_with_2_when_the_run_would_stop_and_changes_nothing(demo: Project) -> None:
    before = demo.sequences()
    quiet = demo.lakehouse("plan", "chronochat.user_preferences")
    assert "0 changes of columns, none would stop the run" in quiet.out
    change, back = (f"alter table user_preferences alter temperature type {name}" for name in ("text", "double precision"))
    with altered(demo, change, f"{back} using temperature::float8"):
        stopped = demo.lakehouse("plan", ends=2)
        assert "! reading chronochat.user_preferences: column 'temperature' changed its type" in stopped.out
        assert "1 would stop the run" in stopped.out
        document = demo.lakehouse("plan", "--json", ends=2).json()
        assert [table["table"] for table in document["tables"] if table["stops"]] == ["chronochat.user_preferences"]
    with altered(demo, "alter table users add column city text", "alter table users drop column city"):
        assert "+ column city: string" in demo.lakehouse("plan", "chronochat.users").out
    assert demo.sequences() == before
