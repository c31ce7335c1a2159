"""Settings of a deployment: the environment over `lakehouse.toml` over what `lakehouse up` recorded over defaults.

Every field is read from `LAKEHOUSE_<FIELD>`, a nested one from `LAKEHOUSE_<FIELD>__<INNER>`
(`LAKEHOUSE_SOURCES__CHRONOCHAT__URL`). Secrets are `SecretStr`: they never show in a repr, a log or an error.
"""

from __future__ import annotations

import json
import os
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from lakehouse.errors import ConfigurationError

_SHOWN = ("literal_error", "int_parsing", "bool_parsing", "greater_than_equal", "less_than_equal", "date_from_datetime_parsing")
"""Kinds of mistakes that only a field that is no secret can have, so that its value may be shown."""

SERVICES_FILE = "services.json"
"""Under `home`: what `lakehouse up` started, and the settings that lead there (mode 0600: it holds passwords)."""


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(Section):
    """Where one declared source is."""

    url: SecretStr = Field(description="Connection URL of the source: `postgresql://…` or `mongodb://…`.")
    replica_url: SecretStr | None = Field(
        None,
        description="Streaming replica of a Postgres source: rows are read there, and `url` says up to when none is missing.",
    )
    connect_seconds: float = Field(10, gt=0, description="Seconds in which the source must accept a connection.")
    answer_seconds: float = Field(
        300,
        gt=0,
        description="Seconds without an answer after which the source is given up; on Postgres beyond the declared "
        "`statement_timeout`, by which the server ends a statement itself.",
    )


class StoreSettings(Section):
    """The object store that holds raw files, lake tables and step logs."""

    url: str = Field("", description="`s3://bucket[/prefix]`, or `file:///absolute/folder`.")
    endpoint: str | None = Field(None, description="S3 endpoint, e.g. `http://127.0.0.1:9000`; empty for AWS itself.")
    region: str = Field("us-east-1", description="S3 region.")
    access_key: SecretStr | None = Field(None, description="S3 access key; empty: the usual AWS credential chain.")
    secret_key: SecretStr | None = Field(None, description="S3 secret key.")
    connect_seconds: float = Field(5, gt=0, description="Seconds in which S3 must accept a connection.")
    answer_seconds: float = Field(30, gt=0, description="Seconds that S3 may send nothing while we wait for it.")
    request_seconds: float = Field(600, gt=0, description="Seconds that one request to S3 may take, with its body.")
    retries: int = Field(
        5, ge=0, description="Times that a request to S3 is sent again: no connection, 5xx, 429 or 503 SlowDown."
    )
    retry_seconds: float = Field(60, ge=0, description="Seconds after which no request to S3 is sent again.")


class WarehouseSettings(Section):
    """The ClickHouse that tables are published to, by its HTTP interface."""

    host: str = Field("", description="Host of ClickHouse's HTTP interface.")
    port: int = Field(8123, description="Port of ClickHouse's HTTP interface.", ge=1, le=65535)
    user: str = Field("default", description="ClickHouse user.")
    password: SecretStr = Field(SecretStr(""), description="ClickHouse password.")
    database: str = Field("lakehouse", description="Database of published tables; statistics go beside it.")
    secure: bool = Field(False, description="Use HTTPS.")
    connect_seconds: float = Field(10, gt=0, description="Seconds in which ClickHouse must answer the first question.")
    answer_seconds: float = Field(900, gt=0, description="Seconds that ClickHouse may take nothing and send nothing.")


class CatalogSettings(Section):
    """The Iceberg catalog and the platform's own Postgres database."""

    url: SecretStr = Field(SecretStr(""), description="`postgresql://…` of the SQL catalog (and of Dagster's storage).")
    name: str = Field("lakehouse", description="Catalog name; every engine that shares the tables must use the same.")
    connect_seconds: float = Field(10, gt=0, description="Seconds in which the catalog's Postgres must accept a connection.")
    answer_seconds: float = Field(60, gt=0, description="Seconds that a statement on the catalog's Postgres may take.")


class DagsterSettings(Section):
    """Dagster's own storage and web server."""

    url: SecretStr = Field(SecretStr(""), description="`postgresql://…` of Dagster's run, event and schedule storage.")
    host: str = Field("127.0.0.1", description="Address that the web server listens on.")
    port: int = Field(3000, description="Port of the web server; a taken one is replaced by a free one.", ge=0, le=65535)


class SparkSettings(Section):
    """Spark, where it is the engine."""

    master: str = Field("local[*]", description="Spark's master: `local[*]`, `spark://host:7077`, `yarn`, `k8s://https://…`.")
    remote: str = Field("", description="A Spark Connect server, `sc://host:15002`, instead of a master.")
    driver_memory_mb: int = Field(1024, ge=512, description="Memory of Spark's driver, in MiB; of all of Spark, if it is local.")
    executor_memory_mb: int = Field(1024, ge=512, description="Memory of one of Spark's executors, in MiB.")
    shuffle_partitions: int | None = Field(
        None,
        ge=1,
        description="Parts of a shuffle, before small ones are merged; empty: two a thread locally, else 200.",
    )
    jars: Path | None = Field(None, description="Folder of the jars; empty: the user's cache. `lakehouse spark jars` fills it.")
    ui: bool = Field(False, description="Whether Spark's own web page listens, on port 4040.")
    conf: dict[str, str] = Field(default_factory=dict, description="Further lines of Spark's configuration, as a JSON object.")


