"""`status`, `tables`, `show`: look at the deployment."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click

from lakehouse import services
from lakehouse.cli.session import deployment, stopped_servers
from lakehouse.cli.terminal import print_table, say, size_of
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.repair_record import REBUILDS, RepairRecord, read_records
from lakehouse.pipeline.status import SourceStatus, TableStatus, source_status, table_status
from lakehouse.settings import load_settings
from lakehouse.spec import Table
from lakehouse.spec.types import declared_type, field_doc


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(as_json: bool) -> None:
    """Services, sources and tables: what runs, what can be read, what is behind. Exit 1 when something is not well."""
    settings = load_settings()
    found = services.status(settings)
    stopped = stopped_servers(settings)
    sources, tables = ([], []) if stopped else _asked(deployment())
    if as_json:
        document: dict[str, list[Any]] = {"services": found, "sources": sources}
        shown = {key: [_plain(asdict(item)) for item in items] for key, items in document.items()}
        click.echo(json.dumps({**shown, "tables": _documents(tables)}, indent=2))
    else:
        print_table(
            ("service", "state", "address", "pid", "data"),
            [(s.name, s.state, s.address, str(s.pid or ""), size_of(s.data_bytes)) for s in found],
            right=("pid", "data"),
        )
        for service in found:
            if service.detail:
                say(f"{service.name}: {service.detail}")
        if stopped:
            say(f"Not running: {', '.join(stopped)}; `lakehouse up` starts them. Sources and tables were not looked at.")
        else:
            click.echo()
            _print_sources(sources)
            click.echo()
            _print_tables(tables)
    problems = [*(s.problem for s in sources), *(t.problem for t in tables), *(d for t in tables for d in t.damaged)]
    if stopped or any(s.state == "unhealthy" for s in found) or any(problems):
        raise click.exceptions.Exit(1)


def _asked(here: Deployment) -> tuple[list[SourceStatus], list[TableStatus]]:
    sources = [source_status(here, source) for source in here.sources]
    return sources, [table_status(here, source, table) for source, table in here.select()]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def tables(as_json: bool) -> None:
    """The declared tables: mode, rows, size, and where each hop is."""
    here = deployment()
    found = [table_status(here, source, table) for source, table in here.select()]
    if as_json:
        click.echo(json.dumps(_documents(found), indent=2))
    else:
        _print_tables(found)
    if any(item.problem or item.damaged for item in found):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("table")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(table: str, as_json: bool) -> None:
    """One TABLE (source.table): its declaration, columns, partitions, versions, last repairs and rebuilds."""
    here = deployment()
    chosen = here.select([table])
    if len(chosen) > 1:
        _print_tables([table_status(here, source, declared) for source, declared in chosen])
        return
    source, declared = chosen[0]
    found = table_status(here, source, declared)
    repairs = read_records(here, source, declared)
    rebuilds = read_records(here, source, declared, folder=REBUILDS)
    state = here.lake.state(source.name, declared) if found.lake_sequence else None
    columns = [(f.name, declared_type(f), not f.nullable, field_doc(f)) for f in state.schema] if state else []
    partitions = here.lake.partitions(source.name, declared) if state else {}
    history = here.lake.history(source.name, declared) if state else []
    named: dict[int, list[str]] = {}
    for name, version in (here.lake.tags(source.name, declared) if state else {}).items():
        named.setdefault(version, []).append(name)
    versions = [
        (
            str(v.version),
            ", ".join(named.get(v.version, [])),
            v.committed_at.isoformat(),
            v.operation,
            v.marker.sequence,
            v.marker.rows,
            v.marker.checksum,
        )
        for v in history
    ]
    if as_json:
        document = {
            "declaration": _plain(asdict(declared)),
            "status": _documents([found])[0],
            "columns": [dict(zip(("name", "type", "required", "description"), column, strict=True)) for column in columns],
            "partitions": partitions,
            "versions": [{**_plain(asdict(v)), "names": named.get(v.version, [])} for v in history],
            "repairs": [_plain(asdict(repair)) for repair in repairs],
            "rebuilds": [_plain(asdict(rebuild)) for rebuild in rebuilds],
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(f"{found.table}: {declared.description}")
    click.echo(f"mode {found.mode}, key {', '.join(declared.key)}, format {declared.format}, {found.state}")
    if declared.soft_delete:
        marked = f"{found.marked:,} of {found.warehouse_rows:,} published rows are marked as deleted by {declared.soft_delete}"
        click.echo(f"{marked}; {_seen(declared)}")
    click.echo()
    print_table(("column", "type", "required", "description"), columns)
    click.echo()
    print_table(("partition", "rows"), list(partitions.items())[-20:], right=("rows",), title=f"{len(partitions)} partitions")
    click.echo()
    header = ("version", "names", "committed", "operation", "sequence", "rows", "checksum")
    print_table(header, versions[-20:], right=("sequence", "rows"), title=f"{len(versions)} versions")
    _print_records("repaired", "Last repairs", repairs)
    _print_records("rebuilt", "Last rebuilds", rebuilds)
    for words in filter(None, (found.problem, *found.behind, *found.damaged)):
        say(f"{found.table}: {words}")


def _seen(table: Table) -> str:
    """What becomes of marked rows."""
    return "readers of the warehouse do not see them" if table.hides else "readers of the warehouse see them"


def _print_records(when: str, title: str, records: list[RepairRecord]) -> None:
    if records:
        click.echo()
        shown = [(r.began, r.who, "; ".join(r.done), r.problem or ("" if r.ended else "did not end")) for r in records]
        print_table((when, "by", "what was done", "problem"), shown, title=title)


def _documents(found: list[TableStatus]) -> list[dict[str, Any]]:
    return [{**_plain(asdict(status)), "state": status.state} for status in found]


def _print_sources(found: list[SourceStatus]) -> None:
    rows = [(s.source, s.kind, "cannot be read as declared" if s.problem else "can be read") for s in found]
    print_table(("source", "kind", "state"), rows)
    for status in found:
        if status.problem:
            say(f"{status.source}: {status.problem}")
        for warning in status.warnings:
            say(f"{status.source}: {warning}")


def _print_tables(found: list[TableStatus]) -> None:
    header = (
        "table",
        "mode",
        "rows",
        "raw",
        "lake",
        "warehouse",
        "raw size",
        "lake size",
        "warehouse size",
        "last landed",
        "state",
    )
    rows = [
        (
            s.table,
            s.mode,
            s.rows,
            s.raw_sequence,
            s.lake_sequence,
            s.warehouse_sequence,
            size_of(s.raw_bytes),
            size_of(s.lake_bytes),
            size_of(s.warehouse_bytes),
            f"{s.last_landed:%Y-%m-%d %H:%M:%S}" if s.last_landed else "",
            s.state,
        )
        for s in found
    ]
    print_table(header, rows, right=header[2:9])
    for status in found:
        for words in filter(None, (status.problem, *status.behind, *status.damaged)):
            say(f"{status.table}: {words}")
        if status.marked:
            say(f"{status.table}: rows marked as deleted: {status.marked:,}")
        if status.quarantined:
            say(f"{status.table}: rows in quarantine: {status.quarantined:,} (`lakehouse quarantine list {status.table}`)")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)
