"""A broken network before each server: the hop ends in bounded time with an error that names the server; healed, the next run
makes every copy equal, with no row lost or doubled.

No test looks at a clock. The time-outs are set to a second; with their defaults the tests would outlast pytest's own limit.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from lakehouse import Load
from lakehouse.errors import (
    LakehouseError,
    ServiceFailed,
    SourceUnavailable,
    StoreUnavailable,
    TransientError,
    WarehouseUnavailable,
)
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.publish import publish_table
from lakehouse.settings import Settings
from lakehouse.spec import Source
from tests.network import Fault, Network, network_to
from tests.shop import CLICKS, FIRST, SHOP, Shop

SHORT = {"connect_seconds": 1, "answer_seconds": 1}
LOAD = Load(statement_timeout=timedelta(seconds=1))
ORDERS = replace(SHOP, load=LOAD, tables=SHOP.tables[:1])


@dataclass(frozen=True)
class Server:
    """How a server is reached through a proxy, and what its failures are.

    survives: a connection that breaks in the middle may be survived, because each request is sent again on another one.
    """

    name: str
    error: tuple[type[LakehouseError], ...]
    address: Callable[[Settings], str]
    through: Callable[[Settings, str, int], Settings]
    after: int = 2000
    survives: bool = False


def _source(settings: Settings, host: str, port: int, name: str) -> Settings:
    own = settings.sources[name]
    url = own.url.get_secret_value()
    was = urlsplit(url)
    moved = url.replace(f"@{was.hostname}:{was.port}", f"@{host}:{port}")
    return settings.model_copy(
        update={"sources": {**settings.sources, name: own.model_copy(update={"url": SecretStr(moved), **SHORT})}}
    )


def _store(settings: Settings, host: str, port: int) -> Settings:
    update = {"endpoint": f"http://{host}:{port}", "retries": 1, "retry_seconds": 2, "request_seconds": 5, **SHORT}
    return settings.model_copy(update={"store": settings.store.model_copy(update=update)})


def _warehouse(settings: Settings, host: str, port: int) -> Settings:
    update = {"host": host, "port": port, **SHORT}
    return settings.model_copy(update={"warehouse": settings.warehouse.model_copy(update=update)})


def _catalog(settings: Settings, host: str, port: int) -> Settings:
    url = settings.catalog.url.get_secret_value()
    was = urlsplit(url)
    moved = SecretStr(url.replace(f"@{was.hostname}:{was.port}", f"@{host}:{port}"))
    return settings.model_copy(update={"catalog": settings.catalog.model_copy(update={"url": moved, **SHORT})})


SERVERS = {
    "postgres": Server("shop", (SourceUnavailable,), lambda s: s.source_url("shop"), partial(_source, name="shop"), after=1500),
    "mongodb": Server("clicks", (SourceUnavailable,), lambda s: s.source_url("clicks"), partial(_source, name="clicks")),
    "s3": Server("127.0.0.1", (StoreUnavailable,), lambda s: str(s.store.endpoint), _store, survives=True),
    "clickhouse": Server(
        "127.0.0.1", (WarehouseUnavailable,), lambda s: f"http://{s.warehouse.host}:{s.warehouse.port}", _warehouse, after=300
    ),
    "catalog": Server("127.0.0.1", (StoreUnavailable, ServiceFailed), lambda s: s.catalog.url.get_secret_value(), _catalog),
}
FAULTS: tuple[tuple[Fault, bool], ...] = (("reset", True), ("black hole", False), ("black hole", True))
"""Each with whether it comes in the middle, after so many bytes of answers on one connection as `Server.after` says."""


SURVIVED: tuple[Fault, ...] = ("late", "slow")
"""What makes a hop take longer and nothing else: pieces that come after a while, a few bytes at a time both ways."""
LOOPBACK = "127.0.0.1"
NOWHERE = "no-such-host.invalid"
"""A name that nobody may ever have; RFC 6761."""


def sources_of(server: str) -> tuple[Source, ...]:
    """The sources that lead over a server."""
    return (CLICKS,) if server == "mongodb" else (ORDERS,)


@contextmanager
def between(shop: Shop, server: str) -> Iterator[Network]:
    """The shop's deployment with a proxy before one server, and short time-outs for it."""
    direct = shop.deployment
    of = SERVERS[server]
    was = urlsplit(of.address(direct.settings))
    assert was.hostname is not None
    assert was.port is not None
    sources = sources_of(server)
    with network_to(was.hostname, was.port) as network:
        shop.deployment = Deployment(of.through(direct.settings, LOOPBACK, network.port), sources)
        try:
            yield network
        finally:
            shop.deployment = Deployment(direct.settings, sources)


def hops(shop: Shop) -> None:
    """All hops; the first error of any table is raised."""
    for source in shop.deployment.sources:
        for result in extract_source(shop.deployment, source, source.tables):
            if result.error is not None:
                raise result.error
        for table in source.tables:
            apply_table(shop.deployment, source, table)
            publish_table(shop.deployment, source, table)


def failure(shop: Shop) -> TransientError | None:
    """How the hops fail, None when they do not."""
    try:
        hops(shop)
    except TransientError as error:
        return error
    return None


@pytest.mark.parametrize("server", sorted(SERVERS))
def test_a_broken_network_ends_the_hop_with_an_error_that_names_the_server_and_the_next_run_heals(
    shop: Shop, server: str
) -> None:
    of = SERVERS[server]
    with between(shop, server) as network:
        hops(shop)
        assert network.taken, "nothing went through the proxy"
        for number, (fault, middle) in enumerate(FAULTS):
            shop.order(900 + 10 * number, 5, FIRST + timedelta(days=2, hours=3 + number))
            shop.click(5, FIRST + timedelta(days=1, hours=3 + number))
            network.breaks(fault, after=of.after if middle else 0)
            fresh = Deployment(shop.deployment.settings, shop.deployment.sources)
            shop.deployment = fresh
            error = failure(shop)
            if error is None:
                assert middle, "a hop went through a network that lets nothing through"
                assert of.survives, (server, fault)
            else:
                assert isinstance(error, of.error), error
                assert of.name in str(error), (fault, str(error))
            assert network.hits, fault
            network.heals()
            hops(shop)
        for number, fault in enumerate(SURVIVED):
            shop.order(960 + 10 * number, 5, FIRST + timedelta(days=2, hours=8 + number))
            shop.click(5, FIRST + timedelta(days=1, hours=8 + number))
            network.breaks(fault)
            hops(shop)
            assert network.carried, fault
            network.heals()
    (report,) = shop.verify().values()
    assert report.equal, report
    rows = (60 if server == "mongodb" else 150) + 5 * len(FAULTS) + 5 * len(SURVIVED)
    assert {copy.rows for copy in report.copies} == {rows}


@pytest.mark.parametrize("server", sorted(SERVERS))
def test_a_refused_connection_and_an_unknown_name_are_said_and_nothing_is_done_by_halves(shop: Shop, server: str) -> None:
    direct, of = shop.deployment.settings, SERVERS[server]
    for host in (LOOPBACK, NOWHERE):
        with socket.create_server((LOOPBACK, 0)) as closed:
            port = closed.getsockname()[1]
        shop.deployment = Deployment(of.through(direct, host, port), sources_of(server))
        error = failure(shop)
        assert isinstance(error, of.error), error
        assert (of.name if of.name in direct.sources else host) in str(error)
    shop.deployment = Deployment(direct, sources_of(server))
    hops(shop)
    (report,) = shop.verify().values()
    assert report.equal, report
    assert {copy.rows for copy in report.copies} == {60 if server == "mongodb" else 150}
