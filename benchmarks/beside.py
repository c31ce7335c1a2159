"""What stands beside the processes that are measured: a server of prebuilt replies, an environment with another tool."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measuring import ROOT, CommandFailed, run


@contextmanager
def fake_server(documents: int) -> Iterator[str]:
    """The URL of a server that answers every query with so many documents; it ends with the context, or with this process."""
    command = [sys.executable, "-m", "benchmarks.fake_mongo", str(documents)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise CommandFailed(f"{' '.join(command)} did not start")
        try:
            yield f"mongodb://127.0.0.1:{port}/bench?directConnection=true"
        finally:
            process.stdin.close()


@contextmanager
def other_python(package: str, say: Callable[[str], None]) -> Iterator[str | None]:
    """An interpreter of a fresh environment with a package that ours does not have; None when it cannot be installed."""
    folder = Path(tempfile.mkdtemp(prefix="lh-bench-other-"))
    python = str(folder / "bin" / "python")
    try:
        try:
            run([sys.executable, "-m", "venv", str(folder)], os.environ)
            run([python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", package], os.environ)
        except CommandFailed as failed:
            say(f"{package} cannot be installed, so it is left out: {str(failed).splitlines()[-1]}")
            yield None
            return
        yield python
    finally:
        shutil.rmtree(folder, ignore_errors=True)
