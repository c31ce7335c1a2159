"""The sources that the deployment in the working folder declares."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from lakehouse.errors import ConfigurationError
from lakehouse.settings import Settings
from lakehouse.spec import Source


def declared_sources(settings: Settings) -> tuple[Source, ...]:
    """The sources that the deployment in the working folder declares (`LAKEHOUSE_DECLARATIONS`)."""
    module_name, _, attribute = settings.declarations.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        declared = getattr(importlib.import_module(module_name), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigurationError(
            f"loading the declared sources from {settings.declarations!r}",
            value=str(error),
            allowed="module:attribute of a tuple of Source, importable from the working folder",
            remedy="Run in the deployment's folder (where workspace.yaml is), or set LAKEHOUSE_DECLARATIONS.",
        ) from error
    return tuple(declared)
