"""Spark's session: its configuration, each line with its reason, and the one session that a process shares."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lakehouse.errors import ConfigurationError, EngineFailed
from lakehouse.settings import Settings
from lakehouse.tables.spark.classes import OPTIONS, archive_options, class_path, find_archive
from lakehouse.tables.spark.jars import default_folder, find_jars
from lakehouse.tables.spark.java import check_java

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOGGING = Path(__file__).with_name("log4j2.properties")


@dataclass(frozen=True)
class Line:
    """One line of Spark's configuration. static: only before the session starts, so that a Connect server has its own."""

    key: str
    value: str
    reason: str
    static: bool = False

    @property
    def is_secret(self) -> bool:
        """Whether the value must not be shown."""
        return self.key.endswith((".secret.key", ".access.key", ".secret-access-key", ".access-key-id", ".password"))


def configuration(settings: Settings) -> list[Line]:
    """All lines but those of LAKEHOUSE_SPARK__CONF, which come last and win."""
    return [*_resources(settings), *_work(), *_catalogs(settings), *_store(settings)]


def _resources(settings: Settings) -> Iterator[Line]:
    spark = settings.spark
    yield Line("spark.app.name", "lakehouse", "what the cluster's pages call it", static=True)
    yield Line("spark.driver.memory", f"{spark.driver_memory_mb}m", "the driver plans and commits; rows stay away from it", True)
    yield Line("spark.executor.memory", f"{spark.executor_memory_mb}m", "bounds what one executor holds; the rest spills", True)
    yield Line("spark.driver.maxResultSize", "256m", "a step returns a line for each file, never rows")
    yield Line("spark.ui.enabled", str(spark.ui).lower(), "a page that nobody asked for would listen on a port", True)
    yield Line("spark.ui.showConsoleProgress", "false", "progress is the platform's to print", True)
    quiet = f"-Dlog4j2.configurationFile={LOGGING.as_uri()}"
    yield Line(OPTIONS, quiet, "warnings of the JVM would bury the platform's lines", True)
    parts = spark.shuffle_partitions or (2 * settings.threads if settings.is_spark_local else 200)
    yield Line("spark.sql.shuffle.partitions", str(parts), "before they are merged to a size that is worth it")
    if settings.is_spark_local:
        yield Line("spark.driver.host", "127.0.0.1", "servers listen on loopback", True)
        yield Line("spark.driver.bindAddress", "127.0.0.1", "servers listen on loopback", True)


def _work() -> Iterator[Line]:
    yield Line("spark.sql.session.timeZone", "UTC", "a day is a UTC day")
    yield Line("spark.sql.caseSensitive", "true", "Postgres tells columns `name` and `Name` apart")
    yield Line("spark.sql.ansi.enabled", "true", "a value that a type cannot hold stops the fold and does not become null")
    for side in ("parquet.datetimeRebaseModeInRead", "parquet.int96RebaseModeInRead"):
        yield Line(f"spark.sql.{side}", "CORRECTED", "days before 1582 are those of the proleptic Gregorian calendar everywhere")
    yield Line("spark.sql.adaptive.enabled", "true", "splits skewed partitions, merges small ones")
    yield Line("spark.sql.adaptive.advisoryPartitionSizeInBytes", "134217728", "about the size of a data file")
    yield Line("spark.sql.execution.arrow.maxRecordsPerBatch", "65536", "rows that a Python worker takes at once")
    yield Line("spark.sql.execution.arrow.maxBytesPerBatch", "33554432", "and bytes, where rows are wide")
    yield Line("spark.sql.files.ignoreMissingFiles", "false", "a file that is gone must stop the fold")
    yield Line("spark.sql.files.ignoreCorruptFiles", "false", "so must a damaged one")
    daemon = "lakehouse.tables.spark.daemon"
    yield Line("spark.python.daemon.module", daemon, "workers are forked from a process that has imported what they need", True)
    yield Line("spark.speculation", "false", "the same files would be written twice", True)
    yield Line("spark.databricks.delta.snapshotPartitions", "2", "the state of a table of this size fits into two")
    yield Line("spark.sql.sources.parallelPartitionDiscovery.parallelism", "4", "listing starts no 10,000 tasks")


