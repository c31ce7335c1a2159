"""What the commands print: progress on a terminal, plain lines in a pipe, tables for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal

import click


def say(text: str) -> None:
    """A line of progress, on standard error: standard output is for results."""
    click.echo(text, err=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = (), title: str = "") -> None:
    """A table on standard output: ruled on a terminal, aligned by blanks in a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title or None, title_justify="left")
        for name in header:
            table.add_column(name, justify="right" if name in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(text_of(value) for value in row))
        Console().print(table)
        return
    if title:
        click.echo(title)
    lines = [list(header), *([text_of(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [cell.rjust(w) if name in right else cell.ljust(w) for cell, w, name in zip(line, widths, header, strict=True)]
        click.echo("  ".join(cells).rstrip())


def text_of(value: object) -> str:
    """A cell: numbers with separators, nothing for None, no line breaks."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float | Decimal):
        value = float(value)
        return f"{value:,.4g}" if 0 < abs(value) < 1 else f"{value:,.2f}"
    return str(value).replace("\n", " ")


def size_of(count: int) -> str:
    """Bytes in the unit that people read."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
