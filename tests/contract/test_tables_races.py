"""Real processes that apply one log at once: every entry goes in exactly once, and the marker is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakehouse.errors import CommitConflict, StoreUnavailable
from lakehouse.spec import Table
from lakehouse.spec.partitioning import bucket, days
from tests.crash.forks import FORKS
from tests.lakes import Lake, catch_up, lake_fixture, look_after, process, processes_done  # noqa: F401
from tests.rawlogs import SOURCE, HandLog, Row, day, day_window

USERS = Table("users", "upsert", ("id",), cursor="at", event_time="at", partition=bucket("id", 3))
LOGS = Table("api_logs", "append", ("id",), event_time="at", partition=days("at"))
FIELDS = {"id": "int64", "at": "timestamp", "n": "int32"}


def upserts(lake: Lake, entries: int) -> tuple[HandLog, list[Row]]:
    """A log of overlapping upserts, and the rows that must come out."""
    log = lake.log(USERS, FIELDS, ("id",))
    expected: dict[int, Row] = {}
    for number in range(1, entries + 1):
        rows = [{"id": key, "at": day(number), "n": number} for key in range(number, number + 5)]
        expected |= dict(zip(range(number, number + 5), rows, strict=True))
        log.write("upsert", rows)
    return log, list(expected.values())


def test_two_processes_that_apply_the_same_entries_at_once_apply_them_once(lake: Lake) -> None:
    log, expected = upserts(lake, 6)
    barrier = FORKS.Barrier(2)
    whole = [log.entries]
    processes_done([process(catch_up, lake.settings, log.table, whole, log.folder, barrier) for _ in range(2)])
    lake.check(log, expected)
    assert len(lake.tables.history(SOURCE, USERS)) == 1


def test_processes_that_apply_different_prefixes_leave_every_entry_in_once(lake: Lake) -> None:
    log, expected = upserts(lake, 9)
    barrier = FORKS.Barrier(3)
    steps = [(1, 3, 6, 9), (2, 4, 7, 9), (9,)]
    busy = [
        process(catch_up, lake.settings, log.table, [log.entries[:upto] for upto in upto_each], log.folder, barrier)
        for upto_each in steps
    ]
    processes_done(busy)
    lake.check(log, expected)
    sequences = [version.marker.sequence for version in lake.tables.history(SOURCE, USERS)]
    assert sequences == sorted(set(sequences)), "a watermark went back, or was committed twice"


def test_processes_that_meet_on_a_table_of_days_apply_each_day_once(lake: Lake) -> None:
    log = lake.log(LOGS, FIELDS, ("id", "at"))
    expected = []
    for number in range(1, 7):
        rows = [{"id": number * 10 + i, "at": day(number), "n": i} for i in range(3)]
        expected += rows
        log.write("replace", rows, window=day_window(number))
    barrier = FORKS.Barrier(2)
    prefixes = [log.entries[:upto] for upto in range(1, 7)]
    processes_done([process(catch_up, lake.settings, log.table, prefixes, log.folder, barrier) for _ in range(2)])
    lake.check(log, expected)
    versions = lake.tables.history(SOURCE, LOGS)
    assert sorted(version.marker.sequence for version in versions) == [version.marker.sequence for version in versions]
    assert len({version.marker.sequence for version in versions}) == len(versions)


def test_appliers_and_maintenance_at_once_lose_and_double_nothing(lake: Lake, tmp_path: Path) -> None:
    log, expected = upserts(lake, 6)
    barrier, done = FORKS.Barrier(3), tmp_path / "rounds"
    prefixes = [log.entries[:upto] for upto in range(1, 7)]
    busy = [
        process(catch_up, lake.settings, log.table, prefixes, log.folder, barrier),
        process(catch_up, lake.settings, log.table, prefixes[1::2], log.folder, barrier),
        process(look_after, lake.settings, log.table, 6, done, barrier),
    ]
    processes_done(busy)
    assert done.read_text()
    lake.check(log, expected)
    sequences = [version.marker.sequence for version in lake.tables.history(SOURCE, USERS)]
    assert sequences == sorted(sequences), "a watermark went back"
    assert len(sequences) <= 6 + len(done.read_text()), "a version was committed twice"


class Meanwhile:
    """A store in front of another that lets something happen while an apply reads its first raw file, its base being read."""

    def __init__(self, store: object, work: object) -> None:
        self._store, self._work, self.met = store, work, False

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def download(self, path: str, local: object) -> None:
        """Let the other one go first."""
        if not self.met:
            self.met = True
            self._work()  # type: ignore[operator]
        self._store.download(path, local)  # type: ignore[attr-defined]


@pytest.mark.parametrize("born", [True, False])
def test_a_commit_that_slips_in_between_is_not_overwritten(lake: Lake, born: bool) -> None:
    log, expected = upserts(lake, 4)
    if born:
        lake.apply(log, 1)
    store = Meanwhile(lake.store, lambda: lake.apply(log, 3))
    slow = lake.opened(store)  # type: ignore[arg-type]
    with pytest.raises(CommitConflict):
        slow.apply(SOURCE, USERS, log.entries[:2], log.folder)
    assert store.met
    assert lake.marker(USERS).sequence == 3
    live = lake.state(USERS).files
    written = sum(len(files) for files in lake.files(USERS).values())
    slow.apply(SOURCE, USERS, log.entries, log.folder)
    lake.check(log, expected)
    assert written <= live + 3 * (1 if born else 0), "the loser left data files behind"


def test_a_commit_that_only_adds_files_is_not_put_on_top_of_anothers(lake: Lake) -> None:
    """A new day and an empty batch replace no file, so that nothing but the table's version tells that somebody was first."""
    log = lake.log(LOGS, FIELDS, ("id", "at"))
    for number in (1, 2, 3):
        log.write("replace", [{"id": number, "at": day(number), "n": 0}], window=day_window(number))
    lake.apply(log, 1)
    slow = lake.opened(Meanwhile(lake.store, lambda: lake.apply(log, 2)))  # type: ignore[arg-type]
    with pytest.raises(CommitConflict):
        slow.apply(SOURCE, LOGS, log.entries, log.folder)
    lake.check(log, [{"id": number, "at": day(number), "n": 0} for number in (1, 2)], sequence=2)
    lake.apply(log)
    lake.check(log, [{"id": number, "at": day(number), "n": 0} for number in (1, 2, 3)])
    assert len(lake.tables.history(SOURCE, LOGS)) == 3


