"""Spark's classes, parsed and proven once: an archive that Java maps into memory instead (JEP 350, class-data sharing).

A start of Spark and its first plans load some 20,000 classes, which is most of what a small fold takes. Java itself proves that
an archive is of the same Java and class path, and does without where it is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lakehouse.tables.spark.java import check_java

OPTIONS = "spark.driver.extraJavaOptions"
_QUIET = "-Xlog:cds=off -Xlog:cds+dynamic=off"


def class_path(jars: Sequence[Path]) -> str:
    """What comes after Spark's own jars; an archive is of exactly one class path."""
    return os.pathsep.join(map(str, jars))


def find_archive(java: Path, jars: Sequence[Path]) -> Path | None:
    """The archive of a Java and of an installed Spark, which is kept beside the jars.

    Its name tells its size: Java dies of a file that was cut off.
    """
    found = jars[0].parent.glob(f"classes-{class_path_key(java, jars)}-*.jsa")
    return next((path for path in found if path.stem.endswith(f"-{path.stat().st_size}")), None)


def archive_options(archive: Path | None) -> str:
    """What makes Java use the archive."""
    return f'"-XX:SharedArchiveFile={archive}" -Xshare:auto {_QUIET}' if archive else ""


def make_archive(jars: Sequence[Path]) -> Path | None:
    """Make the archive, if it is not there yet: fold a table of a few rows in a process of its own, and keep what that loaded.

    None when Java made none; everything works without.
    """
    java = check_java()
    if found := find_archive(java, jars):
        return found
    parent = jars[0].parent
    with tempfile.TemporaryDirectory(prefix="classes-", dir=parent) as folder:
        made = Path(folder) / "made.jsa"
        options = f'"-XX:ArchiveClassesAtExit={made}" {_QUIET}'
        program = [sys.executable, "-m", "lakehouse.pipeline.spark_classes", folder, str(parent), options]
        subprocess.run(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        if made.is_file():
            made.replace(parent / f"classes-{class_path_key(java, jars)}-{made.stat().st_size}.jsa")
    return find_archive(java, jars)


def class_path_key(java: Path, jars: Sequence[Path]) -> str:
    """What tells one Java, Spark and class path from another."""
    import pyspark

    told = [str(java.resolve()), java.resolve().stat().st_mtime_ns, str(Path(pyspark.__file__).parent), class_path(jars)]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
