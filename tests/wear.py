"""Lake tables worn by hand: the same rows in many small files, as tools leave them that write often and little."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

import pyarrow.parquet as pq

from lakehouse.settings import Settings
from lakehouse.spec import Table
from lakehouse.stores import ObjectStore
from lakehouse.tables import open_tables
from lakehouse.tables.compacting import MANY, Compaction
from lakehouse.tables.datafiles import digest_name
from lakehouse.tables.embedded.engine import EmbeddedEngine
from lakehouse.tables.folds import Folded, FoldTask
from lakehouse.tables.format import StoredFile
from lakehouse.tables.lake import Lake


def wear(settings: Settings, store: ObjectStore, source: str, table: Table) -> None:
    """Cut the files of every partition into `MANY`, or one for each row, in one commit that keeps the marker."""
    lake = open_tables(settings, store)
    assert isinstance(lake, Lake)
    _Wearing(lake._target(source, table), _Cutting(settings, store), list(lake.partitions(source, table))).run()


class _Wearing(Compaction):
    def _is_worth_it(self, removed: object, folded: object) -> bool:
        return True


class _Cutting(EmbeddedEngine):
    """Folds, and cuts what it has written."""

    def fold(self, task: FoldTask) -> Folded:
        folded = super().fold(task)
        return Folded([part for file in folded.files for part in self._cut(task, file)], folded.sums, folded.days)

    def _cut(self, task: FoldTask, file: StoredFile) -> Iterator[StoredFile]:
        path = file.url.removeprefix(self._store.url + "/")
        rows = pq.read_table(io.BytesIO(self._store.get(path)))
        self._store.delete(path)
        step = max(1, -(-rows.num_rows // MANY))
        for number, first in enumerate(range(0, rows.num_rows, step)):
            sink = io.BytesIO()
            pq.write_table(rows.slice(first, step), sink)
            data = sink.getvalue()
            name = digest_name(f"{task.commit_id}{number}", 0, hashlib.sha256(data).hexdigest())
            url = task.address(file.partition, name)
            self._store.put(url.removeprefix(self._store.url + "/"), data)
            yield StoredFile(url, file.partition, len(data), pq.read_metadata(io.BytesIO(data)))