def test_a_watermark_does_not_go_back_when_no_rows_change(lake: Lake) -> None:
    log = lake.log(LOGS, FIELDS, ("id", "at"))
    for _ in range(3):
        log.write("replace", [{"id": 1, "at": day(1), "n": 0}], window=day_window(1))
    lake.apply(log, 1)
    slow = lake.opened(Meanwhile(lake.store, lambda: lake.apply(log, 3)))  # type: ignore[arg-type]
    with pytest.raises(CommitConflict):
        slow.apply(SOURCE, LOGS, log.entries[:2], log.folder)
    lake.check(log, [{"id": 1, "at": day(1), "n": 0}])


def test_a_rollback_that_slips_in_between_is_not_undone(lake: Lake) -> None:
    log, expected = upserts(lake, 4)
    lake.apply(log, 1)
    lake.apply(log, 2)
    first = lake.tables.history(SOURCE, USERS)[0]
    slow = lake.opened(Meanwhile(lake.store, lambda: lake.tables.rollback(SOURCE, USERS, first.version)))  # type: ignore[arg-type]
    with pytest.raises(CommitConflict):
        slow.apply(SOURCE, USERS, log.entries, log.folder)
    assert lake.marker(USERS).sequence == 1
    with pytest.raises(CommitConflict, match="entry 3 where 2 should follow"):
        slow.apply(SOURCE, USERS, log.entries[2:], log.folder)
    lake.apply(log)
    lake.check(log, expected)


def committer(lake: Lake) -> tuple[tuple[type, str], Exception]:
    """The method by which the lake's format commits, and the error by which its answer can be lost."""
    from pyiceberg.catalog.sql import SqlCatalog
    from sqlalchemy.exc import OperationalError

    said = "server closed the connection unexpectedly"
    if lake.format == "iceberg":
        return (SqlCatalog, "commit_table"), OperationalError("commit", {}, Exception(said))
    return (type(lake.store), "put_new"), StoreUnavailable("writing", value=said, allowed="an answer", remedy="Run it again.")


@pytest.mark.parametrize("went_through", [True, False])
@pytest.mark.parametrize("born", [True, False])
def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_done_twice(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, born: bool, went_through: bool
) -> None:
    log, expected = upserts(lake, 3)
    if born:
        lake.apply(log, 1)
    claims, error = committer(lake)
    commit = getattr(*claims)

    def lose_the_answer(*arguments: object, **named: object) -> object:
        if went_through:
            commit(*arguments, **named)
        raise error

    monkeypatch.setattr(*claims, lose_the_answer)
    if went_through:
        assert lake.apply(log).state.current.marker.sequence == 3
    else:
        with pytest.raises((CommitConflict, StoreUnavailable), match="server closed the connection"):
            lake.apply(log)
    monkeypatch.undo()
    assert lake.apply(log).entries == (0 if went_through else 3 - born)
    lake.check(log, expected)


def test_readers_see_whole_versions_while_writers_commit(lake: Lake) -> None:
    """Each version's rows and marker belong together, whichever moment a reader meets."""
    log, _ = upserts(lake, 8)
    lake.apply(log, 1)
    writer = process(catch_up, lake.settings, log.table, [log.entries[:upto] for upto in range(2, 9)], log.folder)
    seen: set[int] = set()
    while writer.is_alive() or len(seen) == 0:
        state = lake.state(USERS)
        rows = lake.rows(USERS, version=state.current.version)
        assert len(rows) == state.current.marker.rows
        assert max(row["n"] for row in rows) == state.current.marker.sequence
        seen.add(state.current.marker.sequence)
    processes_done([writer])
    assert lake.marker(USERS).sequence == 8
