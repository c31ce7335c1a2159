"""Processes that outlive the command that started them: started, recognised and stopped.

A process is known by its pid and the time it started, so that another program behind a recycled pid is never taken for
ours. Each is the leader of its own session and is stopped with its whole process group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "LAKEHOUSE_SERVICE"
"""Variable in a server's environment that names its home and service; finds one whose pid was never recorded."""

INHERITED = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""Variables of ours that every server gets; the rest, secrets among them, stays here."""

LOG_LIMIT = 32 * 1024 * 1024
"""Bytes after which a start begins a new log; one older log is kept."""

_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Process:
    """A process by pid and start time (clock ticks since boot on Linux, the words of ps(1) elsewhere)."""

    pid: int
    started: str


def spawn(command: Sequence[str], *, cwd: Path, log: Path, environment: Mapping[str, str]) -> Process:
    """Start `command` in a session of its own with its output appended to `log`; it survives this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children[child.pid] = child
    return Process(child.pid, started_at(child.pid) or "")


def inherited_environment() -> dict[str, str]:
    """The part of this process's environment that a server needs."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def started_at(pid: int) -> str | None:
    """When process `pid` started; None if there is none, or only a zombie."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        return None
    if not Path("/proc/self/stat").exists():
        return _started_at_elsewhere(pid)
    fields = _stat(pid)
    return None if fields is None or _has_ended(fields) else fields[19]


def _has_ended(fields: Sequence[str]) -> bool:
    """Whether it is a zombie, all of its threads gone too: until then it still has its ports and files."""
    return fields[0] == "Z" and int(fields[17]) <= 1


def _stat(pid: int) -> list[str] | None:
    """Fields of `/proc/<pid>/stat` from the third (state) on; proc(5)."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return None


def _started_at_elsewhere(pid: int) -> str | None:
    """The same from ps(1), where there is no /proc."""
    asked = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = asked.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def is_alive(process: Process | None) -> bool:
    """Whether this very process still runs."""
    return process is not None and started_at(process.pid) == process.started


def marked(mark: str) -> Process | None:
    """The oldest session leader that was started with `mark`, or None; only where there is /proc."""
    wanted = f"{MARK}={mark}".encode()
    found: list[tuple[int, Process]] = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = _stat(int(entry.name))
            if fields is None or fields[3] != entry.name or _has_ended(fields):
                continue
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append((int(fields[19]), Process(int(entry.name), fields[19])))
    return min(found, key=lambda each: each[0])[1] if found else None


def stop(process: Process, *, first: signal.Signals, grace: float, limit: float = 10.0) -> bool:
    """Ask the process with `first`, kill its group after `grace` seconds, wait until all are gone; False if some stayed.

    A process that is not ours any more (another behind the same pid) is left alone.
    """
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, first)
        poll(lambda: not is_alive(process), seconds=grace)
    elif not _leftovers(process.pid):
        return True
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    gone = poll(lambda: not is_alive(process) and not _group_members(process.pid), seconds=limit)
    child = _children.get(process.pid)
    if child is not None and child.poll() is not None:
        del _children[process.pid]
    return gone


def _leftovers(group: int) -> bool:
    """Whether a dead leader left processes of ours in its group; not so when its pid is another program's now."""
    if _stat(group) is not None:
        return False
    for member in _group_members(group):
        with contextlib.suppress(OSError):
            return f"{MARK}=".encode() in Path(f"/proc/{member}/environ").read_bytes()
    return False


def _group_members(group: int) -> list[int]:
    """Processes of a process group that are not zombies."""
    if not Path("/proc/self/stat").exists():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, 0)
            return [group]
        return []
    members = []
    for entry in Path("/proc").iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None and fields[2] == str(group) and not _has_ended(fields):
            members.append(int(entry.name))
    return members


def poll(condition: Callable[[], bool], *, seconds: float, every: float = 0.05) -> bool:
    """Try `condition` until it holds or the time is over; whether it held."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


def last_lines(log: Path, count: int = 15, size: int = 16_384) -> str:
    """The end of a log, at most `count` lines."""
    if not log.is_file():
        return "(no log)"
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - size))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-count:])
