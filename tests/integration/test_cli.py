"""Every command of `lakehouse` on a small demo, and the tools that find everything through `lakehouse env`."""

from __future__ import annotations

import csv
import io
import json
import os
from datetime import UTC, date, datetime, timedelta
from typing import Any

import boto3
import clickhouse_connect
import psycopg
import pyarrow.parquet
import pymongo
import pytest

from lakehouse.services import postgres
from tests.deployments import PROGRAMS, Project

TABLES = {
    "chronochat.users",
    "chronochat.user_usage_stats",
    "chronochat.user_sessions",
    "chronochat.api_logs",
    "chronochat.user_preferences",
    "chronochat_mongo.conversations",
    "chronochat_mongo.messages",
}


def last_day(demo: Project) -> date:
    """The last day that the demo was loaded with."""
    return date.fromisoformat(
        str(demo.warehouse("select max(toDate(created_at, 'UTC')) from lakehouse.chronochat__api_logs")[0][0])
    )


def found(document: dict[str, Any]) -> dict[tuple[str, str], tuple[int, int, str]]:
    """What a verification found, without how much it read for that: by table and copy, sequence, rows and checksum."""
    copies = ((table["table"], copy) for table in document["tables"] for copy in table["copies"])
    return {(table, copy["copy"]): (copy["sequence"], copy["rows"], copy["checksum"]) for table, copy in copies}


def test_verify_says_how_much_it_did_not_read_again_and_keeps_what_it_found(demo: Project) -> None:
    demo.verify()
    again = demo.verify()
    lake = next(copy for copy in again["tables"][0]["copies"] if copy["copy"] == "lake")
    assert (lake["read"], lake["taken"]) == (0, lake["rows"])
    assert datetime.fromisoformat(lake["since"]) < datetime.now(UTC)
    deep = demo.lakehouse("verify", "--deep", "--json").json()
    assert found(deep) == found(again)
    assert {copy["taken"] for table in deep["tables"] for copy in table["copies"]} == {0}
    plain = demo.lakehouse("verify", "chronochat.users")
    assert "chronochat.users: rows not read again:" in plain.err
    assert "(--deep reads all)" in plain.err
    kept = demo.query("select count(distinct verified_at) as n from lakehouse_verifications where table = 'users'", "warehouse")
    assert kept[0]["n"] >= 4


def test_up_is_idempotent_and_says_where_everything_is(demo: Project) -> None:
    before = {name: demo.pid(name) for name in ("postgres", "mongodb", "s3", "clickhouse")}
    again = demo.lakehouse("up")
    assert again.err.count("already running") == 4
    assert {line.split()[0] for line in again.out.splitlines()[1:]} == set(before)
    assert {name: demo.pid(name) for name in before} == before


def test_env_says_the_same_to_a_shell_and_as_json(demo: Project) -> None:
    told = demo.env()
    seen = demo.shell('eval "$(lakehouse env)" && env -0').out
    shell = dict(line.split("=", 1) for line in seen.split("\0") if "=" in line)
    assert {name: shell.get(name) for name in told} == told
    assert oct((demo.home / "services.json").stat().st_mode & 0o777) == "0o600"


def test_the_addresses_of_env_work_for_the_tools_of_others(demo: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    env = demo.env()
    with psycopg.connect(env["CHRONOCHAT_URL"]) as connection:
        users = connection.execute("select count(*) from users").fetchone()
    assert users is not None
    with pymongo.MongoClient[dict[str, Any]](env["CHRONOCHAT_MONGO_URL"]) as mongo:
        assert mongo.get_default_database()["messages"].count_documents({}) > 0
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, env[name])
    found = boto3.client("s3").list_objects_v2(Bucket="lakehouse", Prefix="raw/chronochat/api_logs/day=")
    assert found["KeyCount"] >= 3
    clickhouse = clickhouse_connect.get_client(
        host=env["CLICKHOUSE_HOST"],
        port=int(env["CLICKHOUSE_PORT"]),
        username=env["CLICKHOUSE_USER"],
        password=env["CLICKHOUSE_PASSWORD"],
        database=env["CLICKHOUSE_DATABASE"],
    )
    assert clickhouse.query("select count() from chronochat__users").result_rows == [users]
    clickhouse.close()


