"""Where the rows of a relation lie, to notice when they are moved in the middle of a read.

TRUNCATE shows even to older snapshots, and VACUUM FULL and CLUSTER move rows between page ranges that are read one after the
other. Each gives the table another file. Holding a lock would keep them away, but an application that waits for it would stand
still; so the files are looked at before the snapshot is taken, and again when a table has been read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import LiteralString

import psycopg

from lakehouse.errors import SourceUnavailable
from lakehouse.sources.postgres.connect import Connection, connect, reading

Files = dict[int, int | None]
"""The file of each table by its oid; None for one that is gone."""

_BEHIND: LiteralString = """
with recursive behind(oid) as (
  select unnest(%(oids)s::oid[])
  union
  select n.oid from behind b cross join lateral (
    select inhrelid as oid from pg_inherits where inhparent = b.oid
    union all
    select d.refobjid from pg_rewrite w join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
    where w.ev_class = b.oid and d.refclassid = 'pg_class'::regclass
  ) n
)
select c.oid::bigint, pg_relation_filenode(c.oid)::bigint from pg_class c join behind using (oid) where c.relkind in ('r', 'm')
"""
"""A relation's own file, those of its partitions and children, and of what a view reads."""

_NOW: LiteralString = "select oid::bigint, pg_relation_filenode(oid)::bigint from unnest(%(oids)s::oid[]) oid"


def files_behind(connection: Connection, oids: Iterable[int]) -> dict[int, Files]:
    """The files that hold the rows of each of these relations."""
    return {oid: dict(connection.execute(_BEHIND, {"oids": [oid]}).fetchall()) for oid in oids}


class StorageWatch:
    """The files as they were before the snapshot, and a session that looks at them as they are now. Safe for several threads."""

    def __init__(self, conninfo: str, source: str, before: dict[int, Files], answer_seconds: float | None = None) -> None:
        self._answer = answer_seconds
        self._conninfo = conninfo
        self._source = source
        self._before = before
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def check(self, oid: int, tried: str) -> None:
        """SourceUnavailable when the rows of a relation were truncated or rewritten since the snapshot."""
        before = self._before.get(oid)
        if not before:
            return
        if self._look(before, tried) != before:
            raise SourceUnavailable(
                tried,
                value="the table was truncated or rewritten (TRUNCATE, VACUUM FULL, CLUSTER, REFRESH, ALTER) while it was read",
                allowed="a table whose rows stay where they are until they are read",
                remedy="Run again; nothing of this read was landed.",
            )

    def close(self) -> None:
        """End the session."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _look(self, before: Files, tried: str) -> Files:
        with self._lock, reading(tried):
            if self._connection is None or self._connection.closed:
                self._connection = connect(self._conninfo, self._source, self._answer)
            try:
                return _files_now(self._connection, before)
            except psycopg.OperationalError:  # this session was ended; a new one sees the same
                self._connection = connect(self._conninfo, self._source, self._answer)
                return _files_now(self._connection, before)


def _files_now(connection: Connection, before: Files) -> Files:
    return dict(connection.execute(_NOW, {"oids": list(before)}).fetchall())
