"""The embedded servers as an ordinary user, and as root, whom Postgres refuses to run as."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse.services.postgres import NOBODY, OTHER_IDENTITY, SHARED_IDENTITY

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ROUND_TRIP = """
import os, sys
from pathlib import Path
import psycopg
from lakehouse import services
from lakehouse.services.postgres import identity
from lakehouse.settings import load_settings

settings = load_settings(home=Path(sys.argv[1]))
sources = {"chronochat": "postgres", "chronochat_mongo": "mongodb"}
try:
    for expected in range(2):
        led = services.start(settings, sources, only=sys.argv[2].split(",")).settings
        with psycopg.connect(led.source_url("chronochat"), autocommit=True) as connection:
            connection.execute("create table if not exists kept (a int)")
            assert connection.execute("select count(*) from kept").fetchone() == (expected,)
            connection.execute("insert into kept values (1)")
        print(os.geteuid(), *identity())
        services.stop(settings)
finally:
    services.stop(settings, wipe=True)
assert not settings.home.exists()
"""
"""Starts, writes, stops, starts again, reads, wipes; prints the identity each time."""


def _round_trip(home: Path, only: str = "postgres", *, prefix: tuple[str, ...] = (), path: str | None = None) -> list[str]:
    environment = {**os.environ, "HOME": str(home.parent), **({"PATH": path} if path else {})}
    command = [*prefix, sys.executable, "-c", ROUND_TRIP, str(home), only]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that only its owner can enter."""
    folder = Path(tempfile.mkdtemp(prefix="lh-"))
    assert folder.stat().st_mode & 0o777 == 0o700
    yield folder
    shutil.rmtree(folder)


@as_root
def test_root_runs_postgres_in_a_folder_that_only_root_can_enter(folder: Path) -> None:
    said = _round_trip(folder / "home")
    assert said in ([f"0 {' '.join(SHARED_IDENTITY)}"] * 2, [f"0 {' '.join(OTHER_IDENTITY)}"] * 2)


@as_root
def test_root_runs_postgres_where_user_namespaces_are_forbidden(folder: Path) -> None:
    programs = folder / "bin"
    programs.mkdir()
    for program in ("setpriv", "true"):
        found = shutil.which(program)
        assert found is not None
        (programs / program).symlink_to(found)
    assert _round_trip(folder / "home", path=str(programs)) == [f"0 {' '.join(OTHER_IDENTITY)}"] * 2


@as_root
def test_root_that_may_not_change_its_identity_is_told_to_be_another(folder: Path) -> None:
    empty = folder / "bin"
    empty.mkdir()
    with pytest.raises(AssertionError, match="Run the command as an ordinary user"):
        _round_trip(folder / "home", path=str(empty))


@as_root
def test_an_ordinary_user_runs_all_that_needs_no_root(folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)
    # This Python or this checkout may lie where only root can read.
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--securebits=+no_setuid_fixup")
    prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *reading)
    assert _round_trip(folder / "home", "postgres,mongodb,s3", prefix=prefix) == [str(NOBODY)] * 2
