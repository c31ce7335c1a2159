"""Processes of the crash tests: forked from one server that has imported what they need, so that each starts in no time."""

from __future__ import annotations

import multiprocessing

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "tests.crash.passage",
        "tests.crash.workers",
        "lakehouse.tables.embedded.engine",
        "lakehouse.tables.iceberg.tables",
        "lakehouse.warehouse.clickhouse",
        "psycopg2",
        "pytest",
        "tests.lakes",
    ]
)
