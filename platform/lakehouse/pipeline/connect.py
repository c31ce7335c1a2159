"""What another tool has to be told to find the lake's tables under the names that they have here, as lines to paste.

The lines hold the store's and the catalog's passwords, as `lakehouse env` does. DuckDB and ClickHouse do not ask the catalog:
they are led to an Iceberg table's metadata as it stands now, never to the newest file of its folder, which may be that of an
attempt that died.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import unquote, urlsplit

from lakehouse.errors import Unsupported
from lakehouse.pipeline.deployment import Deployment
from lakehouse.rows.duck import literal, quoted
from lakehouse.settings import Settings
from lakehouse.spec import Source, Table

_AGAIN = "Iceberg tables are shown as they stand now: print these lines again after a run."


def lines_for(tool: str, deployment: Deployment) -> list[str]:
    """The lines for one of `TOOLS`. Raises Unsupported for a tool that cannot reach the deployment's store."""
    return list(TOOLS[tool](deployment))


def _built(deployment: Deployment) -> Iterator[tuple[Source, Table, str]]:
    """The tables that were built, each with the address of what it is made of."""
    for source, table in deployment.select():
        address = deployment.lake.address(source.name, table)
        if address is not None:
            yield source, table, address


def _duckdb(deployment: Deployment) -> Iterator[str]:
    store = deployment.settings.store
    yield f"-- {_AGAIN}"
    for extension in ("httpfs", "avro", "iceberg", "delta"):
        yield f"install {extension};"
        yield f"load {extension};"
    if _is_s3(deployment.settings):
        options = {"type": "s3", "region": literal(store.region), "url_style": "'path'"}
        if store.endpoint:
            place = urlsplit(store.endpoint)
            options |= {"endpoint": literal(place.netloc), "use_ssl": str(place.scheme == "https").lower()}
        if keys := _keys(deployment.settings):
            options |= {"key_id": literal(keys[0]), "secret": literal(keys[1])}
        else:
            options["provider"] = "credential_chain"
        told = ", ".join(f"{name} {value}" for name, value in options.items())
        yield f"create or replace secret lakehouse ({told});"
    for source, table, address in _built(deployment):
        yield f"create schema if not exists {quoted(source.name)};"
        scan = f"{table.format}_scan({literal(_local(address))})"
        yield f"create or replace view {quoted(source.name)}.{quoted(table.name)} as from {scan};"


def _clickhouse(deployment: Deployment) -> Iterator[str]:
    settings = deployment.settings
    if not _is_s3(settings):
        raise Unsupported(
            "leading ClickHouse to the lake",
            value=settings.store.url,
            allowed="a store by the S3 protocol: ClickHouse reads only its own folder of files",
            remedy="Query the published tables, or keep the lake on S3.",
        )
    yield f"-- {_AGAIN}"
    keys = "".join(f", {literal(key)}" for key in _keys(settings) or ())
    for source, table, address in _built(deployment):
        name = f"`{source.name}`.`{table.name}`"
        yield f"create database if not exists `{source.name}`;"
        root, _, file = address.partition("/metadata/")
        url = literal(_over_http(settings, root) + "/")
        if table.format == "iceberg":
            pinned = f"iceberg_metadata_file_path = {literal(f'metadata/{file}')}"
            yield f"create or replace table {name} engine = IcebergS3({url}{keys}) settings {pinned};"
        else:
            yield f"create or replace table {name} engine = DeltaLake({url}{keys});"


