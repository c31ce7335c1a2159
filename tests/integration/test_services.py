"""The embedded servers in ordinary use: fixtures, settings, environment, status."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import boto3
import clickhouse_connect
import psycopg
import pymongo
import pytest
from pymongo.errors import OperationFailure

from lakehouse import services
from lakehouse.errors import ConfigurationError, WrongUse
from lakehouse.settings import Settings, SourceSettings, StoreSettings, WarehouseSettings
from tests.servers import SERVERS, SOURCES, Deployment


def test_a_fresh_postgres_database_takes_rows(postgres_database: str) -> None:
    with psycopg.connect(postgres_database) as connection:
        connection.execute("create table t as select 1 as a")
        assert connection.execute("show wal_level").fetchone() == ("logical",)


def test_a_fresh_mongo_database_takes_documents(mongo_database: str) -> None:
    with pymongo.MongoClient[dict[str, int]](mongo_database) as client:
        client.get_default_database()["c"].insert_one({"a": 1})
        assert client.get_default_database()["c"].count_documents({}) == 1


def test_a_fresh_prefix_takes_objects(s3_store: StoreSettings) -> None:
    assert s3_store.access_key is not None
    assert s3_store.secret_key is not None
    client = boto3.client(
        "s3",
        endpoint_url=s3_store.endpoint,
        region_name=s3_store.region,
        aws_access_key_id=s3_store.access_key.get_secret_value(),
        aws_secret_access_key=s3_store.secret_key.get_secret_value(),
    )
    bucket, _, prefix = s3_store.url.removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=f"{prefix}/a", Body=b"1")
    assert client.get_object(Bucket=bucket, Key=f"{prefix}/a")["Body"].read() == b"1"


def test_a_fresh_warehouse_database_takes_rows(clickhouse_database: WarehouseSettings) -> None:
    client = clickhouse_connect.get_client(
        host=clickhouse_database.host,
        port=clickhouse_database.port,
        username=clickhouse_database.user,
        password=clickhouse_database.password.get_secret_value(),
        database=clickhouse_database.database,
    )
    client.command("create table t (a Int64) engine = MergeTree order by a")
    client.command("insert into t values (1), (2)")
    assert client.query("select sum(a) from t").result_rows == [(3,)]


def test_every_server_answers_under_the_recorded_settings(servers: Settings) -> None:
    states = {status.name: (status.state, status.detail) for status in services.status(servers)}
    assert {name: states[name] for name in SERVERS} == dict.fromkeys(SERVERS, ("running", ""))
    assert set(servers.sources) == set(SOURCES)


def test_a_client_without_the_password_is_refused(servers: Settings) -> None:
    wrong = servers.source_url("chronochat").replace(servers.source_url("chronochat").split(":")[2].split("@")[0], "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    address = servers.source_url("chronochat_mongo").partition("@")[2].partition("/")[0]
    with (
        pymongo.MongoClient[dict[str, int]](f"mongodb://{address}/?directConnection=true") as client,
        pytest.raises(OperationFailure, match="authentication"),
    ):
        client["chronochat_mongo"]["c"].find_one()


def test_starting_again_changes_nothing(servers: Settings, deployment: Deployment) -> None:
    before = (deployment.settings.home / "services.json").read_text()
    again = services.start(deployment.settings, SOURCES, only=SERVERS)
    assert again.started == ()
    assert again.settings == servers
    assert (deployment.settings.home / "services.json").read_text() == before


def test_what_is_recorded_is_for_its_owner_only(servers: Settings) -> None:
    for path in (servers.home / "services.json", servers.home / "data" / "s3" / "identities.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(servers.home.stat().st_mode) == 0o700


def test_no_password_stands_on_a_command_line_or_in_dagster_yaml(servers: Settings) -> None:
    recorded = json.loads((servers.home / "services.json").read_text())["services"].values()
    passwords = {service["password"] for service in recorded}
    shown = [(servers.home / "dagster" / "dagster.yaml").read_text()]
    shown += [Path(f"/proc/{service['process']['pid']}/cmdline").read_text() for service in recorded if service["process"]]
    assert not [password for password in passwords for text in shown if password in text]


def test_the_settings_file_leads_to_the_same_settings_as_the_environment(servers: Settings, tmp_path: Path) -> None:
    script = "import json; from lakehouse.settings import *; from lakehouse.services.addresses import revealed;"
    script += "print(json.dumps(revealed(load_settings()), default=str, sort_keys=True))"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LAKEHOUSE_")}

    def loaded(**variables: str) -> object:
        return json.loads(
            subprocess.run(
                [sys.executable, "-c", script],
                env=plain | variables,
                cwd=tmp_path,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )

    elsewhere = {name: value for name, value in services.environment(servers).items() if name != "LAKEHOUSE_HOME"}
    by_file, by_environment = loaded(LAKEHOUSE_HOME=str(servers.home)), loaded(**elsewhere)
    assert isinstance(by_file, dict)
    assert isinstance(by_environment, dict)
    assert by_environment.pop("home") == ".lakehouse"
    assert by_file.pop("home") == str(servers.home)
    assert by_file == by_environment


def test_the_environment_leads_other_tools_to_the_servers(servers: Settings, tmp_path: Path) -> None:
    variables = services.environment(servers, project=tmp_path)
    script = """
import os, boto3, psycopg, pymongo, clickhouse_connect
print(psycopg.connect("").execute("select current_database()").fetchone()[0])
print(psycopg.connect(os.environ["CHRONOCHAT_URL"]).execute("select current_database()").fetchone()[0])
print(pymongo.MongoClient(os.environ["CHRONOCHAT_MONGO_URL"]).get_default_database().name)
print([bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]])
names = {"host": "HOST", "port": "PORT", "username": "USER", "password": "PASSWORD", "database": "DATABASE"}
client = clickhouse_connect.get_client(**{key: os.environ["CLICKHOUSE_" + name] for key, name in names.items()})
print(client.command("select currentDatabase()"))
"""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PG"))}
    shown = subprocess.run(
        [sys.executable, "-c", script], env=plain | variables, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert shown.stdout.split() == ["lakehouse", "chronochat", "chronochat_mongo", "['lakehouse']", "lakehouse"]
    assert variables["DBT_PROFILES_DIR"] == str(tmp_path / "dbt_project")


def test_a_source_with_an_address_of_its_own_keeps_it(servers: Settings, deployment: Deployment) -> None:
    elsewhere = SourceSettings.model_validate({"url": "postgresql://somebody@elsewhere.example/db"})
    given = deployment.settings.model_copy(update={"sources": {"chronochat": elsewhere}})
    led = services.start(given, SOURCES, only=["postgres"]).settings
    assert led.source_url("chronochat") == "postgresql://somebody@elsewhere.example/db"
    assert led.source_url("chronochat_mongo") == servers.source_url("chronochat_mongo")
    assert deployment.start(["postgres"]).source_url("chronochat") == servers.source_url("chronochat")


@pytest.mark.parametrize("sources", [{"dagster": "postgres"}, {"chronochat": "oracle"}])
def test_a_source_that_cannot_be_embedded_is_refused_by_name(sources: dict[str, str], deployment: Deployment) -> None:
    with pytest.raises(ConfigurationError, match=f"source '{next(iter(sources))}'"):
        services.start(deployment.settings, sources)


def test_a_deployment_on_servers_of_its_own_starts_none(deployment: Deployment) -> None:
    with pytest.raises(WrongUse, match="profile 'external'"):
        services.start(deployment.settings.model_copy(update={"profile": "external"}))
