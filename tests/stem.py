"""The command `lakehouse` without its imports: each is forked from one process that has made them.

Two thirds of the CPU of a short command are the imports of its libraries, and the tests run hundreds of them. `Stem` starts this
file as a program and sends it commands. A command is a process with a folder, an environment, standard streams and a process
group of its own, and runs what the script `lakehouse` runs. That the script itself works is shown by the tests that use a shell.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

LIBRARIES = (
    *("alembic", "boto3", "clickhouse_connect", "dagster_aws.s3", "dagster_postgres", "deltalake", "duckdb", "numpy", "obstore"),
    *("pandas", "psycopg2", "pyarrow.dataset", "pyarrow.parquet", "pyiceberg.catalog.sql", "pymongo", "rich.progress"),
    *("rich.table", "sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite", "strictyaml"),
)
"""What commands import when they get there."""
LEFT_OUT = ("lakehouse.tables.spark", "lakehouse.dbt_program", "lakehouse.warehouse.server")
MESSAGE = 1 << 20


class Stem:
    """The process that commands are forked from; it ends when this one does, and leaves its commands alone."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                cwd="/",
                start_new_session=True,
            )

    def start(self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: int, stderr: int) -> Forked:
        """Begin a command that writes to these descriptors; its standard input is empty."""
        answers, theirs = os.pipe()
        try:
            message = json.dumps({"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}).encode()
            socket.send_fds(self._control, [message], [stdout, stderr, theirs])
        finally:
            os.close(theirs)
        return Forked(arguments, answers)

    def close(self) -> None:
        """Let the process end."""
        self._control.close()
        self._process.wait()


class Forked:
    """A command under way, as `subprocess.Popen` shows one."""

    def __init__(self, arguments: Sequence[str], answers: int) -> None:
        self._arguments = arguments
        self._answers = answers
        self._code: int | None = None
        self.pid = int(self._line())

    def poll(self) -> int | None:
        """Its exit code once it has ended, negative for a signal."""
        return self._ended(0)

    def wait(self, timeout: float) -> int:
        """Its exit code; TimeoutExpired after that many seconds."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(list(self._arguments), timeout)
        return code

    def kill(self) -> None:
        """End its process group: it, and what it started in there."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _ended(self, timeout: float) -> int | None:
        if self._code is None and select.select([self._answers], [], [], timeout)[0]:
            self._code = int(self._line())
            os.close(self._answers)
        return self._code

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            read = os.read(self._answers, 1)
            assert read, "the process that commands are forked from has ended"
            line += read
        return line.decode()


def main() -> None:
    """Import, then fork a command for each message until the other end closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    sys.path.pop(0)
    _import_all()
    answers: dict[int, int] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report_ended(answers)
        if control in ready:
            message, fds, _, _ = socket.recv_fds(control, MESSAGE, 3)
            if not message:
                return
            stdout, stderr, answer = fds
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (control.detach(), woken, wake, answer, *answers.values()):
                    os.close(fd)
                _become(json.loads(message), stdout, stderr)
            answers[pid] = answer
            os.close(stdout)
            os.close(stderr)
            _tell(answer, pid)


def _import_all() -> None:
    from lakehouse.imports import for_good

    with for_good():
        import lakehouse

        for module in pkgutil.walk_packages(lakehouse.__path__, "lakehouse.", onerror=lambda _: None):
            if not module.name.startswith(LEFT_OUT) and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        for name in LIBRARIES:
            importlib.import_module(name)
    assert threading.active_count() == 1, f"a fork would have one thread of {threading.enumerate()}"


def _report_ended(answers: dict[int, int]) -> None:
    while answers:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        answer = answers.pop(pid)
        _tell(answer, os.waitstatus_to_exitcode(status))
        os.close(answer)


def _tell(answer: int, number: int) -> None:
    with suppress(BrokenPipeError):
        os.write(answer, f"{number}\n".encode())


def _become(command: dict[str, object], stdout: int, stderr: int) -> None:
    """Go on as the command; never returns."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for fd, standard in ((nothing, 0), (stdout, 1), (stderr, 2)):
        os.dup2(fd, standard)
        os.close(fd)
    env = command["env"]
    assert isinstance(env, dict)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(str(command["cwd"]))
    sys.path[1:1] = [place for place in env.get("PYTHONPATH", "").split(os.pathsep) if place]
    arguments = command["arguments"]
    assert isinstance(arguments, list)
    sys.argv = ["lakehouse", *arguments]
    if "PYTHONUNBUFFERED" in env:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    from lakehouse import faults
    from lakehouse.cli import console

    if faults.VARIABLE in env:
        faults.arm(env[faults.VARIABLE])
    console()


if __name__ == "__main__":
    main()
