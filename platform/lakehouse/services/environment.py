"""The environment in which dbt, psql, Dagster, Spark and the user's own tools find a deployment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lakehouse.services.addresses import led, revealed
from lakehouse.services.dagster import dagster_home
from lakehouse.services.record import Record
from lakehouse.settings import Settings

EVENTS_AT_ONCE = 1000
"""Events of one asset that Dagster stores by one statement: a run for a month materializes 30 partitions of each."""


def environment(settings: Settings, *, project: Path | None = None) -> dict[str, str]:
    """Variables for child processes; they hold passwords.

    `LAKEHOUSE_*` is the full set of settings, so that no file is needed; beside it the names that other tools read.
    project: the folder with `dbt_project/`; by default the current one.
    """
    record = Record(settings.home.resolve())
    settings = led(settings, record)
    folder = (project or Path.cwd()).resolve()
    return {
        **_own(settings),
        "DAGSTER_HOME": str(dagster_home(settings)),
        "DAGSTER_EVENT_BATCH_SIZE": str(EVENTS_AT_ONCE),
        "DBT_PROFILES_DIR": str(folder / "dbt_project"),
        **_aws(settings),
        **_postgres(settings),
        **_clickhouse(settings),
        **{f"{name.upper()}_URL": source.url.get_secret_value() for name, source in sorted(settings.sources.items())},
    }


def _own(settings: Settings) -> dict[str, str]:
    content = revealed(settings)
    content["home"] = settings.home.resolve()
    return dict(sorted(_flat("LAKEHOUSE", content).items()))


def _flat(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, dict):
        flat: dict[str, str] = {}
        for key, inner in value.items():
            flat |= _flat(f"{name}{'_' if name == 'LAKEHOUSE' else '__'}{key.upper()}", inner)
        return flat
    if value is None or value == "":
        return {}
    return {name: json.dumps(value) if isinstance(value, bool | list) else str(value)}


def _aws(settings: Settings) -> dict[str, str]:
    store = settings.store
    values = {
        "AWS_ACCESS_KEY_ID": store.access_key.get_secret_value() if store.access_key else "",
        "AWS_SECRET_ACCESS_KEY": store.secret_key.get_secret_value() if store.secret_key else "",
        "AWS_ENDPOINT_URL": store.endpoint or "",
        "AWS_DEFAULT_REGION": store.region,
    }
    return {name: value for name, value in values.items() if value}


def _postgres(settings: Settings) -> dict[str, str]:
    """libpq's variables for the platform's own database."""
    url = settings.catalog.url.get_secret_value()
    if not url:
        return {}
    parts = urlsplit(url)
    values = {
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ""),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": parts.path.lstrip("/"),
    }
    return {name: value for name, value in values.items() if value}


def _clickhouse(settings: Settings) -> dict[str, str]:
    warehouse = settings.warehouse
    if not warehouse.host:
        return {}
    return {
        "CLICKHOUSE_HOST": warehouse.host,
        "CLICKHOUSE_PORT": str(warehouse.port),
        "CLICKHOUSE_USER": warehouse.user,
        "CLICKHOUSE_PASSWORD": warehouse.password.get_secret_value(),
        "CLICKHOUSE_DATABASE": warehouse.database,
    }
