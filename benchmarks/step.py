"""One hop of the path, in the process that runs it: `python -m benchmarks.step HOP [TABLE...]`.

Prints, as its last line, `{"rows": n, "seconds": s, "cpu_seconds": c}`: what the hop moved, and its time without the start of the
interpreter. Its memory is the process's, so whoever started it measures that.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import time
from collections.abc import Callable, Sequence

from lakehouse.cli.session import deployment
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.statistics import stale_statistics
from lakehouse.pipeline.verify import verify_source_tables
from lakehouse.pipeline.verify_copies import plain_schema
from lakehouse.pipeline.windows import DayRange
from lakehouse.rows.checksum import partition_checksums, total
from lakehouse.rows.digest import row_digests
from lakehouse.settings import Settings
from lakehouse.spec import RowChecksum, Source, Table

Chosen = Sequence[tuple[Source, Table]]


def extract(here: Deployment, chosen: Chosen) -> int:
    """Land what is new; the first table that cannot be read raises."""
    rows = 0
    for source in here.sources:
        tables = [table for of, table in chosen if of.name == source.name]
        for result in extract_source(here, source, tables) if tables else []:
            if result.error is not None:
                raise result.error
            rows += result.rows
    return rows


def apply(here: Deployment, chosen: Chosen) -> int:
    """Fold what was landed into the lake tables."""
    found = [apply_table(here, source, table) for source, table in chosen]
    return sum(applied.rows_written for applied in found if applied is not None)


def publish(here: Deployment, chosen: Chosen) -> int:
    """Copy what changed to the warehouse."""
    found = [publish_table(here, source, table) for source, table in chosen]
    return sum(publication.published.rows for publication in found if publication is not None and publication.changed)


def stale(here: Deployment, chosen: Chosen) -> int:
    """Ask which days of the statistics are stale."""
    stale_statistics(here)
    return 0


def statistics(here: Deployment, chosen: Chosen) -> int:
    """Build every day of the statistics by dbt, as the last step of a Dagster run; rows: API logs that they count."""
    from lakehouse.orchestration.execute import execute

    logs = f"`{here.settings.warehouse.database}`.chronochat__api_logs"
    query = f"select min(toDate(created_at, 'UTC')) as first, max(toDate(created_at, 'UTC')) as last, count() as rows from {logs}"
    [found] = here.warehouse.query(query).to_pylist()
    definitions = runpy.run_path("platform/definitions.py")["defs"]
    days = DayRange(found["first"], found["last"])
    outcome = execute(definitions, here, [], days, asked=True, full=False, accept_deletes=False, on_event=lambda event: None)
    if not outcome.success:
        raise SystemExit("\n".join(outcome.failures))
    return int(found["rows"])


def read_lake(here: Deployment, chosen: Chosen) -> int:
    """Rows and checksum of every lake partition, as a deep verification reads them."""
    return sum(read_copy(here, source, table, lake=True, partitions=None) for source, table in chosen)


def read_lake_part(here: Deployment, chosen: Chosen) -> int:
    """The same of two partitions of each table."""
    return sum(
        read_copy(here, source, table, lake=True, partitions=sorted(here.lake.contents(source.name, table))[:2])
        for source, table in chosen
    )


def read_warehouse(here: Deployment, chosen: Chosen) -> int:
    """Rows and checksum of every published partition, as a deep verification reads them."""
    return sum(read_copy(here, source, table, lake=False, partitions=None) for source, table in chosen)


def read_both(here: Deployment, chosen: Chosen) -> int:
    """The lake, then the warehouse."""
    return read_lake(here, chosen) + read_warehouse(here, chosen)


def read_copy(here: Deployment, source: Source, table: Table, *, lake: bool, partitions: Sequence[str] | None) -> int:
    """Read and digest one copy of a table; a checksum that is not the marker's raises."""
    state = here.lake.state(source.name, table)
    assert state is not None
    batches = (
        here.lake.scan_by_partition(source.name, table, partitions=partitions)
        if lake
        else here.warehouse.scan_by_partition(source.name, table, state.schema, partitions)
    )
    parts: dict[str, RowChecksum] = {}
    for _, batch in batches:
        partition_checksums(batch, row_digests(batch, plain_schema(batch)), table.partition, parts)
    found = total(parts.values())
    if partitions is None and found.hex != state.current.marker.checksum:
        raise SystemExit(f"{source.name}.{table.name}: {found.hex} instead of {state.current.marker.checksum}")
    return found.rows