def _python(deployment: Deployment) -> Iterator[str]:
    settings = deployment.settings
    store, formats = settings.store, {table.format for _, table, _ in _built(deployment)}
    keys = _keys(settings)
    if "iceberg" in formats:
        options = {
            "type": "sql",
            "uri": settings.catalog.url.get_secret_value().replace("postgresql://", "postgresql+psycopg://", 1),
            "warehouse": f"{store.url}/lake",
        }
        if _is_s3(settings):
            options |= {"s3.region": store.region}
            options |= {"s3.endpoint": store.endpoint} if store.endpoint else {}
            options |= {"s3.access-key-id": keys[0], "s3.secret-access-key": keys[1]} if keys else {}
        yield "from pyiceberg.catalog import load_catalog"
        yield f"catalog = load_catalog({settings.catalog.name!r}, **{options!r})"
    if "delta" in formats:
        told = {}
        if _is_s3(settings):
            told = {"AWS_REGION": store.region, "AWS_ALLOW_HTTP": "true", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false"}
            told |= {"AWS_ENDPOINT_URL": store.endpoint} if store.endpoint else {}
            told |= {"AWS_ACCESS_KEY_ID": keys[0], "AWS_SECRET_ACCESS_KEY": keys[1]} if keys else {}
        yield "from deltalake import DeltaTable"
        yield f"storage = {told!r}"
    for source, table, address in _built(deployment):
        if table.format == "iceberg":
            loaded = f"catalog.load_table({f'{source.name}.{table.name}'!r}).scan().to_arrow()"
        else:
            loaded = f"DeltaTable({_local(address)!r}, storage_options=storage).to_pyarrow_table()"
        yield f"{source.name}__{table.name} = lambda: {loaded}"


def _spark(deployment: Deployment) -> Iterator[str]:
    from lakehouse.tables.spark.jars import COORDINATES, EXCLUDED
    from lakehouse.tables.spark.session import configuration

    yield "# lines of spark-defaults.conf, or --conf for spark-sql, spark-shell and spark-submit"
    yield f"spark.jars.packages {','.join(COORDINATES)}"
    yield f"spark.jars.excludes {','.join(EXCLUDED)}"
    named = ("spark.sql.", "spark.hadoop.")
    for line in configuration(deployment.settings):
        if line.key.startswith(named) and not line.key.startswith(("spark.sql.shuffle", "spark.sql.adaptive")):
            yield f"{line.key} {line.value}"
    for source, table, address in _built(deployment):
        if table.format == "iceberg":
            yield f"# select * from {deployment.settings.catalog.name}.{source.name}.{table.name}"
        else:
            yield f"# select * from delta.`{address}`"


def _trino(deployment: Deployment) -> Iterator[str]:
    settings = deployment.settings
    url = urlsplit(settings.catalog.url.get_secret_value())
    yield f"# etc/catalog/{settings.catalog.name}.properties; Postgres's driver is to be in the connector's folder"
    yield "connector.name=iceberg"
    yield "iceberg.catalog.type=jdbc"
    jdbc = {
        "catalog-name": settings.catalog.name,
        "driver-class": "org.postgresql.Driver",
        "connection-url": f"jdbc:postgresql://{url.hostname}:{url.port or 5432}{url.path}",
        "connection-user": unquote(url.username or ""),
        "connection-password": unquote(url.password or ""),
        "default-warehouse-dir": f"{settings.store.url}/lake",
        "schema-version": "V1",
    }
    for name, value in jdbc.items():
        yield f"iceberg.jdbc-catalog.{name}={value}"
    if _is_s3(settings):
        yield "fs.native-s3.enabled=true"
        yield f"s3.region={settings.store.region}"
        yield "s3.path-style-access=true"
        if settings.store.endpoint:
            yield f"s3.endpoint={settings.store.endpoint}"
        if keys := _keys(settings):
            yield f"s3.aws-access-key={keys[0]}"
            yield f"s3.aws-secret-key={keys[1]}"
    for source, table, address in _built(deployment):
        if table.format == "delta":
            told = {"schema_name": source.name, "table_name": table.name, "table_location": address}
            arguments = ", ".join(f"{name} => {literal(value)}" for name, value in told.items())
            yield f"# with a catalog of connector.name=delta_lake: call system.register_table({arguments})"


TOOLS: dict[str, Callable[[Deployment], Iterator[str]]] = {
    "duckdb": _duckdb,
    "clickhouse": _clickhouse,
    "python": _python,
    "spark": _spark,
    "trino": _trino,
}


def _is_s3(settings: Settings) -> bool:
    return settings.store.url.startswith("s3://")


def _keys(settings: Settings) -> tuple[str, str] | None:
    """The store's key and secret; None where the usual chain of credentials gives them."""
    store = settings.store
    if store.access_key is None or store.secret_key is None:
        return None
    return store.access_key.get_secret_value(), store.secret_key.get_secret_value()


def _local(address: str) -> str:
    """An address as tools want it: a folder's as a plain path."""
    return unquote(urlsplit(address).path) if address.startswith("file://") else address


def _over_http(settings: Settings, address: str) -> str:
    """The address of an object of S3 as a URL."""
    bucket, _, path = address.removeprefix("s3://").partition("/")
    endpoint = settings.store.endpoint or f"https://s3.{settings.store.region}.amazonaws.com"
    return f"{endpoint.rstrip('/')}/{bucket}/{path}"