def _catalogs(settings: Settings) -> Iterator[Line]:
    extensions = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions,io.delta.sql.DeltaSparkSessionExtension"
    yield Line("spark.sql.extensions", extensions, "MERGE and CALL on Iceberg and Delta tables", True)
    delta = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
    yield Line("spark.sql.catalog.spark_catalog", delta, "Delta tables by path; the name is Delta's wish", True)
    url = urlsplit(settings.catalog.url.get_secret_value())
    if url.scheme not in ("postgresql", "postgres"):
        return
    name = f"spark.sql.catalog.{settings.catalog.name}"
    yield Line(name, "org.apache.iceberg.spark.SparkCatalog", "the lake's tables as `catalog.source.table`")
    yield Line(f"{name}.type", "jdbc", "the catalog that pyiceberg keeps in Postgres")
    yield Line(f"{name}.uri", f"jdbc:postgresql://{url.hostname}:{url.port or 5432}{url.path}", "where it is")
    if url.username:
        yield Line(f"{name}.jdbc.user", url.username, "its user")
        yield Line(f"{name}.jdbc.password", url.password or "", "and password")
    yield Line(f"{name}.jdbc.schema-version", "V1", "as pyiceberg's tables are")
    yield Line(f"{name}.warehouse", f"{settings.store.url}/lake", "where new tables would go")
    yield Line(f"{name}.cache-enabled", "false", "or Spark keeps reading the snapshot before another engine's commit")
    if settings.store.url.startswith("s3://"):
        yield Line(f"{name}.io-impl", "org.apache.iceberg.aws.s3.S3FileIO", "addresses are s3://, as pyiceberg writes them")
        yield Line(f"{name}.s3.path-style-access", "true", "stores other than AWS have no host for a bucket")
        yield Line(f"{name}.client.region", settings.store.region, "AWS's client insists on one")
        if settings.store.endpoint:
            yield Line(f"{name}.s3.endpoint", settings.store.endpoint, "the store")
        if settings.store.access_key and settings.store.secret_key:
            yield Line(f"{name}.s3.access-key-id", settings.store.access_key.get_secret_value(), "its key")
            yield Line(f"{name}.s3.secret-access-key", settings.store.secret_key.get_secret_value(), "and secret")


def _store(settings: Settings) -> Iterator[Line]:
    store = settings.store
    if not store.url.startswith("s3://"):
        return
    s3a = "spark.hadoop.fs.s3a"
    yield Line("spark.hadoop.fs.s3.impl", "org.apache.hadoop.fs.s3a.S3AFileSystem", "s3:// is the same store as s3a://", True)
    yield Line(f"{s3a}.path.style.access", "true", "stores other than AWS have no host for a bucket", True)
    yield Line(f"{s3a}.endpoint.region", store.region, "AWS's client insists on one", True)
    yield Line(
        f"{s3a}.connection.establish.timeout", f"{int(store.connect_seconds * 1000)}ms", "as the platform's own client", True
    )
    yield Line(f"{s3a}.connection.timeout", f"{int(store.answer_seconds * 1000)}ms", "as the platform's own client", True)
    yield Line(f"{s3a}.attempts.maximum", str(store.retries), "as the platform's own client", True)
    if store.endpoint:
        yield Line(f"{s3a}.endpoint", store.endpoint, "the store", True)
        yield Line(
            f"{s3a}.connection.ssl.enabled", str(store.endpoint.startswith("https://")).lower(), "as its address says", True
        )
    if store.access_key and store.secret_key:
        yield Line(f"{s3a}.access.key", store.access_key.get_secret_value(), "its key", True)
        yield Line(f"{s3a}.secret.key", store.secret_key.get_secret_value(), "and secret", True)
        provider = "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider"
        yield Line(f"{s3a}.aws.credentials.provider", provider, "no other key is looked for", True)


def server_properties(settings: Settings) -> dict[str, str]:
    """What a Connect server is started with: the lines that a session cannot bring, and the jars. The store's keys are in it.

    How it logs is its own matter. Raises ConfigurationError when a jar is missing.
    """
    told = {line.key: line.value for line in configuration(settings) if line.static and line.key != OPTIONS}
    told["spark.jars"] = ",".join(map(str, find_jars(settings.spark.jars or default_folder())))
    return told | settings.spark.conf


_lock = threading.Lock()


def open_session(settings: Settings) -> SparkSession:
    """The session of this process, started when it is first asked for.

    Raises ConfigurationError for a missing Java, jar or package, EngineFailed when Spark does not start or cannot be reached.
    """
    try:
        from pyspark.sql import SparkSession
    except ModuleNotFoundError:
        raise ConfigurationError(
            "starting Spark",
            value="the package pyspark is not installed",
            allowed="pyspark, in the version of the lock file",
            remedy="Install lakehouse[spark], or run `make run ENGINE=spark`.",
        ) from None
    with _lock:
        lines = configuration(settings)
        builder = SparkSession.builder
        if settings.spark.remote:
            builder = builder.remote(settings.spark.remote)
            told = {line.key: line.value for line in lines if not line.static}
        else:
            java = check_java()
            jars = find_jars(settings.spark.jars or default_folder())
            builder = builder.master(settings.spark.master.replace("[*]", f"[{settings.threads}]"))
            told = {line.key: line.value for line in lines}
            if settings.is_spark_local:
                told["spark.driver.extraClassPath"] = class_path(jars)
                told[OPTIONS] += " " + archive_options(find_archive(java, jars))
                os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
            else:
                told["spark.jars"] = ",".join(map(str, jars))
            os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
            os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
        for key, value in (told | settings.spark.conf).items():
            builder = builder.config(key, value)
        try:
            session = builder.getOrCreate()
        except Exception as error:  # py4j, gRPC and the launcher have no class of error in common
            where = settings.spark.remote or settings.spark.master
            raise EngineFailed(
                f"starting Spark on {where}",
                value=str(error).strip().partition("\n")[0][:500],
                allowed="a Spark that starts, or a server that answers",
                remedy="Look at the lines that Spark printed, and at LAKEHOUSE_SPARK__MASTER or LAKEHOUSE_SPARK__REMOTE.",
            ) from error
        atexit.register(session.stop)
        return session
