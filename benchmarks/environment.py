"""Environments of other tools, apart from the project's own: what they need would not go together with it.

Each is made from a lock file in `benchmarks/tools/`, with its hashes, and kept in `.lakehouse-tools/` until that changes.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from benchmarks.measuring import ROOT, run

_LOCKS = ROOT / "benchmarks" / "tools"
_FOLDER = ROOT / ".lakehouse-tools"


def python_with(tools: str) -> Path:
    """The interpreter of the environment of the lock file `<tools>.lock`. CommandFailed when it cannot be made."""
    lock = _LOCKS / f"{tools}.lock"
    folder = _FOLDER / f"{tools}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    python, made = folder / "bin" / "python", folder / ".made"
    if not made.exists():
        run([sys.executable, "-m", "venv", "--clear", str(folder)], os.environ)
        uv = str(Path(sys.executable).with_name("uv"))
        run([uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(lock)], os.environ)
        made.touch()
    return python
