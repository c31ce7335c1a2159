"""Recompute rows and checksum of every copy of a table, and say where they differ.

Raw is the reference, its files proved by their own checksums; when it is damaged, the lake is. How the source is compared is
said in `lakehouse.pipeline.verify_source`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.verify_source import compare_source
from lakehouse.raw import RawLog
from lakehouse.rows.checksum import checksums_by, total
from lakehouse.rows.duck import connect_duckdb
from lakehouse.rows.partition import PARTITION, with_partition
from lakehouse.sources.reader import SourceSnapshot
from lakehouse.spec import RowChecksum, Source, Table

Parts = dict[str, RowChecksum]
COPIES = ("source", "raw", "lake", "warehouse")


@dataclass(frozen=True)
class CopyReport:
    """One copy of a table as it was found.

    sequence: the raw sequence that it holds (for the source: the one that it was compared with). differs: the partitions whose
    rows are not those of the reference. problem: why the copy could not be read, or what is wrong with it. pending: rows that
    the source has since changed, and that the next run will land.
    """

    copy: str
    sequence: int
    rows: int
    checksum: str
    differs: tuple[str, ...] = ()
    problem: str = ""
    pending: int = 0

    @property
    def equal(self) -> bool:
        """Whether the copy holds just the rows that it should."""
        return not self.differs and not self.problem


@dataclass(frozen=True)
class TableReport:
    """All copies of one table."""

    table: str
    copies: tuple[CopyReport, ...]

    @property
    def equal(self) -> bool:
        """Whether every copy holds the same rows."""
        return all(copy.equal for copy in self.copies)


@dataclass
class _Found:
    sequence: int = 0
    parts: Parts = field(default_factory=dict)
    problem: str = ""
    there: bool = True


def verify_source_tables(
    deployment: Deployment, source: Source, tables: list[Table], on_event: Callable[[str], None] = lambda _: None
) -> list[TableReport]:
    """Verify tables of one source, read from one view of it; a source that cannot be reached is named in each report."""
    with closing(deployment.reader(source)) as reader:
        try:
            reader.check(tables)
            with reader.snapshot() as snapshot:
                return [_verify(deployment, source, table, snapshot, "", on_event) for table in tables]
        except LakehouseError as error:
            return [_verify(deployment, source, table, None, str(error), on_event) for table in tables]


def _verify(
    deployment: Deployment,
    source: Source,
    table: Table,
    snapshot: SourceSnapshot | None,
    unreachable: str,
    on_event: Callable[[str], None],
) -> TableReport:
    on_event(f"{source.name}.{table.name}")
    settings = deployment.settings
    log = deployment.log(source, table)
    limit = settings.memory_limit_mb
    # Two databases: a result that one of them streams cannot be the input of another statement of the same one.
    with connect_duckdb(memory_limit_mb=limit) as connection, connect_duckdb(memory_limit_mb=limit) as folded:
        schema, raw = _raw(folded, log, table)
        lake = _lake(deployment, source, table, schema)
        warehouse = _warehouse(deployment, source, table)
        if schema is None and not raw.problem:
            if not lake.there and not warehouse.there:
                empty = tuple(CopyReport(copy, 0, 0, RowChecksum(0, 0).hex) for copy in COPIES)
                return TableReport(f"{source.name}.{table.name}", empty)
            raw.problem = "the raw log is empty, but there is a table that was built from one: its files are gone"
        reference = raw if not raw.problem else lake
        reports = [_report(name, found, reference) for name, found in (("raw", raw), ("lake", lake), ("warehouse", warehouse))]
        if snapshot is None or schema is None:
            problem = unreachable or "not compared: the raw log is damaged"
            first = CopyReport("source", reference.sequence, 0, RowChecksum(0, 0).hex, problem=problem)
        else:
            first = _source(deployment, source, table, snapshot, folded, connection, reference)
    return TableReport(f"{source.name}.{table.name}", (first, *reports))


def _raw(folded: duckdb.DuckDBPyConnection, log: RawLog, table: Table) -> tuple[pa.Schema | None, _Found]:
    found = _Found()
    try:
        found.sequence = log.head()
        if not found.sequence:
            return None, found
        with log.current_rows(folded) as rows:
            folded.execute(f"create table raw_rows as select * from {rows.relation}")
            reader = folded.execute("select * from raw_rows").to_arrow_reader(65536)
            found.parts = _parts((batch.cast(rows.schema) for batch in reader), rows.schema, table)
            return rows.schema, found
    except LakehouseError as error:
        found.problem = str(error)
        return None, found


def _lake(deployment: Deployment, source: Source, table: Table, schema: pa.Schema | None) -> _Found:
    """The lake's rows also when its version has no marker: then somebody else wrote it, and the rows say where."""
    found = _Found()
    try:
        state = deployment.lake.state(source.name, table)
        if state is None:
            found.problem, found.there = "the table was not built yet: run `lakehouse run`", False
            return found
        found.sequence = state.current.marker.sequence
        schema = state.schema
    except LakehouseError as error:
        found.problem = str(error)
        if schema is None:
            return found
    try:
        found.parts = _parts(deployment.lake.scan(source.name, table), schema, table)
    except (LakehouseError, OSError, pa.ArrowException) as error:
        found.problem = f"cannot be read: {error}"
    return found


def _warehouse(deployment: Deployment, source: Source, table: Table) -> _Found:
    found = _Found()
    try:
        published = deployment.warehouse.state(source.name, table)
        state = deployment.lake.state(source.name, table)
        if published is None or state is None:
            found.problem = "the table was not published yet: run `lakehouse run`"
            found.there = published is not None
            return found
        found.sequence = published.marker.sequence
        batches = deployment.warehouse.scan(source.name, table, state.schema)
        found.parts = _parts(batches, state.schema, table)
    except (LakehouseError, OSError, pa.ArrowException) as error:
        found.problem = f"cannot be read: {error}"
    return found


def _parts(batches: Iterator[pa.RecordBatch], schema: pa.Schema, table: Table) -> Parts:
    return checksums_by(with_partition(batches, table.partition), schema, PARTITION)


def _report(name: str, found: _Found, reference: _Found) -> CopyReport:
    rows = total(found.parts.values())
    problem = found.problem
    if not problem and found.sequence != reference.sequence:
        word = "behind" if found.sequence < reference.sequence else "ahead"
        problem = f"{word}: it holds sequence {found.sequence} of {reference.sequence}; run `lakehouse run`"
    differs = () if found.problem and not found.parts else _differing(found.parts, reference.parts)
    return CopyReport(name, found.sequence, rows.rows, rows.hex, differs, problem)


def _differing(parts: Parts, reference: Parts) -> tuple[str, ...]:
    nothing = RowChecksum(0, 0)
    names = sorted({*parts, *reference})
    return tuple(name for name in names if parts.get(name, nothing) != reference.get(name, nothing))


def _source(
    deployment: Deployment,
    source: Source,
    table: Table,
    snapshot: SourceSnapshot,
    folded: duckdb.DuckDBPyConnection,
    connection: duckdb.DuckDBPyConnection,
    reference: _Found,
) -> CopyReport:
    try:
        compared = compare_source(deployment, source, table, snapshot, folded, connection)
    except LakehouseError as error:
        return CopyReport("source", reference.sequence, 0, RowChecksum(0, 0).hex, problem=f"cannot be read: {error}")
    return CopyReport(
        "source",
        reference.sequence,
        compared.rows.rows,
        compared.rows.hex,
        compared.differs,
        "",
        compared.pending,
    )
