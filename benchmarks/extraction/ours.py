"""This project's extraction of a table of the benchmark: `python -m benchmarks.extraction.ours TABLE STORE [DAY]`.

From the source to Parquet and a claimed entry in the raw log, with the checksum of every row. STORE is a URL (`s3://`, `file://`).
Prints, as its last line, what `benchmarks.step` prints.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import date, timedelta

from pydantic import SecretStr

from lakehouse import Source, Table, days
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.windows import DayRange
from lakehouse.settings import SourceSettings, load_settings


def main() -> None:
    """Extract, and print what it cost."""
    name, store, *day = sys.argv[1:]
    settings = load_settings()
    settings = settings.model_copy(
        update={
            "store": settings.store.model_copy(update={"url": store}),
            "sources": {"bench": SourceSettings(url=SecretStr(os.environ["DATABASE_URL"]))},
        }
    )
    table = Table(name, "snapshot", ("id",))
    if day:
        table = Table(name, "append", ("id",), event_time="at", partition=days("at"), lookback=timedelta(0))
    source = Source("bench", "postgres", (table,))
    asked = DayRange(date.fromisoformat(day[0]), date.fromisoformat(day[0])) if day else None
    began, cpu = time.monotonic(), time.process_time()
    [result] = extract_source(Deployment(settings, [source]), source, [table], days=asked)
    if result.error is not None:
        raise result.error
    told = {"rows": result.rows, "seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