def verify(here: Deployment, chosen: Chosen, *, deep: bool = False) -> int:
    """Compare every copy; rows: those that were read, of all copies together."""
    reports = [report for source, table in chosen for report in verify_source_tables(here, source, [table], deep=deep)]
    if not all(report.equal for report in reports):
        raise SystemExit("\n".join(str(report) for report in reports))
    return sum(copy.read for report in reports for copy in report.copies)


def verify_deep(here: Deployment, chosen: Chosen) -> int:
    """The same, reading everything."""
    return verify(here, chosen, deep=True)


def touch(here: Deployment, chosen: Chosen) -> int:
    """One more row in the newest day of the API logs, at their source."""
    import psycopg

    with psycopg.connect(here.settings.source_url("chronochat")) as connection:
        connection.execute("create temp table one as select * from api_logs order by created_at desc limit 1")
        connection.execute("update one set id = gen_random_uuid()")
        connection.execute("insert into api_logs select * from one")
    return 1


HOPS: dict[str, Callable[[Deployment, Chosen], int]] = {
    "extract": extract,
    "apply": apply,
    "publish": publish,
    "stale": stale,
    "statistics": statistics,
    "read-lake": read_lake,
    "read-lake-part": read_lake_part,
    "read-warehouse": read_warehouse,
    "read-both": read_both,
    "verify": verify,
    "verify-deep": verify_deep,
    "touch": touch,
}


def load(settings: Settings, users: int, api_logs: int | None) -> int:
    """Fill the example application's databases."""
    from lakehouse.demo import load as load_demo

    return sum(load_demo(settings, users=users, api_logs=api_logs).rows.values())


def apart(settings: Settings, copy: int) -> Settings:
    """The same sources and servers, but an empty store, lake and warehouse: one more first time."""
    return settings.model_copy(
        update={
            "store": settings.store.model_copy(update={"url": f"{settings.store.url}/copy{copy}"}),
            "catalog": settings.catalog.model_copy(update={"name": f"{settings.catalog.name}_copy{copy}"}),
            "warehouse": settings.warehouse.model_copy(update={"database": f"{settings.warehouse.database}_copy{copy}"}),
        }
    )


def cpu_seconds() -> float:
    """Of this process and of those that it started and waited for, dbt's for one."""
    return sum(os.times()[:4])


def main() -> None:
    """Do what the arguments say, and print what it cost."""
    parser = argparse.ArgumentParser(prog="benchmarks.step", description=__doc__)
    parser.add_argument("hop", choices=["load", *HOPS])
    parser.add_argument("tables", nargs="*", help="source.table; all of them by default")
    parser.add_argument("--copy", type=int, default=0, help="work on an empty store, lake and warehouse of this number")
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--api-logs", type=int, default=None)
    given = parser.parse_args()
    here = deployment()
    if given.copy:
        here = Deployment(apart(here.settings, given.copy), here.sources)
    chosen = here.select(given.tables)
    if given.hop.startswith("read-"):
        HOPS[given.hop](here, chosen)  # what is imported and connected once is no part of a rate
    began, cpu = time.monotonic(), cpu_seconds()
    rows = load(here.settings, given.users, given.api_logs) if given.hop == "load" else HOPS[given.hop](here, chosen)
    told = {"rows": rows, "seconds": time.monotonic() - began, "cpu_seconds": cpu_seconds() - cpu}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
