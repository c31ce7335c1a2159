"""The environment of the other tools, apart from the project's own: what they need would not go together with it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.measuring import ROOT, CommandFailed

_LOCK = Path(__file__).with_name("requirements.lock")
_FOLDER = ROOT / ".lakehouse-tools"


def tools_python() -> Path:
    """The interpreter of the tools' environment, made anew when its lock file has changed. Raises CommandFailed."""
    stamp = _FOLDER / f"{hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:16]}.installed"
    python = _FOLDER / "bin" / "python"
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(_FOLDER)], check=True)
        uv = Path(sys.executable).with_name("uv")
        command = [str(uv), "pip", "sync", "--quiet", "--require-hashes", "--python", str(python), str(_LOCK)]
        installed = subprocess.run(command, capture_output=True, text=True, check=False)
        if installed.returncode:
            raise CommandFailed(f"the other tools could not be installed:\n{installed.stderr[-2000:]}")
        stamp.touch()
    return python
