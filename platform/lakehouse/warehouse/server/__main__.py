"""`python -m lakehouse.warehouse.server`: start the embedded ClickHouse and serve until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
import threading
from pathlib import Path
from typing import IO

from lakehouse.warehouse.server.engine import Engine
from lakehouse.warehouse.server.failures import EngineError
from lakehouse.warehouse.server.http import Server


def main() -> int:
    """Exit codes: 0 stopped on request, 1 the folder or the port is taken, 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m lakehouse.warehouse.server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, required=True, help="port of the HTTP interface; 0 takes a free one")
    parser.add_argument("--path", type=Path, required=True, help="data folder; one process at a time has it")
    arguments = parser.parse_args()
    path = arguments.path.absolute()
    path.mkdir(parents=True, exist_ok=True)
    with (path / "server.lock").open("a") as lock:
        if not _locked(lock):
            sys.stderr.write(f"Another server has the data folder {path}. Stop it, or give another --path.\n")
            return 1
        return _serve(path, arguments.host, arguments.port)


def _locked(lock: IO[str]) -> bool:
    """The system frees this lock when the process ends, however it ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _serve(path: Path, host: str, port: int) -> int:
    user = os.environ.get("LAKEHOUSE_SERVER_USER") or "default"
    password = os.environ.get("LAKEHOUSE_SERVER_PASSWORD", "")
    try:
        engine = Engine(path)
        server = Server((host, port), engine, user, password)
    except (EngineError, OSError) as error:
        sys.stderr.write(f"Cannot serve {path} on {host}:{port}: {error}\n")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    sys.stderr.write(f"Serving {path} on http://{host}:{server.server_port} (ClickHouse {engine.version})\n")
    sys.stderr.flush()
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    sys.stderr.write("Stopped\n")
    sys.stderr.flush()
    # Statements may still run in threads of the engine, which would keep the process; what was acknowledged is on disk.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
