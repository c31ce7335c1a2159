"""What every engine and format of lake tables must do; `tests.lakes.LAKES` lists those that it runs over."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lakehouse.errors import CommitConflict, DamagedData, WrongUse
from lakehouse.spec import Partitioning, Table, Window
from lakehouse.spec.partitioning import bucket, days, identity, months, unpartitioned
from tests.lakes import Lake, folding_lake_fixture, sorted_rows  # noqa: F401
from tests.rawlogs import SOURCE, HandLog, Row, by_key, day, day_window, hours

LOGS = Table("api_logs", "append", ("id",), event_time="at", partition=days("at"))
LOG_FIELDS = {"id": "int64", "at": "timestamp", "path": "string", "ms": "float64"}
USERS = Table("users", "upsert", ("id",), cursor="changed", event_time="born", partition=bucket("id", 4))
USER_FIELDS = {"id": "string", "born": "timestamp", "changed": "timestamp", "name": "string"}
PREFERENCES = Table("preferences", "snapshot", ("id",))


def calls(number: int, count: int = 4, path: str = "/a") -> list[Row]:
    """API calls of a day of January."""
    return [{"id": number * 100 + i, "at": day(number) + hours(i), "path": path, "ms": i / 7} for i in range(count)]


def user(name: str, born: int = 1, changed: int = 1, called: str = "x") -> Row:
    """One version of a user."""
    return {"id": name, "born": day(born), "changed": day(changed), "name": called}


def users_log(lake: Lake, partition: Partitioning) -> HandLog:
    """The log of a table of users with some partitioning."""
    table = Table("users", "upsert", ("id",), cursor="changed", event_time="born", partition=partition)
    return lake.log(table, USER_FIELDS, ("id",))


def test_a_table_that_was_never_applied_has_no_state(lake: Lake) -> None:
    assert lake.tables.state(SOURCE, LOGS) is None
    with pytest.raises(WrongUse, match="not there"):
        lake.rows(LOGS)
    with pytest.raises(WrongUse, match="not there yet"):
        lake.tables.apply(SOURCE, LOGS, [], "raw")


def test_days_that_are_replaced_come_out_as_the_last_batch_said(lake: Lake) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    for number in (1, 2, 3):
        log.write("replace", calls(number), window=day_window(number))
    first = lake.apply(log)
    assert (first.entries, first.rows_written) == (3, 12)
    assert first.partitions == ("at_day=2026-01-01", "at_day=2026-01-02", "at_day=2026-01-03")
    assert first.changed_days == ("2026-01-01", "2026-01-02", "2026-01-03")
    lake.check(log, calls(1) + calls(2) + calls(3))

    log.write("replace", calls(2, 2, "/b"), window=day_window(2))
    second = lake.apply(log)
    assert (second.partitions, second.changed_days, second.rows_written) == (("at_day=2026-01-02",), ("2026-01-02",), 2)
    lake.check(log, calls(1) + calls(2, 2, "/b") + calls(3))
    assert lake.tables.partitions(SOURCE, LOGS) == {"at_day=2026-01-01": 4, "at_day=2026-01-02": 2, "at_day=2026-01-03": 4}
    ids = lake.rows(LOGS, partitions=["at_day=2026-01-02"], columns=["id"])
    assert sorted_rows(ids) == [{"id": 200}, {"id": 201}]


def test_only_touched_partitions_are_rewritten(lake: Lake) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    for number in (1, 2, 3):
        log.write("replace", calls(number), window=day_window(number))
    lake.apply(log)
    before = lake.files(LOGS)
    log.write("replace", calls(2, 1), window=day_window(2))
    lake.apply(log)
    after = lake.files(LOGS)
    assert {name: len(files) for name, files in after.items()} == {
        "at_day=2026-01-01": 1,
        "at_day=2026-01-02": 2,
        "at_day=2026-01-03": 1,
    }
    assert after["at_day=2026-01-01"] == before["at_day=2026-01-01"]
    assert lake.state(LOGS).files == 3


def test_a_batch_that_says_what_the_table_holds_moves_the_watermark_and_rewrites_nothing(lake: Lake) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    log.write("replace", calls(1), window=day_window(1))
    lake.apply(log)
    before = lake.files(LOGS)
    log.write("replace", list(reversed(calls(1))), window=day_window(1))
    again = lake.apply(log)
    assert (again.entries, again.partitions, again.changed_days, again.rows_written) == (1, (), (), 0)
    assert lake.files(LOGS) == before
    lake.check(log, calls(1))


def test_an_empty_batch_empties_its_window_alone(lake: Lake) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    log.write("replace", calls(1), window=day_window(1))
    log.write("replace", calls(2), window=day_window(2))
    lake.apply(log)
    log.write("replace", [], window=day_window(1))
    applied = lake.apply(log)
    assert (applied.partitions, applied.changed_days) == (("at_day=2026-01-01",), ("2026-01-01",))
    lake.check(log, calls(2))
    log.write("replace", [], window=day_window(2))
    lake.apply(log)
    lake.check(log, [])
    assert lake.tables.partitions(SOURCE, LOGS) == {}
    assert lake.state(LOGS).files == 0


def test_a_table_can_begin_with_an_empty_batch(lake: Lake) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    log.write("replace", [], window=day_window(1))
    assert lake.apply(log).entries == 1
    lake.check(log, [])
    log.write("replace", calls(1), window=day_window(1))
    lake.apply(log)
    lake.check(log, calls(1))


def test_a_window_that_is_not_a_whole_day_replaces_what_lies_in_it(lake: Lake) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    log.write("replace", calls(1), window=day_window(1))
    log.write("replace", calls(2), window=day_window(2))
    lake.apply(log)
    log.write("replace", [], window=Window(day(1) + hours(2), day(2) + hours(1)))
    applied = lake.apply(log)
    assert applied.changed_days == ("2026-01-01", "2026-01-02")
    lake.check(log, calls(1)[:2] + calls(2)[1:])


@pytest.mark.parametrize("partition", [unpartitioned(), bucket("id", 4), days("born"), months("born"), identity("name")])
def test_the_newest_version_of_a_key_stands_whatever_the_partitioning(lake: Lake, partition: Partitioning) -> None:
    log = users_log(lake, partition)
    log.write("upsert", [user(f"u{i}", born=1 + i % 3) for i in range(9)], files=2)
    lake.apply(log)
    log.write("upsert", [user("u1", 2, 5, "new"), user("u2", 3, 4, "newer"), user("u2", 3, 3, "older"), user("u9")])
    log.write("upsert", [user("u1", 2, 3, "stale"), user("u9", 1, 1, "same time, later batch")])
    lake.apply(log)
    expected = {f"u{i}": user(f"u{i}", born=1 + i % 3) for i in range(9)}
    expected |= {"u1": user("u1", 2, 5, "new"), "u2": user("u2", 3, 4, "newer"), "u9": user("u9", 1, 1, "same time, later batch")}
    lake.check(log, list(expected.values()))
    assert by_key(lake.rows(log.table), "id") == expected


def test_of_two_equal_cursors_in_a_batch_the_later_position_stands_across_files(lake: Lake) -> None:
    log = users_log(lake, bucket("id", 4))
    log.write("upsert", [user("u", called=f"v{i}") for i in range(10)], files=3)
    lake.apply(log)
    lake.check(log, [user("u", called="v9")])


@pytest.mark.parametrize("partition", [unpartitioned(), bucket("id", 4), days("born")])
def test_deleted_keys_are_gone_and_can_come_back(lake: Lake, partition: Partitioning) -> None:
    log = users_log(lake, partition)
    log.write("upsert", [user("a", 1), user("b", 2), user("c", 3)])
    lake.apply(log)
    log.write("delete", [{"id": "a"}, {"id": "never there"}], columns=["id"])
    applied = lake.apply(log)
    assert applied.changed_days == ("2026-01-01",)
    lake.check(log, [user("b", 2), user("c", 3)])
    log.write("delete", [{"id": "b"}], columns=["id"])
    log.write("upsert", [user("b", 2, 1, "again")])
    log.write("delete", [], columns=["id"])
    lake.apply(log)
    lake.check(log, [user("b", 2, 1, "again"), user("c", 3)])


def test_a_row_that_moves_to_another_day_leaves_the_old_one_and_changes_both(lake: Lake) -> None:
    log = users_log(lake, days("born"))
    log.write("upsert", [user("a", 1), user("b", 1), user("c", 2), user("d", 4)])
    lake.apply(log)
    log.write("upsert", [user("a", 3, 2)])
    applied = lake.apply(log)
    assert applied.partitions == ("born_day=2026-01-01", "born_day=2026-01-03")
    assert applied.changed_days == ("2026-01-01", "2026-01-03")
    lake.check(log, [user("a", 3, 2), user("b", 1), user("c", 2), user("d", 4)])


def test_changed_days_are_those_of_rows_that_differ_and_no_others(lake: Lake) -> None:
    log = users_log(lake, unpartitioned())
    log.write("upsert", [user(f"u{i}", born=i) for i in range(1, 10)])
    assert lake.apply(log).changed_days == tuple(f"2026-01-0{i}" for i in range(1, 10))
    log.write("upsert", [user("u3", 3, 2, "changed"), user("u4", 4), user("u12", 12)])
    assert lake.apply(log).changed_days == ("2026-01-03", "2026-01-12")
    log.write("upsert", [user("u5", 6, 2)])
    assert lake.apply(log).changed_days == ("2026-01-05", "2026-01-06")
    assert lake.state(log.table).current.changed_days == ("2026-01-05", "2026-01-06")


def test_rows_without_a_partition_value_have_a_partition_of_their_own(lake: Lake) -> None:
    log = users_log(lake, days("born"))
    log.write("upsert", [user("a"), {**user("b"), "born": None}])
    applied = lake.apply(log)
    assert applied.partitions == ("born_day=2026-01-01", "born_day=null")
    log.write("upsert", [{**user("a", changed=2), "born": None}, user("b", 1, 2)])
    lake.apply(log)
    lake.check(log, [{**user("a", changed=2), "born": None}, user("b", 1, 2)])
    assert lake.rows(log.table, partitions=["born_day=null"]) == [{**user("a", changed=2), "born": None}]


def test_identity_partitions_take_any_text(lake: Lake) -> None:
    log = users_log(lake, identity("name"))
    names = ["", "null", "a/b", "a=b&c", "Ünï 漢字", "..", "%41", "x" * 150]
    rows = [user(f"u{i}", called=name) for i, name in enumerate(names)] + [{**user("none"), "name": None}]
    log.write("upsert", rows)
    lake.apply(log)
    lake.check(log, rows)
    parts = lake.tables.partitions(SOURCE, log.table)
    assert parts == {f"name={name}": 2 if name == "null" else 1 for name in names}
    assert sorted_rows(lake.rows(log.table, partitions=["name=null"])) == sorted_rows([rows[1], rows[-1]])
    log.write("upsert", [user("u1", 1, 2, "elsewhere")])
    lake.apply(log)
    rows[1] = user("u1", 1, 2, "elsewhere")
    lake.check(log, rows)


def test_a_snapshot_replaces_the_table_and_an_equal_one_writes_nothing(lake: Lake) -> None:
    log = lake.log(PREFERENCES, {"id": "int32", "theme": "string", "extra": "json"}, ("id",))
    log.write("snapshot", [{"id": 1, "theme": "dark"}, {"id": 2, "theme": "light", "extra": '{"a": 1}'}])
    log.write("snapshot", [{"id": 2, "theme": "light"}, {"id": 3, "theme": "dark"}])
    first = lake.apply(log)
    assert (first.entries, first.partitions, first.changed_days) == (2, ("all",), ())
    lake.check(log, [{"id": 2, "theme": "light"}, {"id": 3, "theme": "dark"}])
    before = lake.files(PREFERENCES)
    log.write("snapshot", [{"id": 3, "theme": "dark"}, {"id": 2, "theme": "light"}])
    same = lake.apply(log)
    assert (same.entries, same.partitions, same.rows_written) == (1, (), 0)
    assert lake.files(PREFERENCES) == before
    lake.check(log, [{"id": 2, "theme": "light"}, {"id": 3, "theme": "dark"}])
    log.write("snapshot", [])
    lake.apply(log)
    lake.check(log, [])


def test_a_snapshot_table_can_be_partitioned(lake: Lake) -> None:
    table = Table("plans", "snapshot", ("id",), partition=identity("theme"))
    log = lake.log(table, {"id": "int32", "theme": "string"}, ("id",))
    log.write("snapshot", [{"id": 1, "theme": "dark"}, {"id": 2, "theme": "light"}])
    lake.apply(log)
    log.write("snapshot", [{"id": 1, "theme": "dark"}, {"id": 2, "theme": "blue"}])
    assert lake.apply(log).partitions == ("theme=blue", "theme=light")
    lake.check(log, [{"id": 1, "theme": "dark"}, {"id": 2, "theme": "blue"}])


def test_applying_twice_is_as_good_as_once(lake: Lake) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    log.write("replace", calls(1), window=day_window(1))
    lake.apply(log)
    version = lake.state(LOGS).current.version
    again = lake.apply(log)
    assert (again.entries, again.partitions, again.rows_written) == (0, (), 0)
    assert lake.state(LOGS).current.version == version == again.state.current.version
    lake.check(log, calls(1))


def test_entries_that_do_not_follow_on_the_watermark_are_refused(lake: Lake) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    for number in (1, 2, 3):
        log.write("replace", calls(number), window=day_window(number))
    with pytest.raises(CommitConflict, match="entry 2 where 1 should follow"):
        lake.tables.apply(SOURCE, LOGS, log.entries[1:], log.folder)
    with pytest.raises(CommitConflict, match="entry 3 where 2 should follow"):
        lake.tables.apply(SOURCE, LOGS, [log.entries[0], log.entries[2]], log.folder)
    assert lake.tables.state(SOURCE, LOGS) is None


def test_an_entry_a_time_and_all_at_once_give_the_same_rows_and_marker(lake: Lake) -> None:
    log = users_log(lake, bucket("id", 4))
    for number in range(1, 6):
        log.write("upsert", [user(f"u{i}", 1, number, f"v{number}") for i in range(number, number + 4)])
    log.write("delete", [{"id": "u5"}], columns=["id"])
    for upto in range(1, 7):
        lake.apply(log, upto)
    step = lake.marker(log.table)
    whole = Table("users_at_once", "upsert", ("id",), cursor="changed", event_time="born", partition=bucket("id", 4))
    once = lake.tables.apply(SOURCE, whole, log.entries, log.folder)
    assert once.state.current.marker == step


def test_deleted_keys_before_any_row_are_refused(lake: Lake) -> None:
    log = users_log(lake, bucket("id", 4))
    log.write("delete", [{"id": "a"}], columns=["id"])
    with pytest.raises(WrongUse, match="deleted keys alone"):
        lake.apply(log)
    log.write("upsert", [user("a")])
    lake.apply(log)
    lake.check(log, [user("a")])


@pytest.mark.parametrize("damage", ["changed", "short", "gone"])
def test_a_damaged_raw_file_is_named_and_nothing_is_applied(lake: Lake, damage: str) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    log.write("replace", calls(1), window=day_window(1))
    lake.apply(log)
    entry = log.write("replace", calls(2), window=day_window(2), files=2)
    before, files = lake.state(LOGS), lake.files(LOGS)
    path = f"{log.folder}/{entry.manifest.files[1].path}"
    data = bytearray(lake.store.get(path))
    if damage == "gone":
        lake.store.delete(path)
    else:
        data[len(data) // 2] ^= 1
        lake.store.put(path, bytes(data) if damage == "changed" else bytes(data[:-10]))
    with pytest.raises(DamagedData) as raised:
        lake.apply(log)
    assert entry.manifest.files[1].path in str(raised.value)
    assert lake.state(LOGS) == before
    assert lake.files(LOGS) == files


def test_a_kind_of_batch_that_the_mode_cannot_have_is_refused(lake: Lake) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    log.write("upsert", calls(1))
    with pytest.raises(DamagedData, match="upsert"):
        lake.apply(log)
    assert lake.tables.state(SOURCE, LOGS) is None


def test_what_an_apply_needs_on_the_local_disk_is_gone_afterwards(lake: Lake) -> None:
    log = lake.log(LOGS, LOG_FIELDS, ("id", "at"))
    entry = log.write("replace", calls(1), window=day_window(1))
    lake.apply(log)
    entry = log.write("replace", calls(2), window=day_window(2))
    lake.store.put(f"{log.folder}/{entry.manifest.files[0].path}", b"not Parquet")
    with pytest.raises(DamagedData):
        lake.apply(log)
    assert list((lake.settings.home / "tmp").glob("*")) == []


def test_months_are_named_by_year_and_month(lake: Lake) -> None:
    log = users_log(lake, months("born"))
    log.write("upsert", [user("a"), {**user("b"), "born": day(1) - timedelta(days=700)}])
    assert lake.apply(log).partitions == ("born_month=2024-02", "born_month=2026-01")
    lake.check(log, [user("a"), {**user("b"), "born": day(1) - timedelta(days=700)}])
