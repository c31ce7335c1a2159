"""`sql`: query any layer."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import click
import pyarrow as pa

from lakehouse.cli.session import deployment
from lakehouse.cli.terminal import print_table
from lakehouse.pipeline.query import query


@click.command()
@click.argument("statement", metavar="QUERY")
@click.option("--on", default="lake", show_default=True, metavar="LAYER", help="lake, warehouse, or the name of a source.")
@click.option(
    "--as-of", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]), help="A lake as of a UTC time."
)
@click.option("--version", help="A lake table's version, by number or name, as `show` lists them.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True)
def sql(statement: str, on: str, as_of: datetime | None, version: str | None, form: str) -> None:
    """Run QUERY on a layer and print the result. A lake table is source.table, a published one source__table."""
    moment = as_of.replace(tzinfo=UTC) if as_of else None
    result = query(deployment(), statement, on=on, version=version, as_of=moment)
    if form == "table":
        numbers = [f.name for f in result.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
        print_table(result.column_names, [tuple(row.values()) for row in result.to_pylist()], right=numbers)
    elif form == "json":
        click.echo(json.dumps(result.to_pylist(), default=str, ensure_ascii=False, indent=2))
    elif form == "csv":
        from pyarrow import csv

        csv.write_csv(result, sys.stdout.buffer)
    else:
        from pyarrow import parquet

        sink = pa.BufferOutputStream()
        parquet.write_table(result, sink)
        sys.stdout.buffer.write(sink.getvalue().to_pybytes())
