"""What Spark starts on each executor to fork its Python workers from: they have then imported what they need."""

from __future__ import annotations

import pyarrow.parquet  # noqa: F401
from pyspark.daemon import manager

import lakehouse.tables.spark.frames
import lakehouse.tables.spark.work  # noqa: F401

if __name__ == "__main__":
    manager()  # type: ignore[no-untyped-call]
