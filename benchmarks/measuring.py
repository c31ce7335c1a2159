"""Running a command as a process of its own, and what it cost.

This process stays small (it imports nothing heavy): on Linux the peak that is told of a child is at least what its parent held
when it was started.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_MIB = 1024 if sys.platform != "darwin" else 1024 * 1024
"""`ru_maxrss` is in KiB on Linux and in bytes on macOS; getrusage(2)."""


class CommandFailed(Exception):
    """A command that is measured ended with an error; its last lines say which."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended well.

    seconds: wall time from start to end. cpu_seconds and peak_rss_mb: of it and of the children it waited for; the peak is that
    of the largest of them, in MiB.
    """

    output: str
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float


def run(command: Sequence[str], environment: Mapping[str, str]) -> Ended:
    """Run a command in the project's folder until it ends; CommandFailed when it ends with an error."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as messages:
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=messages
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode != 0:
            messages.seek(0)
            last = "".join((output.read() + messages.read()).splitlines(keepends=True)[-25:])
            raise CommandFailed(f"{' '.join(command)} ended with {process.returncode}:\n{last}")
        return Ended(output.read(), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / _MIB)
