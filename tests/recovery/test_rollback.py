"""A rollback while another process applies and publishes: as if one had come after the other, and the next run catches up."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from lakehouse.errors import CommitConflict
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.publish import publish_table
from lakehouse.pipeline.rollback import rollback_table
from lakehouse.settings import Settings
from tests.lakes import process, processes_done
from tests.shop import FIRST, SHOP, Shop


def keep_catching_up(settings: Settings, stop: Path) -> None:
    """What another process does: apply and publish, over and over."""
    deployment = Deployment(settings, (SHOP,))
    ((source, table),) = deployment.select(["shop.orders"])
    while not stop.exists():
        try:
            apply_table(deployment, source, table)
            publish_table(deployment, source, table)
        except CommitConflict:
            continue
    apply_table(deployment, source, table)
    publish_table(deployment, source, table)


def test_rollbacks_during_applies_and_publications_lose_and_double_nothing(shop: Shop, tmp_path: Path) -> None:
    shop.deployment = Deployment(shop.deployment.settings, (SHOP,))
    versions: list[int] = []
    ((source, table),) = shop.deployment.select(["shop.orders"])
    for number in range(3):
        shop.order(900 + 10 * number, 3, FIRST + timedelta(days=2, hours=3 + number))
        shop.extract()
        apply_table(shop.deployment, source, table)
        state = shop.deployment.lake.state(source.name, table)
        assert state is not None
        versions.append(state.current.version)
    stop = tmp_path / "stop"
    other = process(keep_catching_up, shop.deployment.settings, stop)
    rows = published_rows(shop, source.name, other_ready=True)
    for version in [versions[0], versions[2], versions[1]]:
        rollback_table(shop.deployment, source, table, version)
        rows += published_rows(shop, source.name)
    stop.touch()
    processes_done([other])
    assert set(rows) <= {153, 156, 159}
    shop.run()
    report = shop.verify()["shop.orders"]
    assert report.equal
    assert {(copy.rows, copy.checksum) for copy in report.copies} == {(159, report.copies[0].checksum)}


def published_rows(shop: Shop, source: str, *, other_ready: bool = False) -> list[int]:
    """Rows of the published table now; other_ready: wait until the other process has published it."""
    from lakehouse.services.processes import poll

    table = shop.deployment.sources[0].tables[0]
    if other_ready:
        assert poll(lambda: shop.deployment.warehouse.state(source, table) is not None, seconds=120)
    return [int(shop.published(f"{source}__{table.name}", "count() as n")[0]["n"])]
