"""Fixtures of the whole path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lakehouse.pipeline.deployment import Deployment
from lakehouse.settings import Settings, SourceSettings, StoreSettings, WarehouseSettings
from tests.conftest import fresh_name
from tests.deployments import Project, demo_project
from tests.shop import CLICKS, SHOP, Shop


@pytest.fixture
def shop(
    settings: Settings,
    postgres_database: str,
    mongo_database: str,
    s3_store: StoreSettings,
    clickhouse_database: WarehouseSettings,
) -> Shop:
    sources = {"shop": SourceSettings(url=postgres_database), "clicks": SourceSettings(url=mongo_database)}
    catalog = settings.catalog.model_copy(update={"name": fresh_name()})
    own = settings.model_copy(
        update={"sources": sources, "store": s3_store, "warehouse": clickhouse_database, "catalog": catalog}
    )
    shop = Shop(postgres_database, mongo_database, Deployment(own, (SHOP, CLICKS)))
    shop.open()
    return shop


@pytest.fixture(scope="session")
def demo() -> Iterator[Project]:
    """A project with a small demo, run once; whoever changes it leaves it with every copy equal."""
    with demo_project() as project:
        yield project
