"""ClickHouse's HTTP interface: our own server over chDB, a process of its own."""

from __future__ import annotations

import base64
import http.client
import importlib.util
import sys
from typing import Any

from lakehouse.errors import ServiceFailed
from lakehouse.services.ports import HOST
from lakehouse.services.server import Place, Server, missing

DATABASE = "lakehouse"


class ClickHouse(Server):
    """One server, one user, one database for published tables."""

    name = "clickhouse"
    port_names = ("http",)
    main_port = "http"
    passing_faults = ("code: 76", "another server has the data folder", "address already in use")

    def prepare(self, place: Place) -> None:
        super().prepare(place)
        if importlib.util.find_spec("chdb") is None:
            raise missing("chdb-core")

    def command(self, place: Place) -> list[str]:
        listen = ["--host", HOST, "--port", str(place.ports["http"])]
        return [sys.executable, "-m", "lakehouse.warehouse.server", *listen, "--path", str(place.data / "db")]

    def environment(self, place: Place) -> dict[str, str]:
        return {"LAKEHOUSE_SERVER_USER": place.user, "LAKEHOUSE_SERVER_PASSWORD": place.password}

    def probe(self, place: Place) -> str | None:
        try:
            status, body = query(place, "select 1")
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        return None if (status, body.strip()) == (200, "1") else f"HTTP {status}: {body[:300]}"

    def settle(self, place: Place) -> None:
        try:
            status, body = query(place, f"create database if not exists {DATABASE} engine = Atomic")
        except (OSError, http.client.HTTPException) as error:
            status, body = 0, f"{type(error).__name__}: {error}"
        if status != 200:
            raise ServiceFailed(f"creating the database {DATABASE} in clickhouse", value=body[:500], remedy=f"Read {place.log}.")

    def settings(self, place: Place) -> dict[str, Any]:
        return {
            "warehouse": {
                "host": HOST,
                "port": place.ports["http"],
                "user": place.user,
                "password": place.password,
                "database": DATABASE,
            }
        }


def query(place: Place, statement: str) -> tuple[int, str]:
    """Run one statement over HTTP: the status and the answer."""
    credentials = base64.b64encode(f"{place.user}:{place.password}".encode()).decode()
    connection = http.client.HTTPConnection(HOST, place.ports["http"], timeout=10)
    try:
        connection.request("POST", "/", body=statement.encode(), headers={"Authorization": f"Basic {credentials}"})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()
