"""SQL over any layer: the lake and the sources by the embedded engine, the warehouse by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime

import duckdb
import pyarrow as pa

from lakehouse.errors import WrongUse
from lakehouse.pipeline.deployment import Deployment, with_quarantines
from lakehouse.pipeline.tags import version_named
from lakehouse.rows.duck import connect_duckdb, incoming, quoted
from lakehouse.spec import History, Source, Table

LAYERS = ("lake", "warehouse")


def query(
    deployment: Deployment, sql: str, *, on: str = "lake", version: str | None = None, as_of: datetime | None = None
) -> pa.Table:
    """The result of `sql` on the lake, the warehouse, or a source by its name.

    A lake table is `source.table`, as is a source's; a published one is `source__table`. version (a number or a name), as_of: of
    the lake tables that the statement names. Raises WrongUse with the engine's own words for a statement that it refuses.
    """
    if on == "warehouse":
        if version is not None or as_of is not None:
            raise WrongUse(
                "querying the warehouse as of a version",
                value=str(version or as_of),
                allowed="--version and --as-of with --on lake",
                remedy="Query the lake, which keeps its versions.",
            )
        return deployment.warehouse.query(sql)
    if on not in LAYERS and on not in {source.name for source in deployment.sources}:
        layers = [*LAYERS, *(source.name for source in deployment.sources)]
        raise WrongUse("choosing where to query", value=on, allowed=", ".join(layers), remedy="Name one of these with --on.")
    settings = deployment.settings
    with connect_duckdb(
        threads=settings.threads, memory_limit_mb=settings.memory_limit_mb, temp_directory=settings.home / "tmp"
    ) as connection:
        for source, table in _named_in(deployment, sql, on):
            if on == "lake":
                _load_lake(deployment, connection, source, table, version, as_of)
            else:
                _load_source(deployment, connection, source, table)
        try:
            return connection.execute(sql).to_arrow_table()
        except duckdb.Error as error:
            names = ", ".join(f"{s.name}.{t.name}" for s, t in deployment.select())
            raise WrongUse(
                "running the statement", value=str(error), allowed=f"SQL of DuckDB over {names}", remedy="Correct the statement."
            ) from error


def _named_in(deployment: Deployment, sql: str, on: str) -> list[tuple[Source, Table]]:
    words = sql.replace('"', "").lower()
    tables = (
        list(with_quarantines(deployment.select()))
        if on == "lake"
        else [(s, t) for s, t in deployment.select([on]) if not isinstance(t, History)]
    )
    return [(s, t) for s, t in tables if re.search(rf"\b{re.escape(f'{s.name}.{t.name}')}(?!\w)", words)]


def _load_lake(
    deployment: Deployment,
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    table: Table,
    version: str | None,
    as_of: datetime | None,
) -> None:
    state = deployment.lake.state(source.name, table)
    if state is None:
        raise WrongUse(
            f"querying {source.name}.{table.name}", value="the table was not built yet", remedy="Build it with `lakehouse run`."
        )
    number = None if version is None else version_named(deployment, source, table, version)
    if as_of is not None:
        number = _version_at(deployment, source, table, as_of)
    _load(connection, source, table, deployment.lake.scan(source.name, table, version=number))


def _version_at(deployment: Deployment, source: Source, table: Table, as_of: datetime) -> int:
    history = deployment.lake.history(source.name, table)
    earlier = [version for version in history if version.committed_at <= as_of]
    if not earlier:
        oldest = history[0].committed_at.isoformat() if history else "none"
        raise WrongUse(
            f"querying {source.name}.{table.name} as of {as_of.isoformat()}",
            value=f"oldest version: {oldest}",
            allowed="a moment at or after the oldest version that is kept",
            remedy=f"Look at the versions with `lakehouse show {source.name}.{table.name}`.",
        )
    return earlier[-1].version


def _load_source(deployment: Deployment, connection: duckdb.DuckDBPyConnection, source: Source, table: Table) -> None:
    with closing(deployment.reader(source)) as reader:
        reader.check([table])
        with reader.snapshot() as snapshot:
            _load(connection, source, table, snapshot.read(table, None, None if table.on_refused == "stop" else lambda _: None))


def _load(connection: duckdb.DuckDBPyConnection, source: Source, table: Table, batches: Iterator[pa.RecordBatch]) -> None:
    first = next(batches, None)
    if first is None:
        first = pa.RecordBatch.from_pylist([], schema=pa.schema([(name, pa.string()) for name in table.key]))

    def everything() -> Iterator[pa.RecordBatch]:
        yield first
        yield from batches

    connection.execute(f"create schema if not exists {quoted(source.name)}")
    with incoming(connection, "incoming_rows", everything(), first.schema):
        connection.execute(f"create table {quoted(source.name)}.{quoted(table.name)} as select * from incoming_rows")
