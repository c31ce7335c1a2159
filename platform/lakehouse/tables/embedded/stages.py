"""Stages: the rows of a batch, cut into a bounded number of folders, each of which is read for few groups of partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from lakehouse.tables.partitions import PartitionScheme

STAGE = "_stage"
"""The column that tells a row's stage."""


@dataclass(frozen=True)
class Stages:
    """The stages of groups of partitions: one for each group, or for several in a row when there are more than `most` groups."""

    scheme: PartitionScheme
    groups: Sequence[Sequence[str]]
    most: int

    def __len__(self) -> int:
        return min(self.most, len(self.groups))

    def of_group(self, index: int) -> int:
        """The stage of a group."""
        return index * len(self) // len(self.groups)

    def where(self, index: int) -> str:
        """A DuckDB condition on the rows of a group's stage: they are of the group. Empty where all of them are."""
        return self.scheme.is_in_sql(self.groups[index]) if len(self.groups) > self.most else ""

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the temporary table that tells the stage of a partition."""
        connection.execute(f"create or replace temp table stages (folder {self.scheme.folder_type}, {STAGE} integer)")
        folders = [self.scheme.folder(name) for names in self.groups for name in names]
        numbers = [self.of_group(index) for index, names in enumerate(self.groups) for _ in names]
        connection.execute("insert into stages select unnest(?::varchar[]), unnest(?::integer[])", [folders, numbers])

    def staged_sql(self, relation: str) -> str:
        """A query for the rows of a relation, each with its stage. `prepare` the connection first."""
        rows = f"(select *, {self.scheme.folder_sql()} as _folder from {relation})"
        return f"select r.* exclude (_folder), s.{STAGE} from {rows} as r join stages as s on r._folder = s.folder"
