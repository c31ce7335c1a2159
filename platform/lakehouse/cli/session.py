"""The deployment that a command works on."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from lakehouse import services
from lakehouse.errors import ConfigurationError
from lakehouse.pipeline.declared import declared_sources
from lakehouse.settings import Settings, current_settings, load_settings

if TYPE_CHECKING:
    from lakehouse.pipeline.deployment import Deployment


def source_kinds(settings: Settings) -> dict[str, str]:
    """Kind by name of the declared sources; none outside of a deployment's folder."""
    kinds: dict[str, str] = {}
    with suppress(ConfigurationError):
        kinds = {source.name: source.kind for source in declared_sources(settings)}
    return kinds


def deployment() -> Deployment:
    """The deployment of the working folder, with its environment set for what this process starts (dbt, Dagster)."""
    from lakehouse.pipeline.deployment import open_deployment

    settings = load_settings()
    os.environ.update(services.environment(settings))
    current_settings.cache_clear()
    return open_deployment(current_settings())
