"""Fixtures over real servers, started once a session, each when it is first asked for."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lakehouse.pipeline.deployment import Deployment as Platform
from lakehouse.settings import Settings, SourceSettings, StoreSettings, WarehouseSettings
from lakehouse.stores import ObjectStore, open_store
from tests.servers import Deployment, without_lakehouse_variables
from tests.shop import CLICKS, SHOP, Shop

without_lakehouse_variables()
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
"""Dozens of short sessions of Spark: what Java compiles for a long one, on all cores, is never used."""


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    """The session's deployment, with no server running yet."""
    deployment = Deployment.make()
    try:
        yield deployment
    finally:
        deployment.end()


@pytest.fixture
def own_deployment() -> Iterator[Deployment]:
    """A deployment of one test's own, that it may break."""
    deployment = Deployment.make()
    try:
        yield deployment
    finally:
        deployment.end()


@pytest.fixture(scope="session")
def servers(deployment: Deployment) -> Settings:
    """All embedded servers up; the settings that lead to them."""
    return deployment.start()


@pytest.fixture(scope="session")
def settings(servers: Settings) -> Settings:
    """Settings that lead to running servers, with both example sources."""
    return servers


@pytest.fixture(scope="session")
def postgres(deployment: Deployment) -> Settings:
    """Postgres up."""
    return deployment.start(["postgres"])


@pytest.fixture(scope="session")
def mongodb(deployment: Deployment) -> Settings:
    """MongoDB up."""
    return deployment.start(["mongodb"])


@pytest.fixture(scope="session")
def s3(deployment: Deployment) -> Settings:
    """S3 up."""
    return deployment.start(["s3"])


@pytest.fixture(scope="session")
def clickhouse(deployment: Deployment) -> Settings:
    """ClickHouse up."""
    return deployment.start(["clickhouse"])


def fresh_name() -> str:
    """A name that no other test uses, legal in every server."""
    return f"t_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def postgres_database(postgres: Settings) -> Iterator[str]:
    """The URL of a fresh Postgres database, dropped afterwards."""
    catalog, name = postgres.catalog.url.get_secret_value(), fresh_name()
    with psycopg.connect(catalog, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    yield catalog.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(catalog, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def mongo_database(mongodb: Settings) -> Iterator[str]:
    """The URL of a fresh MongoDB database, its name in the path, dropped afterwards."""
    import pymongo

    name = fresh_name()
    url = mongodb.source_url("chronochat_mongo").replace("/chronochat_mongo?", f"/{name}?")
    yield url
    with pymongo.MongoClient[dict[str, Any]](url) as client:
        client.drop_database(name)


@pytest.fixture
def s3_store(s3: Settings) -> StoreSettings:
    """A fresh prefix on the S3 server."""
    return s3.store.model_copy(update={"url": f"{s3.store.url}/{fresh_name()}"})


@pytest.fixture(params=["folder", "s3"])
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSettings:
    """An empty place of the test's own, in a folder and in S3: the test runs over both."""
    if request.param == "folder":
        return StoreSettings(url=(tmp_path / "store").as_uri())
    settings: StoreSettings = request.getfixturevalue("s3_store")
    return settings


@pytest.fixture
def store(store_settings: StoreSettings) -> ObjectStore:
    """The store at that place."""
    return open_store(store_settings)


@pytest.fixture
def clickhouse_database(clickhouse: Settings) -> Iterator[WarehouseSettings]:
    """A fresh database on the ClickHouse server, dropped afterwards."""
    import clickhouse_connect

    warehouse, name = clickhouse.warehouse, fresh_name()
    client = clickhouse_connect.get_client(
        host=warehouse.host, port=warehouse.port, username=warehouse.user, password=warehouse.password.get_secret_value()
    )
    client.command(f"create database {name} engine = Atomic")
    yield warehouse.model_copy(update={"database": name})
    client.command(f"drop database {name} sync")
    client.close()


@pytest.fixture
def shop(
    settings: Settings,
    postgres_database: str,
    mongo_database: str,
    s3_store: StoreSettings,
    clickhouse_database: WarehouseSettings,
) -> Shop:
    """A small application with its own databases, store and warehouse; nothing was run yet."""
    sources = {"shop": SourceSettings(url=postgres_database), "clicks": SourceSettings(url=mongo_database)}
    catalog = settings.catalog.model_copy(update={"name": fresh_name()})
    own = settings.model_copy(
        update={"sources": sources, "store": s3_store, "warehouse": clickhouse_database, "catalog": catalog}
    )
    shop = Shop(postgres_database, mongo_database, Platform(own, (SHOP, CLICKS)))
    shop.open()
    return shop
