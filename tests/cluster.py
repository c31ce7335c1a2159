"""A standalone Spark cluster and a Connect server on loopback, from the wheel; `make cluster` runs the former."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyspark

from lakehouse.services.processes import poll
from lakehouse.settings import Settings

HOME = Path(pyspark.__file__).parent
LOOPBACK = "127.0.0.1"
PATIENCE = 120
CONNECT = Path(__file__).resolve().parent.parent / "deploy" / "compose" / "connect.sh"


def spark_class(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A Java process of Spark's, that writes to a log; it ends with its process group."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            [str(HOME / "bin" / "spark-class"), *arguments],
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            env=_spark_environment(),
            start_new_session=True,
        )


def said(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> re.Match[str]:
    """Wait for a line of a log."""
    found: list[re.Match[str]] = []

    def look() -> bool:
        assert process.poll() is None, log.read_text()
        if match := re.search(pattern, log.read_text()):
            found.append(match)
        return bool(found)

    assert poll(look, seconds=PATIENCE), log.read_text()
    return found[0]


@dataclass
class Cluster:
    """A master and its workers, of one core each."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    url: str = ""

    def start(self, workers: int) -> None:
        """Start the master, then the workers, and wait until they know each other."""
        log = self.folder / "master.log"
        master = spark_class(log, "org.apache.spark.deploy.master.Master", "--host", LOOPBACK, "--port", "0", "--webui-port", "0")
        self.processes.append(master)
        self.url = said(log, r"Starting Spark master at (spark://\S+)", master)[1]
        for _ in range(workers):
            self.add_worker()

    def add_worker(self) -> subprocess.Popen[bytes]:
        """One more worker."""
        number = len(self.processes)
        log = self.folder / f"worker-{number}.log"
        place = ["--host", LOOPBACK, "--port", "0", "--webui-port", "0", "--work-dir", str(self.folder / f"work-{number}")]
        size = ["--cores", "1", "--memory", "1g"]
        worker = spark_class(log, "org.apache.spark.deploy.worker.Worker", *place, *size, self.url)
        self.processes.append(worker)
        said(log, "Successfully registered with master", worker)
        return worker

    def executors(self, worker: subprocess.Popen[bytes]) -> list[int]:
        """The pids of a worker's executors."""
        return _children(worker.pid)

    def works(self, worker: subprocess.Popen[bytes]) -> bool:
        """Whether an executor of a worker has begun a task: it has started Python."""
        return any(_children(executor) for executor in self.executors(worker))

    def stop(self) -> None:
        """End all processes."""
        for process in reversed(self.processes):
            end(process)


def _children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in found.stdout.split()]


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def cluster(workers: int = 2) -> Iterator[Cluster]:
    """A cluster that lasts as long as the context."""
    folder = Path(tempfile.mkdtemp(prefix="lakehouse-cluster-"))
    running = Cluster(folder)
    try:
        running.start(workers)
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _spark_environment() -> dict[str, str]:
    return {**os.environ, "SPARK_HOME": str(HOME), "SPARK_LOCAL_IP": LOOPBACK, "PYSPARK_PYTHON": sys.executable}


def _variables(settings: Settings) -> dict[str, str]:
    """A deployment's settings as far as Spark needs them, as a container has them."""
    store = settings.store
    told = {"STORE__URL": store.url, "STORE__ENDPOINT": store.endpoint or "", "STORE__REGION": store.region}
    keys = {"STORE__ACCESS_KEY": store.access_key, "STORE__SECRET_KEY": store.secret_key}
    told |= {name: key.get_secret_value() for name, key in keys.items() if key}
    told |= {"CATALOG__URL": settings.catalog.url.get_secret_value(), "HOME": str(settings.home), "PROFILE": "external"}
    return {f"LAKEHOUSE_{name}": value for name, value in told.items() if value}


@contextmanager
def connect_server(settings: Settings, port: int) -> Iterator[str]:
    """A Connect server as the composed deployment starts it; its address."""
    folder = Path(tempfile.mkdtemp(prefix="lakehouse-connect-"))
    log = folder / "connect.log"
    own = {"CONNECT_PORT": str(port), "CONNECT_ADDRESS": LOOPBACK, "DRIVER_HOST": LOOPBACK, "EVENTS": str(folder)}
    path = os.pathsep.join([str(HOME / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    with log.open("wb") as stream:
        server = subprocess.Popen(
            ["sh", str(CONNECT), "local[2]"],
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            env={**_spark_environment(), **_variables(settings), **own, "PATH": path},
            start_new_session=True,
        )
    try:
        said(log, "Spark Connect server started", server)
        yield f"sc://{LOOPBACK}:{port}"
    finally:
        end(server)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    with cluster() as here:
        print(f"export LAKEHOUSE_ENGINE=spark LAKEHOUSE_SPARK__MASTER={here.url}", flush=True)
        print("Ctrl-C ends the cluster.", file=sys.stderr)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            sys.exit(0)
