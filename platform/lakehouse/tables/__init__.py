"""Lake tables: the fold of a raw log, kept in an open format by an engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from lakehouse.errors import Unsupported
from lakehouse.settings import Settings
from lakehouse.stores import ObjectStore
from lakehouse.tables.engine import Applied, LakeTables, TableState, TableVersion
from lakehouse.tables.folds import FoldEngine
from lakehouse.tables.format import TableFormat

__all__ = ["ENGINES", "FORMATS", "Applied", "LakeTables", "TableState", "TableVersion", "open_tables"]


def _iceberg(settings: Settings, store: ObjectStore) -> TableFormat:
    from lakehouse.tables.iceberg.tables import IcebergTables

    return IcebergTables(settings, store)


def _delta(settings: Settings, store: ObjectStore) -> TableFormat:
    from lakehouse.tables.delta.tables import DeltaTables

    return DeltaTables(settings, store)


def _embedded(settings: Settings, store: ObjectStore) -> FoldEngine:
    from lakehouse.tables.embedded.engine import EmbeddedEngine

    return EmbeddedEngine(settings, store)


def _spark(settings: Settings, store: ObjectStore) -> FoldEngine:
    from lakehouse.tables.spark.engine import SparkEngine

    return SparkEngine(settings, store)


FORMATS: dict[str, Callable[[Settings, ObjectStore], TableFormat]] = {"iceberg": _iceberg, "delta": _delta}
"""Formats by the name that a declaration gives; nothing is imported before the first table of one is used."""

ENGINES: dict[str, Callable[[Settings, ObjectStore], FoldEngine]] = {"embedded": _embedded, "spark": _spark}
"""Engines by the name that the settings give. Each folds for every format, so that they can take turns on one table."""


def open_tables(settings: Settings, store: ObjectStore) -> LakeTables:
    """The lake tables of a deployment, by its engine. No I/O; Unsupported for an engine that there is not."""
    from lakehouse.tables.lake import Lake

    engine = ENGINES.get(settings.engine)
    if engine is None:
        raise Unsupported(
            f"opening lake tables with the engine {settings.engine!r}",
            value=settings.engine,
            allowed=", ".join(sorted(ENGINES)),
            remedy="Set LAKEHOUSE_ENGINE=embedded.",
        )
    formats = {name: partial(opener, settings, store) for name, opener in FORMATS.items()}
    return Lake(settings, store, formats, partial(engine, settings, store))
