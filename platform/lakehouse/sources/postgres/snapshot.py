"""A consistent view of a Postgres database that several connections share, and the time up to which nothing is missing from it.

A transaction's `now()` is its start. What the snapshot cannot see was open when the sessions were looked at, or began after that;
so every row stamped before the oldest of those starts, and before the time noted first, is visible.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from lakehouse.sources.postgres.connect import Connection, connect, reading
from lakehouse.spec import Position

_SETTLE_SECONDS = 0.02
"""A backend notes its transaction's start a moment before others can see it; waiting this long lets that moment pass."""

_ABOUT = """
select clock_timestamp(), pg_is_in_recovery(), current_setting('server_version'),
  case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text,
  pg_last_xact_replay_timestamp()
"""

_SESSIONS = """
select min(least(xact_start, case when state = 'active' then query_start end)),
  count(*) filter (where query = '<insufficient privilege>' or state = 'disabled')
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
  and coalesce(backend_type, '') not in ('walsender', 'autovacuum worker', 'parallel worker')
"""

_PREPARED = "select min(prepared), count(*) from pg_prepared_xacts where database = current_database()"


@dataclass(frozen=True)
class ExportedSnapshot:
    """A snapshot that other connections can join while its own transaction is open."""

    id: str
    position: Position


@contextmanager
def exported_snapshot(connection: Connection, source: str) -> Iterator[ExportedSnapshot]:
    """Note the position, then take and export a snapshot; it lasts until the context ends."""
    try:
        with reading(f"taking a snapshot of source {source!r}"):
            exported = _export(connection)
        yield exported
    finally:
        with suppress(psycopg.Error):  # a connection that is gone has no transaction left to end
            connection.execute("rollback")


def _export(connection: Connection) -> ExportedSnapshot:
    taken_at, on_replica, version, lsn, replayed = _row(connection, _ABOUT)
    connection.execute("select pg_sleep(%s)", (_SETTLE_SECONDS,))
    oldest, hidden = _row(connection, _SESSIONS)
    oldest_prepared, prepared = _row(connection, _PREPARED)
    connection.execute("begin isolation level repeatable read read only")
    (snapshot,) = _row(connection, "select pg_export_snapshot()")
    reasons = []
    if on_replica:
        reasons.append("a replica does not show the primary's transactions")
    if prepared:
        reasons.append(f"{prepared} prepared transactions do not show when they began")
    if hidden:
        reasons.append(f"{hidden} sessions are hidden from this role: grant it pg_read_all_stats")
    bounds: list[datetime] = [taken_at]
    bounds += [time for time in (oldest, oldest_prepared, replayed if on_replica else None) if time is not None]
    detail = {"snapshot": snapshot, "lsn": lsn, "server": f"Postgres {version}"}
    if reasons:
        detail["inexact"] = "; ".join(reasons)
    return ExportedSnapshot(snapshot, Position(taken_at, min(bounds), not reasons, detail))


@contextmanager
def joined(conninfo: str, source: str, snapshot: str) -> Iterator[Connection]:
    """A connection of its own that sees what the exported snapshot sees."""
    with connect(conninfo, source) as connection:
        with reading(f"joining snapshot {snapshot} of source {source!r}"):
            connection.execute("begin isolation level repeatable read read only")
            connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        yield connection


def _row(connection: Connection, query: LiteralString) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
