"""MongoDB's wire protocol from the package secantusdb, a program of its own (it is GPL: never import it)."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from lakehouse.errors import ServiceFailed
from lakehouse.services.ports import HOST, free_port
from lakehouse.services.processes import inherited_environment, last_lines, poll, spawn, stop
from lakehouse.services.record import write_private
from lakehouse.services.server import Place, Server, missing


class MongoDB(Server):
    """One server with one user; a database for each source."""

    name = "mongodb"
    port_names = ("wire",)
    main_port = "wire"
    grace = 5.0
    passing_faults = ("resource busy", "address already in use")

    def prepare(self, place: Place) -> None:
        super().prepare(place)
        if importlib.util.find_spec("secantus") is None:
            raise missing("secantusdb")
        write_private(place.data / "secantusd.toml", "")
        storage = place.data / "db"
        if not storage.exists():
            fresh = place.data / "db.new"
            shutil.rmtree(fresh, ignore_errors=True)
            self._create_user(place, fresh)
            fresh.rename(storage)

    def _create_user(self, place: Place, storage: Path) -> None:
        """Add the user to an empty store: the server knows no other way than to run once without authentication."""
        import pymongo
        from pymongo.errors import PyMongoError

        port = free_port()
        process = spawn(_command(place, storage, port), cwd=place.data, log=place.log, environment=inherited_environment())
        try:
            with pymongo.MongoClient[Any](f"mongodb://{HOST}:{port}/?directConnection=true", **_TIMEOUTS) as client:
                if not poll(lambda: _answer(client) is None, seconds=self.patience):
                    raise ServiceFailed(
                        f"starting mongodb for the first time\n{last_lines(place.log)}",
                        remedy=f"Read {place.log}, then try `lakehouse up` again.",
                    )
                client.admin.command("createUser", place.user, pwd=place.password, roles=["root"])
        except PyMongoError as error:
            raise ServiceFailed(
                "creating the user of mongodb", value=str(error), remedy=f"Read {place.log}, then try `lakehouse up` again."
            ) from error
        finally:
            stop(process, first=signal.SIGTERM, grace=self.grace)

    def command(self, place: Place) -> list[str]:
        return [*_command(place, place.data / "db", place.ports["wire"]), "--auth"]

    def probe(self, place: Place) -> str | None:
        import pymongo

        with pymongo.MongoClient[Any](url(place, "admin"), **_TIMEOUTS) as client:
            return _answer(client)

    def settings(self, place: Place) -> dict[str, Any]:
        return {"sources": {name: {"url": url(place, name)} for name in place.sources_of("mongodb")}}


_TIMEOUTS: dict[str, Any] = {"serverSelectionTimeoutMS": 1000, "connectTimeoutMS": 1000, "socketTimeoutMS": 5000}


def _command(place: Place, storage: Path, port: int) -> list[str]:
    # Without --sync-on-commit it loses acknowledged writes when it is killed.
    return [
        *(sys.executable, "-m", "secantus", "--config", str(place.data / "secantusd.toml"), "--log-level", "WARNING"),
        *("--host", HOST, "--port", str(port), "--storage-path", str(storage), "--sync-on-commit", "--cache-size", "512M"),
    ]


def _answer(client: Any) -> str | None:
    """Count in a collection, which needs the user's rights; None, or why it failed."""
    from pymongo.errors import PyMongoError

    try:
        client["admin"].command("listCollections", maxTimeMS=2000)
    except PyMongoError as error:
        return str(error)[:300]
    return None


def url(place: Place, database: str) -> str:
    """The connection URL of one database."""
    address = f"{HOST}:{place.ports['wire']}"
    return f"mongodb://{place.user}:{place.password}@{address}/{database}?authSource=admin&directConnection=true"
