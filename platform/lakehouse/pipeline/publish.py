"""The third hop: the warehouse's copy of a table follows the lake's, partition by changed partition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from lakehouse.pipeline.attempts import until_won
from lakehouse.pipeline.deployment import Deployment
from lakehouse.spec import Source, Table
from lakehouse.spec.quarantine import quarantine_of
from lakehouse.warehouse.publisher import Published


@dataclass(frozen=True)
class Publication:
    """What one publish did: the table as it stands now, and the partitions that were copied (None: all of them).

    marked: rows that `soft_delete` marks.
    """

    published: Published
    partitions: tuple[str, ...] | None
    changed: bool
    marked: int = 0


def publish_table(deployment: Deployment, source: Source, table: Table) -> Publication | None:
    """Copy what changed since the published version; None for a table that the lake has not got.

    Its quarantine is published as well. Raises CommitConflict only after losing `ATTEMPTS` exchanges in a row to other
    publishers.
    """
    if table.keeps_refused and deployment.log(source, quarantine_of(table)).head():
        until_won(lambda: _publish(deployment, source, quarantine_of(table)))
    done = until_won(lambda: _publish(deployment, source, table))
    if done is None or table.soft_delete is None:
        return done
    return replace(done, marked=deployment.warehouse.marked(source.name, table))


def _publish(deployment: Deployment, source: Source, table: Table) -> Publication | None:
    """One attempt. The version is pinned: rows and marker are of one lake version, whatever is committed meanwhile.

    What is published is looked at before the lake: a version older than the published one is then a rollback, never a race.
    """
    before = deployment.warehouse.state(source.name, table)
    state = deployment.lake.state(source.name, table)
    if state is None:
        return None
    current = state.current
    same = before is not None and (before.version, before.marker) == (current.version, current.marker)
    if before is not None and same and before.reading == table.reading:
        return Publication(before, (), changed=False)
    partitions = None
    if before is not None:
        partitions = deployment.lake.changed_partitions(source.name, table, before.marker.sequence)

    def scan(names: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        return deployment.lake.scan(source.name, table, partitions=names, version=current.version)

    published = deployment.warehouse.publish(
        source.name,
        table,
        state.schema,
        marker=current.marker,
        version=current.version,
        partitions=partitions,
        scan=scan,
        base=before,
    )
    return Publication(published, partitions, changed=True)


def republish_table(deployment: Deployment, source: Source, table: Table, than: Published | None) -> Published | None:
    """Copy all rows of the lake's table in one exchange, whatever is published; None for a table that the lake has not got.

    than: what was published when that was decided. Raises CommitConflict where somebody has published since.
    """
    state = deployment.lake.state(source.name, table)
    if state is None:
        return None
    version = state.current.version
    return deployment.warehouse.republish(
        source.name,
        table,
        state.schema,
        marker=state.current.marker,
        version=version,
        scan=lambda names: deployment.lake.scan(source.name, table, partitions=names, version=version),
        than=than,
    )
