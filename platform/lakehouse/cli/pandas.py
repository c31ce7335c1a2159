"""Short commands do without pandas.

pyarrow looks for it with its first array, and imports it where it is installed, which chDB sees to: half a CPU second of every
command, though none uses it. What it has looked for once it does not look for again, unless something is converted to pandas.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

PANDAS = "pandas"


class _Hidden:
    """An import hook that knows of no pandas."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == PANDAS:
            raise ModuleNotFoundError(name=name)
        return None


def hide_pandas() -> None:
    """Let pyarrow find no pandas; anybody else finds it."""
    if PANDAS in sys.modules:
        return
    sys.meta_path.insert(0, _Hidden)
    try:
        import pyarrow

        pyarrow.array([0])
    finally:
        sys.meta_path.remove(_Hidden)


def show_pandas() -> None:
    """Let pyarrow find it after all, so that it knows what to make of a Series: code of the deployment's own may use it."""
    import pyarrow

    try:
        _ = pyarrow.lib._pandas_api.version
    except ImportError:
        return
