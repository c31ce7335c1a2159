"""A store that lies or fills: found by checksum, named by file, never applied; once it is as it was, the next run is enough."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from lakehouse import services
from lakehouse.errors import DamagedData, StoreUnavailable
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.settings import StoreSettings
from lakehouse.spec import Source, Table
from lakehouse.stores import ObjectStore, open_store
from tests.network import network_to
from tests.servers import Deployment as Servers
from tests.shop import FIRST, SHOP, Shop

ROOT = Path(__file__).parents[2]


@pytest.fixture
def orders(shop: Shop) -> Shop:
    """The shop with its table of orders alone."""
    from dataclasses import replace

    shop.deployment = Deployment(shop.deployment.settings, (replace(SHOP, tables=SHOP.tables[:1]),))
    return shop


def table_of(shop: Shop) -> tuple[Source, Table]:
    ((source, table),) = shop.deployment.select()
    return source, table


def watermark(shop: Shop) -> int:
    source, table = table_of(shop)
    state = shop.deployment.lake.state(source.name, table)
    return state.current.marker.sequence if state else 0


def newest(shop: Shop, folder: str, suffix: str) -> str:
    found = (info for info in shop.deployment.store.list(folder) if info.path.endswith(suffix))
    return max(found, key=lambda info: (info.modified, info.path)).path


def damaged(data: bytes) -> dict[str, bytes | None]:
    """What a store may have in an object's place; None: nothing."""
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    return {"truncated": data[:-7], "flipped": bytes(flipped), "empty": b"", "gone": None}


def spoil(store: ObjectStore, path: str, content: bytes | None) -> None:
    """Put other bytes in an object's place, or nothing."""
    if content is None:
        store.delete(path)
    else:
        store.put(path, content)


@pytest.mark.parametrize("kind", ["file", "manifest"])
def test_a_raw_file_or_manifest_that_is_not_what_was_written_is_named_and_never_applied(orders: Shop, kind: str) -> None:
    orders.run()
    orders.order(900, 3, FIRST + timedelta(days=2, hours=3))
    orders.order(910, 3, FIRST + timedelta(days=1, hours=3))
    orders.extract()
    store, before = orders.deployment.store, watermark(orders)
    path = newest(orders, "raw/shop/orders/day=2026-01-02", ".parquet")
    if kind == "manifest":
        path = f"raw/shop/orders/_log/{before + 1:020d}.json"
    good = store.get(path)
    for how, content in damaged(good).items():
        spoil(store, path, content)
        with pytest.raises(DamagedData) as caught:
            apply_table(orders.deployment, *table_of(orders))
        assert path in str(caught.value), how
        assert "lakehouse repair" in str(caught.value)
        assert watermark(orders) == before
    store.put(path, good)
    orders.run()
    assert orders.verify()["shop.orders"].equal


def test_a_lake_file_that_is_not_what_was_written_is_named_and_never_read_into_another(orders: Shop) -> None:
    orders.run()
    path = newest(orders, "lake/shop/orders/data/at_day=2026-01-03", ".parquet")
    orders.order(900, 3, FIRST + timedelta(days=2, hours=3))
    orders.extract()
    store, before = orders.deployment.store, watermark(orders)
    good = store.get(path)
    for how, content in damaged(good).items():
        spoil(store, path, content)
        with pytest.raises(DamagedData) as caught:
            apply_table(orders.deployment, *table_of(orders))
        assert path in str(caught.value), how
        assert watermark(orders) == before
    store.put(path, good)
    orders.run()
    assert orders.verify()["shop.orders"].equal


def test_a_store_that_says_slow_down_is_asked_again_and_given_up_after_the_declared_number(s3_store: StoreSettings) -> None:
    endpoint = str(s3_store.endpoint)
    host, _, port = endpoint.removeprefix("http://").partition(":")
    with network_to(host, int(port)) as network:
        update = {"endpoint": f"http://127.0.0.1:{network.port}", "retries": 3, "retry_seconds": 20}
        store = open_store(s3_store.model_copy(update=update))
        network.breaks("slow down", times=3)
        assert store.put_new("log/1", b"mine")
        assert network.hits >= 3
        assert store.get("log/1") == b"mine"
        network.breaks("slow down")
        store = open_store(s3_store.model_copy(update=update))
        with pytest.raises(StoreUnavailable) as caught:
            store.get("log/1")
        assert network.hits == 4
        assert f"127.0.0.1:{network.port}" in str(caught.value)


HOPS = """
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
import pyarrow, pyarrow.parquet, duckdb, psycopg  # what is loaded later must not need the disk
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.publish import publish_table
from lakehouse.settings import Settings
from tests.shop import SHOP

settings = Settings.model_validate_json(sys.stdin.read())
deployment = Deployment(settings, (replace(SHOP, tables=SHOP.tables[:1]),))
{before}
(result,) = extract_source(deployment, *deployment.sources, deployment.sources[0].tables)
if result.error:
    raise result.error
source, table = deployment.select()[0]
apply_table(deployment, source, table)
publish_table(deployment, source, table)
"""


