"""A process that is killed at any fault point on a history's way: readers see a whole version, and the next run is exact.

To die before an effect is to die after the one before it, so that only the first is died before.
"""

from __future__ import annotations

import itertools
import os
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from lakehouse import faults
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.verify import verify_source_tables
from lakehouse.rows.checksum import checksum_of
from lakehouse.settings import Settings
from lakehouse.spec import Source
from lakehouse.spec.declaration import TableFormat
from tests.crash.forks import FORKS
from tests.shop import FIRST, SHOP, Shop

NAME = "shop.customers__history"
PATIENCE = 120
LEAST = {"store.upload", "lake.commit", "warehouse.exchange"}
"""Points that every history comes by."""


def sources(format_: TableFormat) -> tuple[Source, ...]:
    """The shop's customers, with their history."""
    customers = next(table for table in SHOP.tables if table.name == "customers")
    return (replace(SHOP, tables=(replace(customers, format=format_, history=True),)),)


def catch_up(deployment: Deployment) -> None:
    """What a run does for a history."""
    source, table = deployment.select([NAME])[0]
    apply_table(deployment, source, table)
    publish_table(deployment, source, table)


def work(settings: Settings, format_: TableFormat, fault: str, seen: Path) -> None:
    """A process: catch up, and be killed at the fault, or write down the points that are passed."""
    os.setpgid(0, 0)
    if fault:
        faults.arm(fault)
        catch_up(Deployment(settings, sources(format_)))
        return
    with seen.open("a", buffering=1) as file:
        faults.watch(lambda point, moment: print(f"{point}:{moment}", file=file))
        catch_up(Deployment(settings, sources(format_)))
        faults.watch(None)


def ended(settings: Settings, format_: TableFormat, fault: str, seen: Path) -> int | None:
    """How such a process ends."""
    process = FORKS.Process(target=work, args=(settings, format_, fault, seen))
    process.start()
    process.join(PATIENCE)
    return process.exitcode


def assert_whole(deployment: Deployment) -> None:
    """Readers see a whole version: in the lake and in the warehouse the rows are those of the marker."""
    source, table = deployment.select([NAME])[0]
    state = deployment.lake.state(source.name, table)
    published = deployment.warehouse.state(source.name, table)
    assert state is not None
    assert published is not None
    for batches, marker in (
        (deployment.lake.scan(source.name, table), state.current.marker),
        (deployment.warehouse.scan(source.name, table, state.schema), published.marker),
    ):
        found = checksum_of(batches, state.schema)
        assert (found.rows, found.hex) == (marker.rows, marker.checksum)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("format_", ["iceberg", "delta"])
def test_a_history_loses_and_doubles_nothing_whatever_point_its_process_dies_at(
    shop: Shop, format_: TableFormat, tmp_path: Path
) -> None:
    shop.deployment = deployment = Deployment(shop.deployment.settings, sources(format_))
    numbers = itertools.count(1)

    def change() -> None:
        """A customer changes, one comes, one is gone; they are landed, and the table has them."""
        number = next(numbers)
        now = (FIRST + timedelta(days=2, seconds=number)).isoformat()
        shop.sql(
            f"update customers set tier = 'tier {number}', changed_at = '{now}' where id in ('c1', 'c7')",
            f"insert into customers values ('n{number}', null, 'free', '{now}', '{now}')",
            f"delete from customers where id = 'n{number - 2}'",
        )
        shop.extract()
        source, table = deployment.select(["shop.customers"])[0]
        apply_table(deployment, source, table)
        publish_table(deployment, source, table)

    shop.run()
    change()
    seen = tmp_path / "seen"
    assert ended(deployment.settings, format_, "", seen) == 0
    first, *passed = seen.read_text().split()
    points = [first, *dict.fromkeys(point for point in passed if point.endswith(":after"))]
    assert {point.rpartition(":")[0] for point in points} >= LEAST
    for point in points:
        change()
        assert ended(deployment.settings, format_, f"{point}:kill", seen) == -signal.SIGKILL, point
        assert_whole(deployment)
        catch_up(deployment)
        source, table = deployment.select([NAME])[0]
        (report,) = verify_source_tables(deployment, source, [table], deep=True)
        assert report.equal, (point, report)
        assert len({(copy.sequence, copy.rows, copy.checksum) for copy in report.copies}) == 1
