"""What each table holds at each hop, and how far each hop is behind the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.spec import Source, Table


@dataclass(frozen=True)
class TableStatus:
    """One table: sequences of its copies (0: none), rows and bytes of each, when it last landed and was last applied."""

    table: str
    mode: str
    rows: int
    raw_sequence: int
    lake_sequence: int
    warehouse_sequence: int
    warehouse_rows: int
    raw_bytes: int
    lake_bytes: int
    warehouse_bytes: int
    last_landed: datetime | None
    last_applied: datetime | None
    problem: str = ""

    @property
    def state(self) -> str:
        """In words: where the table is behind."""
        if self.problem:
            return "cannot be read"
        if not self.raw_sequence:
            return "never extracted"
        if self.lake_sequence < self.raw_sequence:
            return f"lake is {self.raw_sequence - self.lake_sequence} batches behind"
        if self.warehouse_sequence != self.lake_sequence:
            return "warehouse is behind the lake"
        return "up to date"


@dataclass(frozen=True)
class SourceStatus:
    """One source: whether it can be read as it is declared; `problem` is empty when it can. warnings: what makes reading slow."""

    source: str
    kind: str
    problem: str = ""
    warnings: tuple[str, ...] = ()


def table_status(deployment: Deployment, source: Source, table: Table) -> TableStatus:
    """Look at one table's copies; what cannot be read is said in `problem`."""
    name = f"{source.name}.{table.name}"
    try:
        entries = deployment.log(source, table).entries()
        state = deployment.lake.state(source.name, table)
        published = deployment.warehouse.state(source.name, table)
    except LakehouseError as error:
        return TableStatus(name, table.mode, 0, 0, 0, 0, 0, 0, 0, 0, None, None, problem=str(error))
    files = {file.path: file.bytes for entry in entries for file in entry.manifest.files}
    return TableStatus(
        table=name,
        mode=table.mode,
        rows=state.current.marker.rows if state else 0,
        raw_sequence=entries[-1].sequence if entries else 0,
        lake_sequence=state.current.marker.sequence if state else 0,
        warehouse_sequence=published.marker.sequence if published else 0,
        warehouse_rows=published.marker.rows if published else 0,
        raw_bytes=sum(files.values()),
        lake_bytes=state.bytes if state else 0,
        warehouse_bytes=published.bytes if published else 0,
        last_landed=entries[-1].manifest.created_at if entries else None,
        last_applied=state.current.committed_at if state else None,
    )


def check_sources(deployment: Deployment, chosen: Sequence[tuple[Source, Table]]) -> None:
    """Connect to each source of the chosen tables and compare it with the declaration; the first that is not as it should raises.

    Raises SourceUnavailable, ConfigurationError or SourceMismatch; nothing was done.
    """
    for source in {source.name: source for source, _ in chosen}.values():
        with closing(deployment.reader(source)) as reader:
            reader.check([table for of, table in chosen if of.name == source.name])


def source_status(deployment: Deployment, source: Source) -> SourceStatus:
    """Connect to a source and compare it with its declaration."""
    try:
        with closing(deployment.reader(source)) as reader:
            reader.check(source.tables)
            warnings = tuple(f"{table.name}: {warning}" for table in source.tables for warning in reader.warnings(table))
    except LakehouseError as error:
        return SourceStatus(source.name, source.kind, str(error))
    return SourceStatus(source.name, source.kind, warnings=warnings)
