"""Lake tables: the fold of a raw log, kept in an open format by an engine."""

from __future__ import annotations

from collections.abc import Callable

from lakehouse.errors import Unsupported
from lakehouse.settings import Settings
from lakehouse.stores import ObjectStore
from lakehouse.tables.engine import Applied, LakeTables, TableState, TableVersion

__all__ = ["ENGINES", "Applied", "LakeTables", "TableState", "TableVersion", "open_tables"]


def _embedded_iceberg(settings: Settings, store: ObjectStore) -> LakeTables:
    from lakehouse.tables.iceberg.embedded import EmbeddedIceberg

    return EmbeddedIceberg(settings, store)


ENGINES: dict[tuple[str, str], Callable[[Settings, ObjectStore], LakeTables]] = {("embedded", "iceberg"): _embedded_iceberg}
"""Engine and format, and what opens them; nothing is imported before it is opened."""


def open_tables(settings: Settings, store: ObjectStore, table_format: str = "iceberg") -> LakeTables:
    """The lake tables of a deployment, by its engine. No I/O; Unsupported when the engine cannot write the format."""
    opener = ENGINES.get((settings.engine, table_format))
    if opener is None:
        able = sorted(engine for engine, format_ in ENGINES if format_ == table_format)
        raise Unsupported(
            f"opening {table_format} tables with the engine {settings.engine!r}",
            value=settings.engine,
            allowed=f"engines that write {table_format}: {', '.join(able) or 'none'}",
            remedy=f"Set LAKEHOUSE_ENGINE={able[0]}." if able else "Declare another format.",
        )
    return opener(settings, store)