def hops_in_a_process(shop: Shop, before: str, files: int | None = None, folder: Path | None = None) -> tuple[int, str]:
    """All hops in a process of its own; files: bytes that any file that it writes may have. Exit code and what it said."""
    import json

    settings = shop.deployment.settings

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return value.get_secret_value() if hasattr(value, "get_secret_value") else value

    document = json.dumps(plain(settings.model_dump()), default=str)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if folder is not None:
        environment["TMPDIR"] = str(folder)

    def limit() -> None:
        import signal

        if files is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (files, files))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", HOPS.replace("{before}", before)],
        cwd=ROOT, env=environment, input=document, text=True, capture_output=True, check=False, timeout=120, preexec_fn=limit,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_a_disk_that_is_full_ends_the_hop_and_the_next_run_is_enough(orders: Shop, tmp_path: Path) -> None:
    orders.run()
    orders.sql(
        "insert into orders select 5000 + i, timestamptz '2026-01-03 02:00Z' + i * interval '1 second', i, md5(i::text)"
        " from generate_series(1, 3000) i"
    )
    before = watermark(orders)
    code, said = hops_in_a_process(orders, "", files=20_000, folder=tmp_path)
    assert code == 1
    assert said.rstrip().splitlines()[-1].endswith("Nothing was claimed."), said
    assert "StoreUnavailable: writing temporary files" in said
    assert watermark(orders) == before
    assert orders.deployment.log(*table_of(orders)).head() == before
    orders.run()
    assert orders.verify()["shop.orders"].equal


SHIFTED = """
import datetime as clock
class Shifted(clock.datetime):
    @classmethod
    def now(cls, tz=None):
        return clock.datetime.__new__(cls, 1, 1, 1, tzinfo=tz).replace(year=YEAR)
import lakehouse.raw.log, lakehouse.pipeline.windows, lakehouse.pipeline.extract
for module in list(sys.modules.values()):
    if getattr(module, "datetime", None) is clock.datetime and module.__name__.startswith("lakehouse"):
        module.datetime = Shifted
"""


def test_windows_follow_the_clock_of_the_source_whatever_the_local_clock_says(orders: Shop) -> None:
    year = 2099
    orders.run()
    positions = [entry.manifest.position for entry in orders.deployment.log(*table_of(orders)).entries()]
    orders.order(900, 3, FIRST + timedelta(days=2, hours=3))
    code, said = hops_in_a_process(orders, SHIFTED.replace("YEAR", str(year)))
    assert code == 0, said
    entries = orders.deployment.log(*table_of(orders)).entries()
    last = entries[-1].manifest
    assert last.created_at.year == year, "the clock was not shifted"
    assert last.position.taken_at >= positions[-1].taken_at
    assert last.position.taken_at.year != year
    assert len(entries) == len(positions) + 1
    orders.run()
    report = orders.verify()["shop.orders"]
    assert report.equal
    assert {copy.rows for copy in report.copies} == {153}


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own in a folder."""
    folder.mkdir(parents=True)
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        (pytest.fail if "CI" in os.environ else pytest.skip)("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    with small_disk(tmp_path / "small", 1) as folder:
        yield folder


@pytest.fixture
def small_s3(own_deployment: Servers) -> Iterator[tuple[StoreSettings, Path]]:
    """An S3 server on a disk of its own, and the folder that the disk is in."""
    with small_disk(own_deployment.settings.home / "data" / "s3", 48) as folder:
        store = own_deployment.start(["s3"]).store
        try:
            yield store.model_copy(update={"retries": 1, "retry_seconds": 2}), folder
        finally:
            services.stop(own_deployment.settings)


def write_for_ever(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * (1 << 20))


def test_a_disk_that_is_full_at_the_s3_server_fails_the_hop_and_with_room_again_the_next_run_is_enough(
    orders: Shop, small_s3: tuple[StoreSettings, Path]
) -> None:
    store, disk = small_s3
    settings = orders.deployment.settings.model_copy(update={"store": store})
    orders.deployment = Deployment(settings, orders.deployment.sources)
    orders.run()
    before = watermark(orders)
    orders.order(900, 5, FIRST + timedelta(days=2, hours=3))
    other = disk / "of somebody else"
    with pytest.raises(OSError, match="No space left"):
        write_for_ever(other)
    failed = orders.extract()["orders"].error
    assert isinstance(failed, StoreUnavailable)
    assert str(store.endpoint) in str(failed)
    assert orders.deployment.log(*table_of(orders)).head() == watermark(orders) == before
    other.unlink()
    orders.run()
    report = orders.verify(deep=True)["shop.orders"]
    assert report.equal
    assert {copy.rows for copy in report.copies} == {155}


def test_a_store_whose_disk_is_full_says_so_and_holds_no_part_of_an_object(full_disk: Path, tmp_path: Path) -> None:
    store = open_store(StoreSettings(url=full_disk.as_uri()))
    store.put("raw/whole", b"x" * 500_000)
    local = tmp_path / "large"
    local.write_bytes(b"y" * 800_000)
    for attempt in (
        lambda: store.upload(local, "raw/large"),
        lambda: store.put("raw/large", local.read_bytes()),
        lambda: store.put_new("raw/large", local.read_bytes()),
    ):
        with pytest.raises(StoreUnavailable, match="No space left"):
            attempt()
    assert [info.path for info in store.list("")] == ["raw/whole"]
    store.delete("raw/whole")
    assert store.put_new("raw/large", local.read_bytes())
