"""`verify`: recompute every copy of every table."""

from __future__ import annotations

import json
from typing import Any

import click

from lakehouse.cli.session import deployment
from lakehouse.cli.terminal import print_table, say
from lakehouse.pipeline.verify import CopyReport, TableReport, verify_source_tables
from lakehouse.pipeline.verify_results import keep_results


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--deep", is_flag=True, help="Read every row of every copy, whatever an earlier verification has read.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def verify(tables: tuple[str, ...], deep: bool, as_json: bool) -> None:
    """Recompute rows and checksums of every copy: source, raw, lake, warehouse. Exit 1 on a difference.

    TABLE is a source or source.table; all tables by default. What an earlier verification found equal and nothing has changed
    since is not read again; how much that is, and since when, is said.
    """
    here = deployment()
    chosen = here.select(tables)
    reports: list[TableReport] = []
    for source in {source.name: source for source, _ in chosen}.values():
        own = [table for s, table in chosen if s.name == source.name]
        reports.extend(verify_source_tables(here, source, own, on_event=_quiet if as_json else say, deep=deep))
    kept = keep_results(here, reports, on_event=say)
    equal = all(report.equal for report in reports)
    if as_json:
        click.echo(json.dumps({"equal": equal, "kept": kept, "tables": [_document(report) for report in reports]}, indent=2))
    else:
        _print(reports)
    if not equal:
        raise click.exceptions.Exit(1)


def _quiet(text: str) -> None:
    return


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
    document |= {"read": copy.read, "taken": copy.taken}
    if copy.since is not None:
        document["since"] = copy.since.isoformat()
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
    _print_reading(reports)
    wrong = [report.table for report in reports if not report.equal]
    if wrong:
        say(f"DIFFERENT: {', '.join(wrong)}")
    else:
        say(f"equal: every copy of {len(reports)} tables holds the same rows")


def _print_reading(reports: list[TableReport]) -> None:
    """How much was read, and what was not: of each table that an earlier verification spared something."""
    for report in reports:
        spared = [copy for copy in report.copies if copy.taken]
        if spared:
            told = ", ".join(f"{copy.copy} {copy.taken:,} of {copy.read + copy.taken:,}" for copy in spared)
            since = min(copy.since for copy in spared if copy.since is not None)
            say(f"{report.table}: rows not read again: {told}; unchanged since they were found equal, {since:%Y-%m-%d %H:%M} UTC")
    read, taken = (sum(getattr(copy, name) for report in reports for copy in report.copies) for name in ("read", "taken"))
    say(f"{read:,} rows read" + (f", {taken:,} known from earlier verifications (--deep reads all)" if taken else ""))


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
