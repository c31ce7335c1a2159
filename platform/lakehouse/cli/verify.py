"""`verify`: recompute every copy of every table."""

from __future__ import annotations

import json
from typing import Any

import click

from lakehouse.cli.session import deployment
from lakehouse.cli.terminal import print_table, say
from lakehouse.pipeline.verify import CopyReport, TableReport, verify_source_tables


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(tables: tuple[str, ...], as_json: bool) -> None:
    """Recompute rows and checksums of every copy: source, raw, lake, warehouse. Exit 1 on a difference.

    TABLE is a source or source.table; all tables by default.
    """
    here = deployment()
    chosen = here.select(tables)
    reports: list[TableReport] = []
    for source in {source.name: source for source, _ in chosen}.values():
        own = [table for s, table in chosen if s.name == source.name]
        reports.extend(
            verify_source_tables(here, source, own, on_event=lambda name: None if as_json else say(f"verifying {name}"))
        )
    equal = all(report.equal for report in reports)
    if as_json:
        click.echo(json.dumps({"equal": equal, "tables": [_document(report) for report in reports]}, indent=2))
    else:
        _print(reports)
    if not equal:
        raise click.exceptions.Exit(1)


def _document(report: TableReport) -> dict[str, Any]:
    return {"table": report.table, "equal": report.equal, "copies": [_copy(copy) for copy in report.copies]}


def _copy(copy: CopyReport) -> dict[str, Any]:
    document: dict[str, Any] = {"copy": copy.copy, "sequence": copy.sequence, "rows": copy.rows, "checksum": copy.checksum}
    if copy.differs:
        document["differs"] = list(copy.differs)
    if copy.problem:
        document["problem"] = copy.problem
    if copy.pending:
        document["pending"] = copy.pending
    return document


def _print(reports: list[TableReport]) -> None:
    rows = [
        (report.table, copy.copy, copy.sequence, copy.rows, copy.checksum, _verdict(copy))
        for report in reports
        for copy in report.copies
    ]
    print_table(("table", "copy", "sequence", "rows", "checksum", "verdict"), rows, right=("sequence", "rows"))
    for report in reports:
        for copy in report.copies:
            if "\n" in copy.problem:
                say(f"{report.table}, {copy.copy}: {copy.problem}")
    wrong = [report.table for report in reports if not report.equal]
    if wrong:
        say(f"DIFFERENT: {', '.join(wrong)}")
    else:
        say(f"equal: every copy of {len(reports)} tables holds the same rows")


def _verdict(copy: CopyReport) -> str:
    """One line; a problem that takes more is told below the table."""
    words = []
    if copy.problem:
        words.append("CANNOT BE COMPARED, see below" if "\n" in copy.problem else copy.problem)
    if copy.differs:
        words.append(f"DIFFERS in {', '.join(copy.differs)}")
    verdict = "; ".join(words) or "equal"
    if copy.pending:
        verdict += f" ({copy.pending:,} rows changed in the source since; the next run lands them)"
    return verdict
