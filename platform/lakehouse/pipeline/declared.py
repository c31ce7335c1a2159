"""The sources that the deployment in the working folder declares."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from lakehouse.errors import ConfigurationError, DeclarationError
from lakehouse.settings import Settings
from lakehouse.spec import Source


def declared_sources(settings: Settings) -> tuple[Source, ...]:
    """The sources that the deployment in the working folder declares (`LAKEHOUSE_DECLARATIONS`).

    Raises ConfigurationError when there are none to be found, DeclarationError when what is there cannot be meant.
    """
    module_name, _, attribute = settings.declarations.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise _nothing_here(settings, str(error)) from None
        raise _malformed(settings, error) from error
    except (ImportError, AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
        raise _malformed(settings, error) from error
    declared = getattr(module, attribute, None)
    if declared is None:
        raise _nothing_here(settings, f"module {module_name!r} has no attribute {attribute!r}")
    sources = (declared,) if isinstance(declared, Source) else tuple(declared)
    for source in sources:
        if not isinstance(source, Source):
            raise DeclarationError(
                f"loading the declared sources from {settings.declarations!r}",
                value=source,
                allowed="a tuple of Source",
                remedy=f"Write {attribute} = (…,) with the sources of the deployment.",
            )
    return sources


def _nothing_here(settings: Settings, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"loading the declared sources from {settings.declarations!r} in {Path.cwd()}",
        value=found,
        allowed="module:attribute of a tuple of Source, importable from the working folder",
        remedy="Run in the deployment's folder (where workspace.yaml is), or set LAKEHOUSE_DECLARATIONS.",
    )


def _malformed(settings: Settings, error: Exception) -> DeclarationError:
    """Python's own error, with the place in the declarations where it came up."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(Path.cwd()))]
    place = f"{ours[-1].filename}:{ours[-1].lineno}" if ours else ""
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    return DeclarationError(
        f"loading the declared sources from {settings.declarations!r}",
        value=f"{type(error).__name__}: {error}{f' at {place}' if place else ''}",
        allowed="Python that imports, and the fields of lakehouse.Source, lakehouse.Table and lakehouse.Column",
        remedy="Correct the declaration.",
    )
