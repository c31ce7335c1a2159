"""The third hop: the warehouse's copy of a table follows the lake's, partition by changed partition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from lakehouse.pipeline.deployment import Deployment
from lakehouse.spec import Source, Table
from lakehouse.warehouse.publisher import Published


@dataclass(frozen=True)
class Publication:
    """What one publish did: the table as it stands now, and the partitions that were copied (None: all of them)."""

    published: Published
    partitions: tuple[str, ...] | None
    changed: bool


def publish_table(deployment: Deployment, source: Source, table: Table) -> Publication | None:
    """Copy what changed since the published version; None for a table that the lake has not got.

    The version is pinned: rows and marker are of one lake version, whatever is committed meanwhile.
    """
    state = deployment.lake.state(source.name, table)
    if state is None:
        return None
    current = state.current
    before = deployment.warehouse.state(source.name, table)
    if before is not None and (before.version, before.marker) == (current.version, current.marker):
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
    )
    return Publication(published, partitions, changed=True)
