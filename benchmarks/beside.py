"""What stands beside the processes that are measured: a server of prebuilt replies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.measuring import ROOT, CommandFailed


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
