"""One deployment of embedded servers for a test session, stopped and removed however the session ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lakehouse import services
from lakehouse.services import ServiceStatus
from lakehouse.services.processes import poll
from lakehouse.settings import Settings

SOURCES = {"chronochat": "postgres", "chronochat_mongo": "mongodb"}
SERVERS = ("postgres", "mongodb", "s3", "clickhouse")

GUARD = """
import shutil, sys
from pathlib import Path
from lakehouse import services
from lakehouse.settings import Settings
sys.stdin.read()
home = Path(sys.argv[1])
services.stop(Settings.model_construct(home=home), wipe=True)
shutil.rmtree(home, ignore_errors=True)
"""
"""Waits until its standard input closes, which it does however the session ends, then stops what was left."""


@dataclass(frozen=True)
class Deployment:
    """A home of its own; each server starts when the first test asks for it."""

    settings: Settings
    """Before any server: only the home."""
    guard: subprocess.Popen[bytes]

    @classmethod
    def make(cls) -> Deployment:
        """A fresh home outside of the checkout, under a short path, and the process that guards it."""
        home = Path(tempfile.mkdtemp(prefix="lh-"))
        guard = subprocess.Popen([sys.executable, "-c", GUARD, str(home)], stdin=subprocess.PIPE, start_new_session=True)
        return cls(Settings.model_construct(home=home), guard)

    def start(self, only: Collection[str] = SERVERS) -> Settings:
        """The settings that lead to the running servers `only`."""
        return services.start(self.settings, SOURCES, only=only).settings

    def status(self, name: str) -> ServiceStatus:
        """The status of one service."""
        return next(status for status in services.status(self.settings) if status.name == name)

    def kill(self, name: str) -> int:
        """Kill a server as the system would; returns its pid."""
        pid = self.status(name).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert poll(lambda: self.status(name).pid is None, seconds=10)
        return pid

    def end(self) -> None:
        """Stop the servers, remove the home, let the guard go."""
        services.stop(self.settings, wipe=True)
        shutil.rmtree(self.settings.home, ignore_errors=True)
        assert self.guard.stdin is not None
        self.guard.stdin.close()
        self.guard.wait(timeout=60)


def without_lakehouse_variables() -> None:
    """Forget the settings of the shell that started the tests, so that no test touches that deployment."""
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        del os.environ[name]
