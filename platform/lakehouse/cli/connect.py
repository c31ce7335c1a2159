"""`connect`: lines for other tools."""

from __future__ import annotations

import click

from lakehouse.cli.session import deployment
from lakehouse.pipeline.connect import TOOLS, lines_for


@click.command()
@click.argument("tool", type=click.Choice(list(TOOLS)))
def connect(tool: str) -> None:
    """Print the lines by which TOOL finds the lake's tables as source.table. They hold passwords.

    duckdb and clickhouse: statements; python: code for pyiceberg and deltalake, a function for each table; spark: configuration;
    trino: a catalog's properties.
    """
    for line in lines_for(tool, deployment()):
        click.echo(line)