def test_psql_finds_the_source_and_the_catalog(demo: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{postgres.binaries()}{os.pathsep}{os.environ['PATH']}")
    count = demo.shell('eval "$(lakehouse env)" && psql "$CHRONOCHAT_URL" -Atc "select count(*) from users"')
    assert int(count.out) == len(demo.warehouse("select id from lakehouse.chronochat__users"))
    tables = demo.shell('eval "$(lakehouse env)" && psql -Atc "select table_name from iceberg_tables order by 1"')
    assert "users" in tables.out.split()


def test_dbt_builds_from_the_shell(demo: Project) -> None:
    before, built = demo.statistics(), demo.built_at()
    done = demo.shell('eval "$(lakehouse env)" && dbt build --project-dir dbt_project')
    assert "Completed successfully" in done.out
    assert demo.statistics() == before
    assert all(built[day] != at for day, at in demo.built_at().items())


def test_dagster_materializes_one_partition_from_the_shell(demo: Project) -> None:
    before, day = demo.sequences(), last_day(demo)
    materialize = (
        'eval "$(lakehouse env)" && dagster asset materialize -f platform/definitions.py --select raw/chronochat/api_logs'
    )
    done = demo.shell(f"{materialize} --partition {day}")
    assert "RUN_SUCCESS" in done.err + done.out
    assert demo.sequences() == before
    refused = demo.shell(f"{materialize} --partition 1999-01-01", ends=None)
    assert refused.code != 0


@pytest.mark.parametrize("layer", ["lake", "warehouse", "chronochat"])
def test_sql_asks_every_layer(demo: Project, layer: str) -> None:
    table = "lakehouse.chronochat__users" if layer == "warehouse" else "chronochat.users"
    statement = f"select subscription_tier, count(*) as users from {table} group by 1 order by 1"
    rows = demo.query(statement, layer)
    with psycopg.connect(demo.env()["CHRONOCHAT_URL"]) as connection:
        tiers = connection.execute("select subscription_tier, count(*) from users group by 1 order by 1").fetchall()
    assert [(row["subscription_tier"], row["users"]) for row in rows] == tiers


def test_sql_prints_each_format(demo: Project) -> None:
    statement = "select 7 as n, 'a,\"b\"' as text, null as nothing, timestamp '2026-01-31 12:00:00' as at"
    table = demo.lakehouse("sql", statement).out.splitlines()
    assert table[0].split() == ["n", "text", "nothing", "at"]
    assert json.loads(demo.lakehouse("sql", statement, "--format", "json").out) == [
        {"n": 7, "text": 'a,"b"', "nothing": None, "at": "2026-01-31 12:00:00"}
    ]
    header, row = csv.reader(io.StringIO(demo.lakehouse("sql", statement, "--format", "csv").out))
    assert (header[:2], row[:2]) == (["n", "text"], ["7", 'a,"b"'])
    parquet = demo.shell(f'lakehouse sql "{statement.replace(chr(34), chr(92) + chr(34))}" --format parquet > result.parquet')
    assert parquet.out == ""
    assert pyarrow.parquet.read_table(demo.folder / "result.parquet").to_pylist()[0]["text"] == 'a,"b"'


def test_tables_show_and_status_tell_of_every_table(demo: Project) -> None:
    tables = {table["table"]: table for table in demo.lakehouse("tables", "--json").json()}
    assert tables.keys() == TABLES
    assert {table["state"] for table in tables.values()} == {"up to date"}
    printed = demo.lakehouse("tables").out.splitlines()
    assert {line.split()[0] for line in printed[1:]} == TABLES

    status = demo.lakehouse("status", "--json").json()
    assert {service["name"]: service["state"] for service in status["services"]}["postgres"] == "running"
    assert {source["source"]: source["problem"] for source in status["sources"]} == {"chronochat": "", "chronochat_mongo": ""}
    assert {table["table"]: table["rows"] for table in status["tables"]} == {name: t["rows"] for name, t in tables.items()}
    assert "can be read" in demo.lakehouse("status").out

    shown = demo.lakehouse("show", "chronochat.users", "--json").json()
    assert sum(shown["partitions"].values()) == tables["chronochat.users"]["rows"]
    assert {column["name"] for column in shown["columns"]} >= {"id", "email", "created_at"}
    assert "profile_image_url" not in {column["name"] for column in shown["columns"]}
    assert shown["versions"][-1]["marker"]["sequence"] == tables["chronochat.users"]["lake_sequence"]
    assert "mode upsert, key id" in demo.lakehouse("show", "chronochat.users").out


def test_older_versions_can_be_asked_and_brought_back_and_the_next_run_catches_up(demo: Project) -> None:
    first = demo.lakehouse("show", "chronochat.users", "--json").json()["versions"][-1]
    demo.lakehouse("demo", "tick")
    demo.lakehouse("run", "--no-show")
    now = found(demo.verify())
    version, at = str(first["version"]), datetime.fromisoformat(first["committed_at"]) + timedelta(seconds=1)

    then = demo.query("select count(*) as n, max(updated_at) as at from chronochat.users", "lake")
    of_version = demo.lakehouse(
        "sql", "select count(*) as n, max(updated_at) as at from chronochat.users", "--version", version, "--format", "json"
    ).json()
    as_of = demo.lakehouse(
        "sql", "select count(*) as n from chronochat.users", "--as-of", f"{at:%Y-%m-%dT%H:%M:%S}", "--format", "json"
    ).json()
    assert of_version[0]["n"] == as_of[0]["n"] == first["marker"]["rows"]
    assert of_version[0]["at"] < then[0]["at"]

    demo.lakehouse("tag", "chronochat.users", "before-the-tick", "--version", version)
    count = "select count(*) as n from chronochat.users"
    named = demo.lakehouse("sql", count, "--version", "before-the-tick", "--format", "json").json()
    assert named[0]["n"] == first["marker"]["rows"]
    assert "before-the-tick" in demo.lakehouse("show", "chronochat.users").out
    between = demo.lakehouse("diff", "chronochat.users", "before-the-tick", "--json").json()
    assert between["added"] - between["removed"] == then[0]["n"] - first["marker"]["rows"]
    assert between["changed"] > 0
    told = demo.lakehouse("diff", "chronochat.users", "before-the-tick", "--limit", "1")
    assert f"{between['changed']:,} changed" in told.err
    assert "and " in told.err
    assert "nobody" in demo.lakehouse("rollback", "chronochat.users", "--to", "nobody", ends=2).err
    assert "Choose another name" in demo.lakehouse("tag", "chronochat.users", "12", ends=2).err
    demo.lakehouse("rollback", "chronochat.users", "--to", "before-the-tick")
    demo.lakehouse("tag", "chronochat.users", "before-the-tick", "--remove")
    gone = demo.lakehouse("tag", "chronochat.users", "before-the-tick", "--remove", ends=2)
    assert "found:   before-the-tick" in gone.err
    assert len(demo.warehouse("select id from lakehouse.chronochat__users")) == first["marker"]["rows"]
    behind = demo.lakehouse("verify", "chronochat.users", "--json", ends=1).json()
    assert not behind["equal"]
    demo.lakehouse("run", "--no-show")
    assert found(demo.verify()) == now


def test_a_run_for_days_builds_those_days_and_lands_nothing_that_is_there(demo: Project) -> None:
    before, sequences, day = demo.built_at(), demo.sequences(), last_day(demo)
    first = day - timedelta(days=1)
    demo.lakehouse("run", "--from", first.isoformat(), "--to", day.isoformat(), "--no-show")
    assert demo.sequences() == sequences
    assert {name for name, at in demo.built_at().items() if at != before[name]} == {first.isoformat(), day.isoformat()}


def test_a_run_for_one_table_leaves_the_others(demo: Project) -> None:
    demo.lakehouse("demo", "tick")
    before = demo.sequences()
    done = demo.lakehouse("run", "--select", "chronochat.user_preferences", "--select", "chronochat_mongo")
    after = demo.sequences()
    assert {name.partition(".")[0] for name in TABLES if after[name] != before[name]} <= {"chronochat", "chronochat_mongo"}
    assert after["chronochat.users"] == before["chronochat.users"]
    assert after["chronochat_mongo.messages"] > before["chronochat_mongo.messages"]
    assert len(set(after["chronochat_mongo.messages"])) == 1
    assert "lake__chronochat__users" not in done.err
    demo.lakehouse("run", "--no-show")
    demo.verify()


def test_a_full_run_reads_everything_and_lands_only_what_differs(demo: Project) -> None:
    demo.lakehouse("run", "--no-show")
    before = demo.sequences()
    done = demo.lakehouse(
        "run", "--full", "--no-show", "--select", "chronochat.api_logs", "--select", "chronochat.user_preferences"
    )
    assert "chronochat.api_logs: nothing new" in done.err
    assert demo.sequences() == before
    demo.verify()


def test_ui_prints_one_address_and_is_stopped_alone(demo: Project) -> None:
    address = demo.lakehouse("ui").out.strip()
    assert address.startswith("http://127.0.0.1:")
    assert demo.lakehouse("ui").out.strip() == address
    stopped = demo.lakehouse("ui", "--stop")
    assert "dagster-webserver" in stopped.err
    assert "nothing was running" in demo.lakehouse("ui", "--stop").err
    assert "running" in demo.lakehouse("status").out


def test_repair_shows_what_it_would_do_and_does_it_only_when_told(demo: Project) -> None:
    demo.warehouse("alter table lakehouse.chronochat__users modify comment 'mine'")
    said = demo.lakehouse("status", ends=1)
    assert "run `lakehouse repair chronochat.users`" in said.err
    for option in ((), ("--dry-run", "--yes")):
        shown = demo.lakehouse("repair", "chronochat.users", *option, ends=1)
        assert "to do: warehouse: copy all rows of chronochat.users" in shown.out
        assert "repaired" not in shown.err
    assert "repaired: every copy is whole" in demo.lakehouse("repair", "chronochat.users", "--yes").err
    assert "nothing is damaged" in demo.lakehouse("repair", "chronochat.users").err
    assert "Last repairs" in demo.lakehouse("show", "chronochat.users").out
    demo.lakehouse("run", "--no-show")
    demo.verify()


def test_orphans_are_listed_and_young_ones_are_kept(demo: Project) -> None:
    demo.warehouse("create table lakehouse.__next__chronochat__users__0123456789ab (a UInt8) engine = MergeTree order by a")
    listed = demo.lakehouse("orphans", "chronochat.users", "--delete", "--json").json()
    (left,) = [orphan for orphan in listed["orphans"] if orphan["where"] == "warehouse"]
    assert (left["young"], left["removed"]) == (True, False)
    assert listed["skipped"] == []
    demo.warehouse("drop table lakehouse.__next__chronochat__users__0123456789ab sync")


def test_maintenance_says_what_there_is_to_do_and_what_was_done(demo: Project) -> None:
    """Everything is young in a new deployment: nothing expires, nothing is removed."""
    shown = demo.lakehouse("maintain", "chronochat.users", "--dry-run")
    assert ("chronochat.users" in shown.out, "nothing to do" in shown.err) == (True, True)
    told = demo.lakehouse("maintain", "--json").json()
    assert told["failed"] == []
    assert len(told["tables"]) == 7
    for table in told["tables"]:
        assert table["before"] == table["after"]
        assert (table["compact"], table["expired"], table["removed"], table["skipped"]) == ({}, [], 0, [])
    demo.lakehouse("maintain", "chronochat.nonsense", ends=2)
    demo.verify()


def test_exit_codes_and_help(demo: Project) -> None:
    assert demo.lakehouse("--version").out.startswith("lakehouse ")
    assert "verify" in demo.lakehouse("--help").out
    assert "Exit 1 on a difference" in demo.lakehouse("verify", "--help").out
    assert demo.lakehouse("nonsense", ends=2).out == ""
    demo.lakehouse("run", "--nonsense", ends=2)
    demo.lakehouse("show", ends=2)
    piped = demo.shell(f"{PROGRAMS / 'lakehouse'} sql 'select * from range(100000)' --format csv | head -1", ends=None)
    assert (piped.out.strip(), piped.err) == ('"range"', "")
