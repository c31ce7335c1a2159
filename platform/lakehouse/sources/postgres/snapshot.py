"""A consistent view of a Postgres database that several connections share, and the time up to which nothing is missing from it.

A transaction's `now()` is its start. What the snapshot cannot see was open when the sessions were looked at, or began after that;
so every row stamped before the oldest of those starts, and before the time noted first, is visible.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from lakehouse.errors import ConfigurationError, SourceUnavailable
from lakehouse.sources.postgres.connect import Connection, connect, reading
from lakehouse.spec import Position

_SETTLE_SECONDS = 0.02
"""A backend notes its transaction's start a moment before others can see it; waiting this long lets that moment pass."""

_REPLAY_SECONDS = 60.0
"""How long a replica may need to replay what its primary had written when its sessions were looked at."""

_ABOUT = """
select clock_timestamp(), pg_is_in_recovery(), current_setting('server_version'),
  case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end::text,
  pg_last_xact_replay_timestamp()
"""

_SESSIONS = """
select pid, coalesce(application_name, ''), least(xact_start, case when state = 'active' then query_start end) as began,
  query = '<insufficient privilege>' or state = 'disabled'
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid()
  and coalesce(backend_type, '') not in ('walsender', 'autovacuum worker', 'parallel worker')
order by began nulls last
"""

_PREPARED = "select min(prepared), count(*) from pg_prepared_xacts where database = current_database()"

_WRITTEN = """
select pg_current_wal_insert_lsn() - '0/0'::pg_lsn, current_setting('wal_block_size')::int,
  (select system_identifier from pg_control_system())
"""

_REPLAYED = """
select pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn() - '0/0'::pg_lsn, 0),
  (select system_identifier from pg_control_system()), pg_last_wal_replay_lsn()::text
"""
_LONGEST_PAGE_HEADER = 40


@dataclass(frozen=True)
class Looked:
    """What a server said before the snapshot was taken; reasons: why the bound cannot be known exactly."""

    taken_at: datetime
    bound: datetime
    reasons: tuple[str, ...]
    detail: dict[str, str]


@dataclass(frozen=True)
class ExportedSnapshot:
    """A snapshot that other connections can join while its own transaction is open."""

    id: str
    position: Position


@contextmanager
def exported_snapshot(
    connection: Connection, source: str, primary: str | None = None, answer_seconds: float | None = None
) -> Iterator[ExportedSnapshot]:
    """Note the position, then take and export a snapshot; it lasts until the context ends.

    primary: the connection string of the server whose replica `connection` leads to. Its sessions are looked at, and the snapshot
    is taken when the replica has replayed all that the primary had written by then; so the bound is as exact as the primary's.
    """
    try:
        if primary is None:
            with reading(f"taking a snapshot of source {source!r}"):
                looked = _look(connection)
        else:
            with connect(primary, source, answer_seconds) as other, reading(f"looking at the primary of source {source!r}"):
                looked = _look(other)
                replayed = _wait_for_replay(connection, other, source)
            looked = replace(looked, detail={**looked.detail, "lsn": replayed, "read_from": "a replica"})
        with reading(f"taking a snapshot of source {source!r}"):
            connection.execute("begin isolation level repeatable read read only")
            (snapshot,) = _row(connection, "select pg_export_snapshot()")
        detail = {"snapshot": snapshot, **looked.detail}
        yield ExportedSnapshot(snapshot, Position(looked.taken_at, looked.bound, not looked.reasons, detail))
    finally:
        with suppress(psycopg.Error):  # a connection that is gone has no transaction left to end
            connection.execute("rollback")


def _look(connection: Connection) -> Looked:
    taken_at, on_replica, version, lsn, replayed = _row(connection, _ABOUT)
    connection.execute("select pg_sleep(%s)", (_SETTLE_SECONDS,))
    sessions = connection.execute(_SESSIONS).fetchall()
    oldest_prepared, prepared = _row(connection, _PREPARED)
    detail = {"lsn": lsn, "server": f"Postgres {version}"}
    bounds: list[datetime] = [taken_at]
    if sessions and (began := sessions[0][2]) is not None:
        bounds.append(began)
        if began < taken_at:
            name = f" ({sessions[0][1]})" if sessions[0][1] else ""
            detail["held_back"] = f"session {sessions[0][0]}{name} has had a transaction open since {began.isoformat()}"
    bounds += [time for time in (oldest_prepared, replayed if on_replica else None) if time is not None]
    hidden = sum(bool(session[3]) for session in sessions)
    reasons = []
    if on_replica:
        reasons.append("a replica does not show the primary's transactions: name it as replica_url beside the primary's url")
    if prepared:
        reasons.append(f"{prepared} prepared transactions do not show when they began")
    if hidden:
        reasons.append(f"{hidden} sessions are hidden from this role: grant it pg_read_all_stats")
    if reasons:
        detail["inexact"] = "; ".join(reasons)
    return Looked(taken_at, min(bounds), tuple(reasons), detail)


def _wait_for_replay(replica: Connection, primary: Connection, source: str) -> str:
    """Wait until the replica has replayed what the primary has written by now; its position then.

    Where the next record would go may lie behind the header of a page that no record has begun on; the last one ended before it.
    """
    written, block, system = _row(primary, _WRITTEN)
    target = written - written % block if written % block <= _LONGEST_PAGE_HEADER else written
    deadline = monotonic() + _REPLAY_SECONDS
    while True:
        in_recovery, replayed, same_system, lsn = _row(replica, _REPLAYED)
        if not in_recovery or same_system != system:
            raise ConfigurationError(
                f"reading source {source!r} from its replica",
                value="it is a server of its own" if not in_recovery else "it is the replica of another server",
                allowed="a streaming replica of the server that `url` names",
                remedy=f"Correct LAKEHOUSE_SOURCES__{source.upper()}__REPLICA_URL, or leave it out.",
            )
        if replayed >= target:
            return str(lsn)
        if monotonic() > deadline:
            raise SourceUnavailable(
                f"waiting for the replica of source {source!r}",
                value=f"{target - replayed} bytes behind after {_REPLAY_SECONDS:.0f} s",
                allowed="a replica that keeps up with its primary",
                remedy="Look at pg_stat_replication on the primary, then run again; or leave the replica_url out.",
            )
        replica.execute("select pg_sleep(0.02)")


@contextmanager
def joined(conninfo: str, source: str, snapshot: str, answer_seconds: float | None = None) -> Iterator[Connection]:
    """A connection of its own that sees what the exported snapshot sees."""
    with connect(conninfo, source, answer_seconds) as connection:
        with reading(f"joining snapshot {snapshot} of source {source!r}"):
            connection.execute("begin isolation level repeatable read read only")
            connection.execute(sql.SQL("set transaction snapshot {}").format(sql.Literal(snapshot)))
        yield connection


def _row(connection: Connection, query: LiteralString) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row