class MaintenanceSettings(Section):
    """What `lakehouse maintain` keeps."""

    keep_days: float = Field(
        7, ge=0, description="Days for which a version of a lake table can be read after another took its place."
    )
    keep_versions: int = Field(20, ge=1, description="Newest versions of a lake table that are kept, however old they are.")


class ServicesFile(PydanticBaseSettingsSource):
    """Settings that `lakehouse up` recorded for the servers it started."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        home = Path(self.current_state.get("home") or ".lakehouse")
        path = home / SERVICES_FILE
        if not path.is_file():
            return {}
        recorded = json.loads(path.read_text())
        return dict(recorded.get("settings", {}))


class Settings(BaseSettings):
    """Everything a deployment can be told."""

    model_config = SettingsConfigDict(
        env_prefix="LAKEHOUSE_",
        env_nested_delimiter="__",
        toml_file="lakehouse.toml",
        extra="forbid",
        frozen=True,
        validate_default=False,
    )

    home: Path = Field(Path(".lakehouse"), description="Folder of embedded servers' data, logs and recorded addresses.")
    profile: Literal["embedded", "external"] = Field(
        "embedded", description="`embedded`: `lakehouse up` starts the servers; `external`: every address is given."
    )
    engine: Literal["embedded", "spark"] = Field("embedded", description="The engine that builds lake tables.")
    declarations: str = Field(
        "assets:SOURCES", description="Where the deployment declares its sources, as `module:attribute` under the working folder."
    )
    start_date: date = Field(date(2025, 1, 1), description="First daily partition of the deployment (UTC).")
    sources: dict[str, SourceSettings] = Field(default_factory=dict, description="One entry per declared source.")
    store: StoreSettings = Field(default_factory=StoreSettings, description="The object store.")
    warehouse: WarehouseSettings = Field(default_factory=WarehouseSettings, description="The warehouse.")
    catalog: CatalogSettings = Field(default_factory=CatalogSettings, description="The Iceberg catalog.")
    dagster: DagsterSettings = Field(default_factory=DagsterSettings, description="Dagster's storage and web server.")
    spark: SparkSettings = Field(default_factory=SparkSettings, description="Spark.")
    maintenance: MaintenanceSettings = Field(default_factory=MaintenanceSettings, description="What maintenance keeps.")
    privacy_key: SecretStr = Field(
        SecretStr(""), description="Key of the keyed hash that replaces columns declared `tokenise`; keep it for ever."
    )
    memory_limit_mb: int = Field(1024, ge=64, description="Memory that the embedded engine may use for one fold, in MiB.")
    longest_write_hours: int = Field(
        24,
        ge=1,
        le=240,
        description="Hours from the first file of a batch or commit to its claim. What takes longer is refused; files that "
        "nothing names are removed by `lakehouse orphans --delete` at twice that age. The same for every process.",
    )
    threads: int = Field(default_factory=lambda: os.cpu_count() or 2, ge=1, description="Threads of the embedded engine.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls), ServicesFile(settings_cls))

    @property
    def is_spark_local(self) -> bool:
        """Whether Spark, if it is the engine, runs in processes of its own on this machine."""
        return self.spark.master.startswith("local") and not self.spark.remote

    def source_url(self, name: str) -> str:
        """The URL of source `name`; ConfigurationError when it has none."""
        if name not in self.sources:
            raise ConfigurationError(
                f"connecting to source {name!r}: it has no URL",
                value=f"sources with a URL: {', '.join(sorted(self.sources)) or 'none'}",
                allowed="one URL for each declared source",
                remedy=f"Set LAKEHOUSE_SOURCES__{name.upper()}__URL, or start the embedded servers with `lakehouse up`.",
            )
        return self.sources[name].url.get_secret_value()

    def replica_url(self, name: str) -> str | None:
        """The URL of the replica that source `name` is read from; None where its rows come from `source_url`."""
        replica = self.sources[name].replica_url if name in self.sources else None
        return replica.get_secret_value() if replica else None


def load_settings(**overrides: Any) -> Settings:
    """Read the settings afresh; ConfigurationError names each field that is wrong, never its secret value."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = "LAKEHOUSE_" + "__".join(str(part).upper() for part in first["loc"])
        expected = first.get("ctx", {}).get("expected") or first["msg"].removeprefix("Input should be ")
        raise ConfigurationError(
            f"reading the setting {name}",
            value=first["input"] if first["type"] in _SHOWN else first["msg"],
            allowed=f"{expected}; see docs/settings.md" if first["type"] in _SHOWN else "see docs/settings.md",
            remedy=f"Correct {name} in the environment or the matching line of lakehouse.toml.",
        ) from None


@lru_cache(maxsize=1)
def current_settings() -> Settings:
    """The settings of this process, read once; `current_settings.cache_clear()` after they changed."""
    return load_settings()
