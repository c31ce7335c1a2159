"""The deployment that a command works on."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from lakehouse import services
from lakehouse.cli.pandas import hide_pandas
from lakehouse.errors import ConfigurationError, ServiceFailed, WrongUse
from lakehouse.imports import for_good
from lakehouse.pipeline.declared import declared_sources
from lakehouse.settings import SERVICES_FILE, Settings, current_settings, load_settings

if TYPE_CHECKING:
    from lakehouse.pipeline.deployment import Deployment
    from lakehouse.spec import Source, Table


def source_kinds(settings: Settings) -> dict[str, str]:
    """Kind by name of the declared sources."""
    return {source.name: source.kind for source in declared_sources(settings)}


def stopped_servers(settings: Settings) -> tuple[str, ...]:
    """Embedded servers that the deployment needs and that do not run."""
    return services.not_running(settings, source_kinds(settings))


def running_settings() -> Settings:
    """The settings; ServiceFailed, before any work, when an embedded server that the deployment needs is not running."""
    settings = load_settings()
    stopped = stopped_servers(settings)
    if stopped:
        raise ServiceFailed(
            f"using the deployment in {settings.home.resolve()}",
            value=f"not running: {', '.join(stopped)}",
            allowed="all of its embedded servers up",
            remedy="Start them with `lakehouse up`; it keeps the data.",
        )
    return settings


def deployment() -> Deployment:
    """The deployment of the working folder, with its environment set for what this process starts (dbt, Dagster)."""
    with for_good():
        hide_pandas()
        from lakehouse.pipeline.deployment import open_deployment

    settings = running_settings()
    # What this client logs as an error is also raised, and said in our words.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    values = services.environment(settings)
    if settings.profile == "external" and "DAGSTER_HOME" in os.environ:
        del values["DAGSTER_HOME"]  # such a deployment has an instance of its own
    os.environ.update(values)
    current_settings.cache_clear()
    return open_deployment(current_settings())


def recorded_settings() -> Settings:
    """The settings of a deployment that was started here before, or whose addresses are all given."""
    settings = load_settings()
    if settings.profile == "embedded" and not (settings.home / SERVICES_FILE).is_file():
        raise ConfigurationError(
            "looking for a deployment",
            value=f"{settings.home.resolve()} holds no {SERVICES_FILE}",
            allowed="a folder in which `lakehouse up` was called, or LAKEHOUSE_HOME leading to its .lakehouse",
            remedy="Go to the deployment's folder, or start one with `lakehouse up`.",
        )
    return settings


def one_table(here: Deployment, tried: str, table: str) -> tuple[Source, Table]:
    """The one table that a name stands for; WrongUse when it stands for several."""
    chosen = here.select([table])
    if len(chosen) != 1:
        raise WrongUse(tried, value=table, allowed="one table, as source.table", remedy="Name the table.")
    return chosen[0]
