"""The jars beside Spark's own: one pinned list with checksums, brought once by Spark's own resolver.

No address of a registry is here: Spark's resolver (Ivy) has its own, and takes a user's mirror from `spark.jars.ivySettings` or
proxies from Java's system properties.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lakehouse.errors import ConfigurationError, DamagedData, EngineFailed

SPARK = "4.1"
COORDINATES = (
    "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.12.0",
    "org.apache.iceberg:iceberg-aws-bundle:1.12.0",
    "io.delta:delta-spark_4.1_2.13:4.4.0",
    "io.delta:delta-storage:4.4.0",
    "org.apache.hadoop:hadoop-aws:3.4.2",
    "software.amazon.awssdk:apache-client:2.54.17",
    "software.amazon.awssdk:s3-transfer-manager:2.54.17",
    "org.postgresql:postgresql:42.7.14",
)
"""Iceberg and Delta for Spark's SQL; S3A, with no more of AWS's client than it needs; Postgres for Iceberg's JDBC catalog."""

EXCLUDED = (
    "software.amazon.awssdk:bundle",
    "org.apache.hadoop:hadoop-client-api",
    "org.apache.hadoop:hadoop-client-runtime",
    "org.wildfly.openssl:wildfly-openssl",
    "org.scala-lang:scala-library",
)
"""What the above would bring along and Spark has already, or nobody needs: 640 MB of AWS clients for a start."""

PINNED = Path(__file__).with_name("jars.sha256")
"""Lines of SHA-256 and file name, as Ivy names it, one for each jar of the list; what these say they need, Spark has."""


def pinned() -> dict[str, str]:
    """SHA-256 by file name."""
    return {name: digest for digest, name in (line.split() for line in PINNED.read_text().splitlines() if line)}


def default_folder() -> Path:
    """Where the jars of this version are kept, for all deployments of a user."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "lakehouse" / f"spark-{SPARK}-jars"


def find_jars(folder: Path) -> list[Path]:
    """The jars in a folder, by their names; ConfigurationError when one is missing. `bring_jars` has checked what they hold."""
    wanted = pinned()
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise ConfigurationError(
            f"starting Spark with the jars in {folder}",
            value=f"{len(missing)} of {len(wanted)} are not there, {missing[0]} among them",
            allowed="all of the pinned jars",
            remedy="Run `lakehouse spark jars`: it brings them by Spark's own resolver.",
        )
    return [folder / name for name in wanted]


def bring_jars(folder: Path, conf: Mapping[str, str]) -> list[Path]:
    """Resolve, check and keep the jars that are not in the folder yet; conf: Spark's, for mirrors and proxies.

    Raises EngineFailed when the resolver fails, DamagedData for a jar that is not the pinned one, which is not kept.
    """
    wanted = pinned()
    if all((folder / name).is_file() and _sha256(folder / name) == digest for name, digest in wanted.items()):
        return find_jars(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ivy-", dir=folder) as ivy:
        _resolve(Path(ivy), conf)
        for name, digest in wanted.items():
            path = Path(ivy, "jars", name)
            if not path.is_file() or _sha256(path) != digest:
                raise DamagedData(
                    f"bringing {name}",
                    value="nothing of this name" if not path.is_file() else f"SHA-256 {_sha256(path)}",
                    allowed=f"SHA-256 {digest}",
                    remedy="Look at the mirror that Spark's resolver uses: it has another file under this name.",
                )
            path.rename(folder / name)
    return find_jars(folder)


_SCRIPT = """
import json, sys
from pyspark.sql import SparkSession
builder = SparkSession.builder.master("local[1]")
for key, value in json.loads(sys.argv[1]).items():
    builder = builder.config(key, value)
builder.getOrCreate().stop()
"""


def _resolve(ivy: Path, conf: Mapping[str, str]) -> None:
    told = {
        **conf,
        "spark.ui.enabled": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.jars.packages": ",".join(COORDINATES),
        "spark.jars.excludes": ",".join(EXCLUDED),
        "spark.jars.ivy": str(ivy),
    }
    ended = subprocess.run([sys.executable, "-c", _SCRIPT, json.dumps(told)], capture_output=True, text=True, check=False)
    if ended.returncode:
        said = [line for line in ended.stderr.splitlines() if "not found" in line or "Exception" in line or "Error" in line]
        raise EngineFailed(
            "resolving Spark's jars",
            value="; ".join(said[-3:]) or ended.stderr[-500:],
            allowed="a registry that has them, reached by Spark's resolver",
            remedy="Look at the network, or name a mirror (spark.jars.ivySettings in LAKEHOUSE_SPARK__CONF); then run it again.",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
