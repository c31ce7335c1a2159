"""Deployments in the states that recovery and care start from."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from lakehouse.pipeline import maintain, orphans
from lakehouse.pipeline.deployment import Deployment
from lakehouse.settings import MaintenanceSettings, StoreSettings
from lakehouse.tables.delta import tables as delta_tables
from tests.crash.matrix import both_formats
from tests.shop import Shop


@pytest.fixture
def old_shop(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The shop in both formats on a store in a folder, where everything is older than any writer, and one version is kept."""
    settings = shop.deployment.settings.model_copy(
        update={
            "store": StoreSettings(url=(tmp_path / "store").as_uri()),
            "home": tmp_path / "home",
            "maintenance": MaintenanceSettings(keep_days=0, keep_versions=1),
        }
    )
    shop.deployment = both_formats(Deployment(settings, shop.deployment.sources))
    for module in (maintain, orphans):
        monkeypatch.setattr(module, "oldest_writer", lambda deployment: timedelta(microseconds=-1))
    monkeypatch.setattr(delta_tables, "CHECKPOINT_EVERY", 3)
    return shop
