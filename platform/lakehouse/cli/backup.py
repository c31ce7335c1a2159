"""`backup`, `restore`: the catalog, Dagster's storage, and what the lake held."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lakehouse import services
from lakehouse.cli.pandas import show_pandas
from lakehouse.cli.session import deployment
from lakehouse.cli.terminal import print_table, say, size_of
from lakehouse.pipeline.backup import make_backup
from lakehouse.pipeline.backup_manifest import CATALOG, BackupManifest
from lakehouse.pipeline.restore import restore_backup

if TYPE_CHECKING:
    from lakehouse.pipeline.backup_database import StorageTables
    from lakehouse.settings import Settings

WITHOUT = click.option("--without-dagster", is_flag=True, help="Leave out Dagster's storage: runs, events, schedules' state.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.command()
@click.option(
    "--to", "url", required=True, help="Where backups are kept: file:///folder, or s3://bucket/prefix by the store's keys."
)
@WITHOUT
@JSON
def backup(url: str, without_dagster: bool, as_json: bool) -> None:
    """Copy what the lake cannot rebuild by itself: the Iceberg catalog and Dagster's storage. Safe beside runs.

    Raw files and lake tables are noted with their markers, not copied: replicate the bucket. The privacy key is not in it, only
    its fingerprint: keep the key elsewhere. docs/backup.md says what is lost with each piece.
    """
    here = deployment()
    manifest = make_backup(here, url, None if without_dagster else _storage(here.settings))
    if as_json:
        click.echo(json.dumps(asdict(manifest), indent=2, default=str, ensure_ascii=False))
        return
    _print(manifest, dagster=True)
    if manifest.dagster is None:
        say("without Dagster's storage" if without_dagster else "Dagster has no storage yet: left out")
    if manifest.privacy_key:
        say(f"the privacy key (fingerprint {manifest.privacy_key}) is not in it: keep it elsewhere")
    say(f"backup {manifest.name} is whole")


@click.command()
@click.option("--from", "url", required=True, help="Where the backups are kept.")
@click.option("--name", help="Which one [default: the newest whole one].")
@WITHOUT
@click.option("--newest", is_flag=True, help="Lead tables whose metadata file is gone to the newest that the store has.")
@click.option("--another-key", is_flag=True, help="Go on with another privacy key than the backup's; new tokens differ.")
@JSON
def restore(url: str, name: str | None, without_dagster: bool, newest: bool, another_key: bool, as_json: bool) -> None:
    """Put a backup's catalog and Dagster's storage back, into an empty catalog and an empty storage.

    Everything is checked first: the backup's own files, the lake's files that it refers to, the privacy key, that nothing is in
    the way. Safe to be killed: call it again. Then `lakehouse verify` compares every copy, and `lakehouse run` goes on.
    """
    here = deployment()
    storage = None if without_dagster else _storage(here.settings)
    done = restore_backup(
        here, url, storage, name=name, newest=newest, another_key=another_key, settle=lambda: _end_runs(here.settings)
    )
    if as_json:
        click.echo(json.dumps(asdict(done), indent=2, default=str, ensure_ascii=False))
        return
    _print(done.backup, dagster=done.dagster)
    for table, metadata in done.newer.items():
        say(f"{table}: what the backup names is gone; led to {metadata}")
    if not done.catalog:
        say("the catalog has these tables already" if done.backup.part(CATALOG).rows else "the backup's catalog has no tables")
    if not done.dagster:
        say("without Dagster's storage")
    for table, problem in done.lacking.items():
        say(f"{table}: {problem}; `lakehouse run` builds it anew from its raw log")
    for run in done.settled:
        say(f"run {run} was under way when the backup was made: ended")
    say(f"restored {done.backup.name}; now run `lakehouse verify`")


def _storage(settings: Settings) -> StorageTables:
    show_pandas()
    from lakehouse.orchestration.storage_tables import storage_tables

    return storage_tables(settings)


def _end_runs(settings: Settings) -> list[str]:
    if not (Path(os.environ["DAGSTER_HOME"]) / "dagster.yaml").is_file():
        services.write_instance(settings)
    from lakehouse.orchestration.dead_runs import end_restored_runs

    return end_restored_runs()


def _print(manifest: BackupManifest, *, dagster: bool) -> None:
    """The parts with their rows and bytes, and the lake's tables, of which the backup holds the places."""
    parts = [
        (part.path, part.rows, size_of(part.bytes)) for part in manifest.parts if dagster or not part.path.startswith("dagster/")
    ]
    print_table(("part", "rows", "size"), parts, right=("rows", "size"))
    click.echo()
    lake = [(one.table, one.format, one.sequence, one.rows, one.checksum) for one in manifest.lake]
    print_table(("lake table", "format", "sequence", "rows", "checksum"), lake, right=("sequence", "rows"))
