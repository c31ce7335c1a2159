"""Looking after a lake table: many small files made into few, old versions forgotten, and files that nobody names removed.

Before versions are forgotten, the last one of a month gets a name, where that is declared. Each of these is safe at any moment
and beside any writer. A compaction, a name and an expiry are one commit each, which goes through only if nobody moved the table;
the files that they leave behind are orphans, and go when they are older than every writer that could still name them
(`lakehouse.pipeline.orphans`). Whatever is killed is done by the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.attempts import until_won
from lakehouse.pipeline.deployment import Deployment, with_quarantines
from lakehouse.pipeline.orphans import Orphans, find_orphans, oldest_writer, remove_orphans
from lakehouse.pipeline.publish import publish_table
from lakehouse.spec import Source, Table
from lakehouse.tables.engine import Fragments, Keep


@dataclass(frozen=True)
class Size:
    """What a lake table takes. files, bytes: of the current version; versions: those that can be read; stored: bytes of all of
    its objects in the store."""

    files: int
    bytes: int
    versions: int
    stored: int


@dataclass(frozen=True)
class Maintained:
    """What was done to a table, or (dry) what there is to do; `before` and `after` are equal then.

    compact: the partitions of many files. named: the names that versions get. expired: the versions. removed: files and tables
    that nobody named, and their bytes. skipped: copies whose orphans were not looked for, and why.
    """

    table: str
    before: Size
    after: Size
    compact: Mapping[str, Fragments] = field(default_factory=dict)
    named: Mapping[str, int] = field(default_factory=dict)
    expired: tuple[int, ...] = ()
    removed: int = 0
    removed_bytes: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.compact or self.named or self.expired or self.removed)


def maintain_tables(
    deployment: Deployment, chosen: Sequence[tuple[Source, Table]], *, dry: bool = False
) -> tuple[list[Maintained], dict[str, LakehouseError]]:
    """Look after tables and their quarantines, one after the other; those that were built, and by name why others were not."""
    done: list[Maintained] = []
    failed: dict[str, LakehouseError] = {}
    for source, table in with_quarantines(chosen):
        try:
            found = maintain_table(deployment, source, table, dry=dry)
        except LakehouseError as error:
            failed[f"{source.name}.{table.name}"] = error
            continue
        if found is not None:
            done.append(found)
    return done, failed


def maintain_table(
    deployment: Deployment, source: Source, table: Table, *, dry: bool = False, now: datetime | None = None
) -> Maintained | None:
    """Look after a table; None when it was never built. With `dry` nothing is changed. now: of the months that are over.

    Raises CommitConflict only after losing `ATTEMPTS` commits in a row, and what `LakeTables.compact` raises; what was done by
    then stays done.
    """
    name = f"{source.name}.{table.name}"
    if deployment.lake.state(source.name, table) is None:
        return None
    before = _size(deployment, source, table)
    if dry:
        fragments, months = deployment.lake.fragmented(source.name, table), _unnamed_month(deployment, source, table, now)
        versions = deployment.lake.expirable(source.name, table, _kept(deployment, source, table))
        orphans = _old(find_orphans(deployment, [(source, table)]), name)
        size = sum(orphan.bytes for orphan in orphans.found)
        return Maintained(name, before, before, fragments, months, versions, len(orphans.found), size, orphans.skipped)
    compacted = until_won(lambda: _compact(deployment, source, table))
    named = until_won(lambda: _name_month(deployment, source, table, now))
    versions, state = until_won(lambda: deployment.lake.expire(source.name, table, _kept(deployment, source, table)))
    published = deployment.warehouse.state(source.name, table)
    if published is not None and published.version != state.current.version:
        publish_table(deployment, source, table)
    orphans = _old(find_orphans(deployment, [(source, table)]), name)
    removed = remove_orphans(deployment, orphans)
    after = _size(deployment, source, table)
    size = sum(orphan.bytes for orphan in removed)
    return Maintained(name, before, after, compacted, named, versions, len(removed), size, orphans.skipped)


def _compact(deployment: Deployment, source: Source, table: Table) -> dict[str, Fragments]:
    """The partitions that are in fewer files now."""
    found = deployment.lake.fragmented(source.name, table)
    if not found:
        return {}
    done = deployment.lake.compact(source.name, table, list(found))
    return found if done.after < done.before else {}


def _name_month(deployment: Deployment, source: Source, table: Table, now: datetime | None) -> dict[str, int]:
    """Give the last version of the month that is over its name, if it has none; the name that it got."""
    found = _unnamed_month(deployment, source, table, now)
    for name, version in found.items():
        deployment.lake.tag(source.name, table, name, version)
    return found


def _unnamed_month(deployment: Deployment, source: Source, table: Table, now: datetime | None) -> dict[str, int]:
    """The version that the table was at when the last month (UTC) ended, by the name that it should have and has not."""
    if not table.keep_months:
        return {}
    over = (now or datetime.now(UTC)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    name = f"month-{over - timedelta(days=1):%Y-%m}"
    version = deployment.lake.version_at(source.name, table, over)
    if version is None or name in deployment.lake.tags(source.name, table):
        return {}
    return {name: version}


def _kept(deployment: Deployment, source: Source, table: Table) -> Keep:
    """What an expiry must leave. A version that somebody may be reading stays as long as a file that somebody may be writing."""
    rules = deployment.settings.maintenance
    published = deployment.warehouse.state(source.name, table)
    age = max(timedelta(days=rules.keep_days), oldest_writer(deployment))
    needed = () if published is None else (published.version,)
    return Keep(rules.keep_versions, datetime.now(UTC) - age, needed)


def _old(found: Orphans, name: str) -> Orphans:
    """The orphans of the table itself that can be removed."""
    return Orphans(tuple(orphan for orphan in found.found if orphan.table == name and not orphan.young), found.skipped)


def _size(deployment: Deployment, source: Source, table: Table) -> Size:
    state = deployment.lake.state(source.name, table)
    assert state is not None
    versions = len(deployment.lake.history(source.name, table))
    stored = sum(info.size for info in deployment.store.list(deployment.lake.root(source.name, table)))
    return Size(state.files, state.bytes, versions, stored)
