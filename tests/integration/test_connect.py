"""The lines that `lakehouse connect` prints, executed by the tools that they are for, and what these find; Trino is not here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import clickhouse_connect
import duckdb
import pytest

from lakehouse.errors import Unsupported
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.connect import TOOLS, lines_for
from lakehouse.pipeline.deployment import Deployment
from lakehouse.rows.duck import load_extension
from lakehouse.settings import StoreSettings
from lakehouse.tables.spark.jars import default_folder, find_jars
from tests.crash.matrix import both_formats
from tests.shop import FIRST, Shop

TABLES = ("shop.orders", "shop_delta.orders", "shop.prices")
SUM = "select count(*) as n, cast(sum(amount) as varchar) as amount from"


@pytest.fixture
def built(shop: Shop) -> Shop:
    """Tables of both formats with two versions, and some that were never built."""
    shop.deployment = both_formats(shop.deployment)
    for first in (900, 910):
        shop.order(first, 3, FIRST + timedelta(days=2, hours=4))
        shop.extract()
        for name in TABLES:
            apply_table(shop.deployment, *shop.deployment.select([name])[0])
    return shop


def expected(shop: Shop) -> list[tuple[int, str]]:
    """Rows and sum of the orders of each format, by the platform's own reading."""
    found = []
    for name in TABLES[:2]:
        source, table = shop.deployment.select([name])[0]
        batches = list(shop.deployment.lake.scan(source.name, table, columns=["amount"]))
        values = [value.as_py() for batch in batches for value in batch.column("amount")]
        found.append((len(values), str(sum(values))))
    assert found[0] == found[1]
    return found


def test_duckdb_finds_the_tables(built: Shop) -> None:
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
        for line in lines_for("duckdb", built.deployment):
            if line.startswith("load "):
                load_extension(connection, line.removeprefix("load ").rstrip(";"))
            elif not line.startswith(("install ", "--")):
                connection.execute(line)
        assert [connection.execute(f"{SUM} {name}").fetchone() for name in TABLES[:2]] == expected(built)
        assert connection.execute("select count(*) from shop.prices").fetchone() == (2,)
        named = connection.execute("select distinct schema_name || '.' || view_name from duckdb_views() where not internal")
        assert {name for (name,) in named.fetchall()} == set(TABLES)


@pytest.fixture
def clickhouse_client(built: Shop) -> Iterator[Any]:
    warehouse = built.deployment.settings.warehouse
    client = clickhouse_connect.get_client(
        host=warehouse.host,
        port=warehouse.port,
        username=warehouse.user,
        password=warehouse.password.get_secret_value(),
    )
    yield client
    for database in ("shop", "shop_delta"):
        client.command(f"drop database if exists {database}")
    client.close()


def test_clickhouse_finds_the_tables(built: Shop, clickhouse_client: Any) -> None:
    for line in lines_for("clickhouse", built.deployment):
        if not line.startswith("--"):
            clickhouse_client.command(line.rstrip(";"))
    found = [clickhouse_client.query(f"select count(), toString(sum(amount)) from {name}").result_rows[0] for name in TABLES[:2]]
    assert [(n, float(amount)) for n, amount in found] == [(n, float(amount)) for n, amount in expected(built)]


def test_clickhouse_is_told_that_it_cannot_reach_a_folder(built: Shop) -> None:
    settings = built.deployment.settings.model_copy(update={"store": StoreSettings(url="file:///somewhere")})
    with pytest.raises(Unsupported, match="file:///somewhere"):
        lines_for("clickhouse", Deployment(settings, built.deployment.sources))


def test_python_finds_the_tables(built: Shop) -> None:
    names: dict[str, Any] = {}
    exec("\n".join(lines_for("python", built.deployment)), names)
    for name, (count, total) in zip(TABLES[:2], expected(built), strict=True):
        found = names[name.replace(".", "__")]()
        assert (found.num_rows, str(sum(found.column("amount").to_pylist()))) == (count, total)


def test_spark_finds_the_tables(built: Shop) -> None:
    """In a process of its own: a session that another test has started would have that test's catalog."""
    lines = lines_for("spark", built.deployment)
    told = dict(line.split(" ", 1) for line in lines if not line.startswith(("#", "spark.jars.")))
    told["spark.driver.extraClassPath"] = ":".join(map(str, find_jars(default_folder())))
    queries = [line.removeprefix("# select * from ") for line in lines if line.startswith("# select")]
    assert any("orders" in query and query.startswith("delta.") for query in queries)
    program = f"""
import json
from pyspark.sql import SparkSession
builder = SparkSession.builder.master("local[2]")
for name, value in {told!r}.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
orders = [name for name in {queries!r} if "orders" in name]
print(json.dumps([list(spark.sql("select count(*), cast(sum(amount) as string) from " + name).first()) for name in orders]))
spark.stop()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert [tuple(row) for row in json.loads(ended.stdout.splitlines()[-1])] == expected(built)


def test_trino_is_told_the_catalog_and_the_store(built: Shop) -> None:
    lines = lines_for("trino", built.deployment)
    told = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    settings = built.deployment.settings
    assert told["iceberg.jdbc-catalog.catalog-name"] == settings.catalog.name
    assert told["iceberg.jdbc-catalog.default-warehouse-dir"] == f"{settings.store.url}/lake"
    assert told["s3.endpoint"] == settings.store.endpoint
    assert any("register_table" in line and "shop_delta" in line for line in lines)
    assert set(TOOLS) == {"duckdb", "clickhouse", "python", "spark", "trino"}
