"""The rows of a history's partitions after new batches: intervals that end, and new ones.

Key, cursor, place and digest of each version are folded first (`lakehouse.rows.history`), of the old rows only those that are
current and touched. Then the files are read once more for the wide rows. Memory follows the number of versions, not their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from lakehouse.rows.digest import row_digests
from lakehouse.rows.duck import incoming, quoted
from lakehouse.rows.fold import POSITION
from lakehouse.rows.history import DIGEST, INTERVALS, PLACE, VERSIONS, Intervals, refuse_other_kinds
from lakehouse.spec import History, LogEntry
from lakehouse.spec.declaration import INTERVAL_NAMES
from lakehouse.spec.history import IS_CURRENT, VALID_FROM
from lakehouse.spec.types import declared_type
from lakehouse.tables.columns import duck_type
from lakehouse.tables.embedded.batches import BatchRows
from lakehouse.tables.embedded.localrows import LocalRows, bytes_per_row
from lakehouse.tables.embedded.newest import is_touched, placed
from lakehouse.threads import side_by_side


@dataclass(frozen=True)
class HistoryFold:
    """A history with new batches of its table's log.

    connection: reads the files. aside: another database, in which versions are ordered. digest_bytes, threads: how much is
    digested at a time, and by how many. every_row: the batches touch all rows.
    """

    connection: duckdb.DuckDBPyConnection
    aside: duckdb.DuckDBPyConnection
    table: History
    schema: pa.Schema
    digest_bytes: int
    threads: int
    every_row: bool

    def rows(self, old: Sequence[LocalRows], batches: Sequence[BatchRows]) -> str:
        """A query for the rows in the order of `schema`; it reads temporary tables that are made anew here.

        old: the files of the rows before the first batch; with any, `touched_keys` is needed.
        """
        entries = [LogEntry(rows.batch.sequence, rows.batch.manifest) for rows in batches]
        refuse_other_kinds(self.table.of, entries)
        files = [*old, *(file for rows in batches for file in rows.files)]
        origins = {file: index for index, file in enumerate(files)}
        intervals = self._intervals()
        intervals.begin(entries)
        if old:
            touched = "" if self.every_row else f" and {is_touched(self.table, 'r')}"
            before = placed(self.schema, {file: origins[file] for file in old}, f" where r.{IS_CURRENT}{touched}")
            versions = intervals.version_sql(before, sequence=0, place=PLACE, position="0", since=VALID_FROM)
            self._load(intervals, versions, old, self.content)
        for rows in batches:
            if not rows.files:
                continue
            deleted = rows.batch.manifest.kind == "delete"
            schema = self._keys if deleted else self.content
            relation = placed(schema, {file: origins[file] for file in rows.files})
            sequence = rows.batch.sequence
            versions = intervals.version_sql(
                relation, sequence=sequence, place=PLACE, position=POSITION, since="null", deleted=deleted
            )
            self._load(intervals, versions, rows.files, None if deleted else self.content)
        intervals.end()
        self._fetch()
        new = [file for rows in batches if rows.batch.manifest.kind != "delete" for file in rows.files]
        return self._standing({file: origins[file] for file in old}, {file: origins[file] for file in new})

    @property
    def content(self) -> pa.Schema:
        """The columns of the table whose history it is."""
        return pa.schema([field for field in self.schema if field.name not in INTERVAL_NAMES])

    @property
    def _keys(self) -> pa.Schema:
        return pa.schema([self.schema.field(name) for name in self.table.row_key])

    def _intervals(self) -> Intervals:
        of = self.table.of
        types = {field.name: duck_type(declared_type(field)) for field in self.schema}
        return Intervals(self.aside, of, {name: types[name] for name in of.key}, types[of.cursor] if of.cursor else None)

    def _load(self, intervals: Intervals, query: str, files: Sequence[LocalRows], content: pa.Schema | None) -> None:
        """Put versions into `versions`, each with its digest over the columns `content`; None: they were deleted."""
        at_once = max(2048, min(65_536, self.digest_bytes // max(64, bytes_per_row(files))))
        reader = self.connection.execute(query).to_arrow_reader(at_once)
        narrow = pa.schema([reader.schema.field(name) for name in intervals.narrow])
        schema = narrow.append(pa.field(DIGEST, pa.uint64()))

        def digested(batch: pa.RecordBatch) -> pa.RecordBatch:
            digests = pa.nulls(len(batch), pa.uint64())
            if content is not None:
                digests = pa.array(row_digests(batch, content), pa.uint64())
            return pa.RecordBatch.from_arrays([*(batch.column(name) for name in narrow.names), digests], schema=schema)

        found: Iterator[pa.RecordBatch] = side_by_side(digested, reader, self.threads)
        with incoming(self.aside, "new_versions", found, schema):
            self.aside.execute(f"insert into {VERSIONS} select * from new_versions")

    def _fetch(self) -> None:
        """Bring the intervals to the connection that reads the files."""
        reader = self.aside.execute(f"select * from {INTERVALS} where not (_old and is_current)").to_arrow_reader(65_536)
        with incoming(self.connection, "new_intervals", reader, reader.schema):
            self.connection.execute(f"create or replace temp table {INTERVALS} as select * from new_intervals")

    def _standing(self, old: Mapping[LocalRows, int], new: Mapping[LocalRows, int]) -> str:
        columns = ", ".join(f"r.{quoted(name)}" for name in self.schema.names)
        changed = ", ".join(f"{'i' if name in INTERVAL_NAMES else 'r'}.{quoted(name)}" for name in self.schema.names)
        parts = []
        if old:
            rows = placed(self.schema, old)
            parts.append(
                f"select {columns} from {rows} as r where not exists (select 1 from {INTERVALS} as i where i.{PLACE} = r.{PLACE})"
            )
            parts.append(f"select {changed} from {rows} as r join {INTERVALS} as i on i.{PLACE} = r.{PLACE}")
        parts.append(f"select {changed} from {placed(self.content, new)} as r join {INTERVALS} as i on i.{PLACE} = r.{PLACE}")
        return " union all ".join(parts)
