"""What a raw log promises; run over a folder and over S3."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lakehouse.errors import CommitConflict, DamagedData, SchemaChanged, StoreUnavailable, ValueRefused, WrongUse
from lakehouse.raw import RawLog, encode_manifest, log, writer
from lakehouse.rows.checksum import checksum_of
from lakehouse.rows.duck import connect_duckdb
from lakehouse.settings import StoreSettings
from lakehouse.spec import BatchKind, LogEntry, Manifest, Position, Table, Window, days
from lakehouse.spec.types import arrow_field
from lakehouse.stores import ObjectInfo, ObjectStore, open_store
from tests.crash.forks import FORKS

MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = Window.of_day(date(2026, 1, 31))
EVENTS = Table("events", "append", ("id",), event_time="at", partition=days("at"))
ITEMS = Table("items", "upsert", ("id",), cursor="at")
SCHEMA = pa.schema(
    [
        arrow_field("id", "int64", nullable=False, doc="the größe"),
        arrow_field("at", "timestamp"),
        arrow_field("text", "string"),
        arrow_field("extra", "json"),
        arrow_field("tags", "list<string>"),
        arrow_field("cost", "decimal(12,2)"),
    ]
)
RACERS = 4
CLAIMS = 8


@pytest.fixture
def events(store: ObjectStore, tmp_path: Path) -> RawLog:
    return RawLog(store, "shop", EVENTS, scratch=tmp_path / "scratch")


def rows(*ids: int, text: str = "Grüße, 世界 🎉\0") -> pa.RecordBatch:
    values = [{"id": n, "at": MOMENT, "text": text, "extra": None, "tags": ["a", None], "cost": None} for n in ids]
    return pa.RecordBatch.from_pylist(values, schema=SCHEMA)


def manifest_of(log: RawLog, *batches: pa.RecordBatch, kind: BatchKind = "replace", window: Window | None = DAY) -> Manifest:
    written = log.write(batches, SCHEMA, folder="day=2026-01-31")
    position = Position(MOMENT, MOMENT, True, {"lsn": "0/16B3748"})
    return log.manifest(written, kind=kind, window=window, closed=True, schema=SCHEMA, position=position, run_id="run")


def landed(log: RawLog, *batches: pa.RecordBatch) -> LogEntry:
    return log.claim(manifest_of(log, *batches))


def ids(log: RawLog, entry: LogEntry) -> list[int]:
    return [n for batch in log.read(entry) for n in batch.column("id").to_pylist()]


def claim_some(settings: StoreSettings, barrier: Barrier, racer: int) -> None:
    """In a process of its own: claim several batches as fast as it can, beside others."""
    log = RawLog(open_store(settings), "shop", EVENTS)
    manifests = [replace(manifest_of(log), run_id=f"{racer}/{number}") for number in range(CLAIMS)]
    barrier.wait(120)
    for number, manifest in enumerate(manifests):
        if number % 2:
            log.claim(manifest)
        else:
            while True:
                try:
                    log.claim(manifest, expected_head=log.head())
                    break
                except CommitConflict:
                    continue


def test_an_empty_log_has_no_head_and_no_entries(events: RawLog) -> None:
    assert events.head() == 0
    assert events.entries() == []


def test_a_batch_is_read_as_it_was_written(events: RawLog) -> None:
    entry = landed(events, rows(3, 1), rows(2))
    assert entry.sequence == 1
    assert events.entries() == [entry]
    table = pa.Table.from_batches(events.read(entry))
    assert table.to_pylist() == pa.Table.from_batches([rows(3, 1), rows(2)]).to_pylist()
    assert table.schema.equals(SCHEMA)
    assert events.schema_of(entry).equals(SCHEMA, check_metadata=True)
    assert [batch.schema.names for batch in events.read(entry, ["text", "id"])] == [["text", "id"]]


def test_a_manifest_says_what_the_batch_holds(events: RawLog, store: ObjectStore) -> None:
    written = events.write([rows(1, 2, 3), rows(4, 5, 6)], SCHEMA)
    assert written.checksum == checksum_of([rows(6, 5), rows(4, 3, 2, 1)], SCHEMA)
    assert written.rows == 6
    assert written.sample.column("id").to_pylist() == [1, 2, 3, 4, 5]
    assert len(written.files) == 1
    found = list(store.list(events.folder))
    assert [(f"{events.folder}/{f.path}", f.bytes) for f in written.files] == [(info.path, info.size) for info in found]
    assert written.files[0].path.startswith(written.batch_id)


def test_a_batch_without_rows_writes_no_file_and_can_be_claimed(events: RawLog, store: ObjectStore) -> None:
    for batches in ((), (rows(),)):
        entry = landed(events, *batches)
        assert entry.manifest.files == ()
        assert (entry.manifest.rows, entry.manifest.checksum) == (0, "0" * 16)
        assert list(events.read(entry)) == []
    assert [info.path for info in store.list("")] == [f"{events.folder}/_log/{n:020d}.json" for n in (1, 2)]


def test_files_lie_where_people_and_other_tools_look(events: RawLog, store: ObjectStore, tmp_path: Path) -> None:
    entry = landed(events, rows(2, 1))
    assert [info.path.rsplit("/", 1)[0] for info in store.list("")] == [
        "raw/shop/events/_log",
        "raw/shop/events/day=2026-01-31",
    ]
    store.download(f"{events.folder}/{entry.manifest.files[0].path}", tmp_path / "file.parquet")
    parquet = pq.ParquetFile(tmp_path / "file.parquet")
    at = parquet.metadata.row_group(0).column(1)
    assert parquet.metadata.metadata[b"lakehouse.batch_id"].decode() == entry.manifest.batch_id
    assert at.compression == "ZSTD"
    assert at.statistics.has_min_max
    logical = json.loads(parquet.schema.column(1).logical_type.to_json())
    assert (logical["Type"], logical["isAdjustedToUTC"], logical["timeUnit"]) == ("Timestamp", True, "microseconds")
    with connect_duckdb() as connection:
        found = connection.execute(f"select id, \"at\", tags from '{tmp_path}/file.parquet'").fetchall()
    assert found == [(2, MOMENT, ["a", None]), (1, MOMENT, ["a", None])]


def test_a_large_batch_is_cut_into_files_and_row_groups_in_order(events: RawLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "GROUP_ROWS", 100)
    monkeypatch.setattr(writer, "FILE_BYTES", 5000)
    batches = [rows(*range(start, start + 90), text=f"{start}" * 20) for start in range(0, 1800, 90)]
    entry = landed(events, *batches, rows(*range(1800, 2150)))
    assert len(entry.manifest.files) > 2
    assert sum(file.rows for file in entry.manifest.files) == entry.manifest.rows == 2150
    assert ids(events, entry) == list(range(2150))


def test_a_row_group_is_bounded_by_bytes_too(events: RawLog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(writer, "GROUP_BYTES", 10_000)
    entry = landed(events, *(rows(n, text="x" * 4000) for n in range(10)))
    (local,) = events.local_files(entry, tmp_path / "into")
    assert pq.ParquetFile(local).metadata.num_row_groups == 5


def test_rows_of_another_schema_are_refused_with_both_schemas_named(events: RawLog) -> None:
    with pytest.raises(SchemaChanged) as caught:
        events.write([rows(1).drop_columns(["text"])], SCHEMA)
    assert "text string" in str(caught.value)
    with pytest.raises(SchemaChanged):
        events.write([rows(1).set_column(0, "id", pa.array([1], pa.int32()))], SCHEMA)


def test_a_null_that_the_schema_forbids_is_refused(events: RawLog) -> None:
    nullable = pa.schema([pa.field("id", pa.int64()), *list(SCHEMA)[1:]])
    bad = pa.RecordBatch.from_pylist([{"id": None}], schema=nullable)
    with pytest.raises(ValueRefused, match="id"):
        events.write([bad], SCHEMA)


def test_a_source_that_breaks_in_the_middle_leaves_the_log_as_it_was_and_no_local_file(events: RawLog, tmp_path: Path) -> None:
    def breaking() -> Iterator[pa.RecordBatch]:
        yield rows(1)
        raise ConnectionError("the source went away")

    with pytest.raises(ConnectionError):
        events.write(breaking(), SCHEMA)
    assert events.head() == 0
    assert list((tmp_path / "scratch").iterdir()) == []


def test_no_local_file_outlives_a_write_or_a_read(events: RawLog, tmp_path: Path) -> None:
    entry = landed(events, rows(1))
    ids(events, entry)
    half = events.read(entry)
    next(half)
    half.close()  # type: ignore[attr-defined]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_entries_after_a_sequence_are_those_that_came_later(events: RawLog) -> None:
    all_of_them = [landed(events, rows(n)) for n in range(5)]
    assert events.entries() == all_of_them
    for after in range(6):
        assert events.entries(after) == all_of_them[after:]
    assert events.entry(3) == all_of_them[2]


def test_logs_of_two_tables_do_not_meet(store: ObjectStore) -> None:
    one, other, elsewhere = (
        RawLog(store, "shop", EVENTS),
        RawLog(store, "shop", replace(EVENTS, name="events_2")),
        RawLog(store, "shop_2", EVENTS),
    )
    landed(one, rows(1))
    assert (one.head(), other.head(), elsewhere.head()) == (1, 0, 0)
    assert other.entries() == elsewhere.entries() == []


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 9, 30])
def test_the_head_is_found_whatever_the_length_of_the_log_and_of_a_page(
    events: RawLog, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    for number in range(1, length + 1):
        store.put(f"{events.folder}/_log/{number:020d}.json", b"")
    whole = store.page
    requests = []

    def small_page(folder: str, after: str | None = None) -> list[ObjectInfo]:
        requests.append(after)
        return list(whole(folder, after))[:3]

    monkeypatch.setattr(store, "page", small_page)
    assert events.head() == length
    assert len(requests) <= 3 + 2 * length.bit_length()


def test_what_is_no_entry_is_no_part_of_the_log(events: RawLog, store: ObjectStore) -> None:
    entry = landed(events, rows(1))
    for name in ("README.md", "7.json", f"{9:020d}.json.tmp"):
        store.put(f"{events.folder}/_log/{name}", b"")
    assert events.entries() == [entry]
    assert events.head() == 1


def test_a_claim_takes_the_place_after_the_expected_head_or_none(events: RawLog) -> None:
    first, second = manifest_of(events, rows(1)), manifest_of(events, rows(2))
    assert events.claim(first, expected_head=0).sequence == 1
    with pytest.raises(CommitConflict, match=first.batch_id):
        events.claim(second, expected_head=0)
    assert events.entries() == [LogEntry(1, first)]
    assert events.claim(second, expected_head=1).sequence == 2


def test_a_claim_beyond_the_head_is_refused_because_it_would_leave_a_gap(events: RawLog) -> None:
    with pytest.raises(WrongUse, match="no entry 3"):
        events.claim(manifest_of(events), expected_head=3)
    assert events.head() == 0


def test_claiming_a_claimed_batch_at_its_place_again_finds_it_there(events: RawLog) -> None:
    manifest = manifest_of(events, rows(1))
    assert events.claim(manifest, expected_head=0) == events.claim(manifest, expected_head=0)
    assert events.head() == 1


@pytest.mark.parametrize("expected_head", [None, 0])
def test_a_claim_that_went_through_without_an_answer_is_found_when_it_is_made_again(
    events: RawLog, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, expected_head: int | None
) -> None:
    manifest = manifest_of(events, rows(1))
    put_new = store.put_new

    def unanswered(path: str, data: bytes) -> bool:
        put_new(path, data)
        raise StoreUnavailable("writing", remedy="Run it again.")

    monkeypatch.setattr(store, "put_new", unanswered)
    with pytest.raises(StoreUnavailable):
        events.claim(manifest, expected_head=expected_head)
    monkeypatch.setattr(store, "put_new", put_new)
    landed(events, rows(2))
    assert events.claim(manifest, expected_head=expected_head) == LogEntry(1, manifest)
    assert events.head() == 2


def test_a_claim_without_expectation_goes_on_until_it_wins(events: RawLog, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(events, rows(9))
    monkeypatch.setattr(events, "head", lambda: 0)
    theirs = [landed(events, rows(n)) for n in range(3)]
    entry = events.claim(manifest)
    assert entry.sequence == 4
    assert events.entries() == [*theirs, entry]


def test_claims_of_many_processes_each_get_a_place_and_none_is_lost(store_settings: StoreSettings, store: ObjectStore) -> None:
    barrier = FORKS.Barrier(RACERS)
    racers = [FORKS.Process(target=claim_some, args=(store_settings, barrier, racer)) for racer in range(RACERS)]
    for process in racers:
        process.start()
    for process in racers:
        process.join(180)
    assert [process.exitcode for process in racers] == [0] * RACERS
    entries = RawLog(store, "shop", EVENTS).entries()
    assert [entry.sequence for entry in entries] == list(range(1, RACERS * CLAIMS + 1))
    assert sorted(entry.manifest.run_id for entry in entries) == sorted(f"{r}/{n}" for r in range(RACERS) for n in range(CLAIMS))
    for racer in range(RACERS):
        own = [entry.manifest.run_id for entry in entries if entry.manifest.run_id.startswith(f"{racer}/")]
        assert own == [f"{racer}/{n}" for n in range(CLAIMS)]


def test_a_missing_entry_is_named_and_nothing_is_given(events: RawLog, store: ObjectStore) -> None:
    for n in range(4):
        landed(events, rows(n))
    store.delete(f"{events.folder}/_log/{2:020d}.json")
    for after in (0, 1):
        with pytest.raises(DamagedData, match=f"{2:020d}.json"):
            events.entries(after)
    assert [entry.sequence for entry in events.entries(2)] == [3, 4]
    assert events.head() == 4
    assert landed(events, rows(5)).sequence == 5


def test_a_log_that_is_shorter_than_what_was_applied_is_damage_and_not_news(events: RawLog, store: ObjectStore) -> None:
    landed(events, rows(1))
    with pytest.raises(DamagedData, match=f"{3:020d}.json"):
        events.entries(after=3)


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-40], lambda data: data.replace(b'"rows": 1', b'"rows": 2')]
)
def test_a_damaged_manifest_is_named(events: RawLog, store: ObjectStore, damage: Callable[[bytes], bytes]) -> None:
    landed(events, rows(1))
    path = f"{events.folder}/_log/{1:020d}.json"
    store.put(path, damage(store.get(path)))
    with pytest.raises(DamagedData, match=path):
        events.entries()


def test_a_manifest_of_another_table_is_named(events: RawLog, store: ObjectStore) -> None:
    stray = replace(manifest_of(events), table="customers")
    store.put(f"{events.folder}/_log/{1:020d}.json", encode_manifest(stray))
    with pytest.raises(DamagedData, match=r"shop\.customers"):
        events.entries()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"",
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        None,
    ],
    ids=["cut", "longer", "empty", "flipped", "deleted"],
)
def test_a_damaged_file_is_named_and_no_row_of_it_is_read(
    events: RawLog, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes] | None
) -> None:
    monkeypatch.setattr(writer, "FILE_BYTES", 1)
    monkeypatch.setattr(writer, "GROUP_ROWS", 1)
    entry = landed(events, rows(1), rows(2))
    whole, broken = (f"{events.folder}/{file.path}" for file in entry.manifest.files)
    if damage is None:
        store.delete(broken)
    else:
        store.put(broken, damage(store.get(broken)))
    seen: list[list[int]] = []
    with pytest.raises(DamagedData, match=Path(broken).name) as caught:
        seen.extend(batch.column("id").to_pylist() for batch in events.read(entry))
    assert seen == [[1]]
    assert Path(whole).name not in str(caught.value)
    with pytest.raises(DamagedData, match=Path(broken).name):
        events.local_files(entry, tmp_path / "into")
    with (
        connect_duckdb() as connection,
        pytest.raises(DamagedData, match=Path(broken).name),
        events.current_rows(connection),
    ):
        pytest.fail("rows were given")


def test_local_files_are_in_the_order_of_the_batch(events: RawLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FILE_BYTES", 1)
    monkeypatch.setattr(writer, "GROUP_ROWS", 2)
    entry = landed(events, rows(*range(24)))
    files = events.local_files(entry, tmp_path / "into")
    assert len(files) == 12
    assert pc.equal(pa.concat_tables([pq.read_table(file) for file in files])["id"], pa.chunked_array([list(range(24))]))
    assert ids(events, entry) == list(range(24))


def test_a_batch_may_refer_to_files_that_an_earlier_one_brought(events: RawLog) -> None:
    first = landed(events, rows(1, 2))
    again = events.claim(replace(manifest_of(events), files=first.manifest.files, rows=2, checksum=first.manifest.checksum))
    assert ids(events, again) == [1, 2]


def test_the_scratch_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(tmp_path: Path) -> None:
    from lakehouse.raw.scratch import PREFIX, scratch_folder

    left = tmp_path / f"{PREFIX}left"
    left.mkdir()
    (left / ".lock").touch()
    (left / "batch.parquet").write_bytes(b"x")
    with scratch_folder(tmp_path) as mine, scratch_folder(tmp_path) as another:
        assert not left.exists()
        assert mine.exists()
        assert another.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_module_reads_entries_in_parallel_and_in_order(events: RawLog, store: ObjectStore) -> None:
    manifest = manifest_of(events)
    for number in range(1, 41):
        store.put(f"{events.folder}/_log/{number:020d}.json", encode_manifest(replace(manifest, run_id=str(number))))
    assert log.PARALLEL > 1
    assert [entry.manifest.run_id for entry in events.entries()] == [str(n) for n in range(1, 41)]
