"""The embedded ClickHouse over HTTP, by its usual client and by hand."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import threading
import zlib
from base64 import b64encode
from typing import Any
from urllib.parse import urlencode

import lz4.frame  # type: ignore[import-untyped]
import pyarrow as pa
import pytest
import zstandard
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_connect.driver.external import ExternalData

from tests.clickhouse_server import PASSWORD, USER, ClickHouseServer, ask, client_fixture, server_fixture  # noqa: F401

# --- what it says and to whom


def test_it_answers_ping_without_a_password(server: ClickHouseServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for path in ("/ping", "/replicas_status"):
        connection.request("GET", path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"Ok.\n")
    connection.close()


def test_a_wrong_password_is_refused_with_code_516(server: ClickHouseServer) -> None:
    with pytest.raises(DatabaseError) as refused:
        server.client(password="wrong")
    assert refused.value.code == 516
    with pytest.raises(DatabaseError) as unknown:
        server.client(username="nobody")
    assert unknown.value.code == 516


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [
        ({"Authorization": "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()}, {}),
        ({"X-ClickHouse-User": USER, "X-ClickHouse-Key": PASSWORD}, {}),
        ({}, {"user": USER, "password": PASSWORD}),
    ],
    ids=["basic", "headers", "address"],
)
def test_a_client_may_say_who_it_is_in_three_ways(
    server: ClickHouseServer, headers: dict[str, str], parameters: dict[str, Any]
) -> None:
    assert ask(server, b"SELECT 1", known=False, headers=headers, **parameters)[::2] == (200, b"1\n")


def test_who_says_nothing_is_asked_for_a_password(server: ClickHouseServer) -> None:
    status, headers, content = ask(server, b"SELECT 1", known=False)
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (401, "516")
    assert "Basic" in headers["WWW-Authenticate"]
    assert b"AUTHENTICATION_FAILED" in content


@pytest.mark.parametrize(
    ("statement", "status", "code", "name"),
    [
        ("SELECT 1 +", 400, 62, "SYNTAX_ERROR"),
        ("SELECT * FROM nothing_here", 404, 60, "UNKNOWN_TABLE"),
        ("SELECT nothing_here", 404, 47, "UNKNOWN_IDENTIFIER"),
        ("INSERT INTO nothing_here VALUES (1)", 404, 60, "UNKNOWN_TABLE"),
        ("DROP TABLE nothing_here", 404, 60, "UNKNOWN_TABLE"),
        ("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT 1; SELECT 2", 400, 62, "SYNTAX_ERROR"),
        ("SELECT 1 INTO OUTFILE '/tmp/nothing_here'", 501, 48, "NOT_IMPLEMENTED"),
        ("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", 501, 48, "NOT_IMPLEMENTED"),
        ("", 400, 62, "SYNTAX_ERROR"),
        ("-- nothing but a comment", 400, 62, "SYNTAX_ERROR"),
    ],
)
@pytest.mark.parametrize("wait", [0, 1])
def test_an_error_has_its_code_its_name_and_its_status(
    server: ClickHouseServer, statement: str, status: int, code: int, name: str, wait: int
) -> None:
    got, headers, content = ask(server, b"", query=statement, wait_end_of_query=wait)
    assert (got, headers["X-ClickHouse-Exception-Code"]) == (status, str(code))
    assert content.startswith(f"Code: {code}. DB::Exception: ".encode())
    assert f"({name})" in content.decode()


def test_an_unknown_setting_is_refused(server: ClickHouseServer) -> None:
    status, headers, _ = ask(server, b"SELECT 1", no_such_setting=1)
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (404, "115")


def test_an_unknown_database_is_refused(server: ClickHouseServer) -> None:
    assert ask(server, b"SELECT 1", database="nowhere")[1]["X-ClickHouse-Exception-Code"] == "81"


def test_get_only_reads(server: ClickHouseServer) -> None:
    assert ask(server, method="GET", query="SELECT 7")[::2] == (200, b"7\n")
    status, headers, _ = ask(server, method="GET", query="CREATE DATABASE by_get")
    assert (status, headers["X-ClickHouse-Exception-Code"]) == (500, "164")
    assert ask(server, method="GET")[::2] == (200, b"Ok.\n")


def test_a_page_that_is_not_there_is_not_found(server: ClickHouseServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/nothing")
    assert connection.getresponse().status == 404
    connection.close()


# --- statements


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"query": "SELECT 1"}, b"1\n"),
        ({"body": b"SELECT 1"}, b"1\n"),
        ({"query": "SELECT", "body": b"1"}, b"1\n"),
        ({"body": b"SELECT 1;\n"}, b"1\n"),
        ({"body": b"SELECT 1 FORMAT JSONEachRow"}, b'{"1":1}\n'),
        ({"body": b"SELECT 1 format CSV ;"}, b"1\n"),
        ({"body": b"SELECT 'FORMAT JSON' AS x"}, b"FORMAT JSON\n"),
        ({"body": b"SELECT 1 -- FORMAT JSON"}, b"1\n"),
        ({"body": b"SELECT 1 /* INTO OUTFILE 'x' */ # FORMAT JSON\n"}, b"1\n"),
        (
            {"body": b"SELECT 'it''s; a \\' mark', \";\", `x`` y` FROM (SELECT 1 AS \";\", 2 AS `x`` y`)"},
            b"it\\'s; a \\' mark\t1\t2\n",
        ),
        ({"body": b"SELECT $q$ FORMAT 'JSON' ; $q$"}, b" FORMAT \\'JSON\\' ; \n"),
        ({"body": b"SELECT number FROM numbers(2) FORMAT CSV SETTINGS max_block_size = 1"}, b"0\n1\n"),
        ({"body": b"SELECT number FROM numbers(2) SETTINGS max_block_size = 1"}, b"0\n1\n"),
        ({"body": b"(SELECT 1) UNION ALL (SELECT 1)"}, b"1\n1\n"),
        ({"body": b"WITH 2 AS x SELECT x"}, b"2\n"),
        ({"body": b"FROM numbers(1) SELECT number"}, b"0\n"),
        ({"body": b"SELECT format FROM (SELECT 3 AS format)"}, b"3\n"),
        ({"body": b"SELECT x.format FROM (SELECT 3 AS format) AS x"}, b"3\n"),
        ({"body": b"EXISTS TABLE nothing_here"}, b"0\n"),
        ({"body": "SELECT 'naïve 🦆'".encode()}, "naïve 🦆\n".encode()),
        ({"body": b"SELECT 1 WHERE 0"}, b""),
        ({"body": b"SELECT 1 AS a", "default_format": "CSVWithNames"}, b'"a"\n1\n'),
        ({"body": b"SELECT 1 AS a WHERE 0", "default_format": "CSVWithNames"}, b'"a"\n'),
        ({"body": b"SELECT {a:String} || {b:UInt8}", "param_a": "x\\ty", "param_b": "3"}, b"x\\ty3\n"),
        ({"body": b"SELECT getSetting('max_block_size')", "max_block_size": "17"}, b"17\n"),
        ({"body": b"SELECT currentDatabase()", "database": "system"}, b"system\n"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("wait", [0, 1])
def test_a_statement_is_read_as_clickhouse_reads_it(
    server: ClickHouseServer, parts: dict[str, Any], expected: bytes, wait: int
) -> None:
    assert ask(server, wait_end_of_query=wait, **parts)[::2] == (200, expected)


def test_a_result_says_its_format_and_what_it_cost(server: ClickHouseServer) -> None:
    _, headers, _ = ask(server, b"SELECT number FROM numbers(10)", wait_end_of_query=1, query_id="the-id")
    assert (headers["X-ClickHouse-Format"], headers["X-ClickHouse-Query-Id"]) == ("TabSeparated", "the-id")
    assert headers["X-ClickHouse-Timezone"]
    summary = json.loads(headers["X-ClickHouse-Summary"])
    assert (summary["read_rows"], summary["result_rows"]) == ("10", "10")
    assert int(summary["elapsed_ns"]) > 0
    assert "X-ClickHouse-Format" not in ask(server, b"CREATE DATABASE IF NOT EXISTS formats")[1]


def test_rows_may_follow_the_text_of_an_insert(client: Any, server: ClickHouseServer) -> None:
    client.command("create table t (a Int64, b String) engine = MergeTree order by a")
    for body, query in [
        (b"INSERT INTO t VALUES (1, 'a;b'), (2, 'FORMAT CSV')", ""),
        (b'INSERT INTO t (a, b) FORMAT CSV\n3,"x\ny"\n', ""),
        (b"(4, 'four')", "INSERT INTO t VALUES"),
        (b"5\tfive\n", "INSERT INTO t FORMAT TSV"),
        (b'{"a": 6, "b": "six"}', "insert into t (a, b) format JSONEachRow"),
        (b"INSERT INTO t SELECT 7, 'FORMAT Native'", ""),
        (b"WITH 8 AS x INSERT INTO t SELECT x, 'eight'", ""),
        (b"INSERT INTO `t` SETTINGS max_insert_block_size = 1 VALUES (9, 'nine')", ""),
        (b"/* note */ INSERT INTO TABLE t (a, b) VALUES (10, concat('t', 'en'))", ""),
    ]:
        status, headers, content = ask(server, body, database=client.database, query=query)
        assert (status, content) == (200, b""), (body, content)
        assert "written_rows" in headers["X-ClickHouse-Summary"]
    rows = client.query("select a, b from t order by a").result_rows
    assert [row[0] for row in rows] == list(range(1, 11))
    assert dict(rows) == {1: "a;b", 2: "FORMAT CSV", 3: "x\ny", 4: "four", 5: "five", 6: "six", 7: "FORMAT Native",
                          8: "eight", 9: "nine", 10: "ten"}  # fmt: skip


def test_bad_rows_insert_nothing_and_the_connection_goes_on(client: Any) -> None:
    client.command("create table t (a Int64) engine = MergeTree order by a")
    with pytest.raises(DatabaseError) as bad:
        client.raw_insert("t", ["a"], b"1\nnot a number\n", fmt="CSV")
    assert bad.value.code == 117
    assert client.command("select count() from t") == 0
    assert client.insert("t", [[1]], column_names=["a"]).written_rows == 1


@pytest.mark.parametrize("format_", ["Native", "ArrowStream", "Arrow", "Parquet", "JSON", "JSONEachRow", "CSV", "RowBinary"])
@pytest.mark.parametrize("wait", [0, 1])
def test_a_long_result_is_one_document_in_its_format(server: ClickHouseServer, format_: str, wait: int) -> None:
    query = "SELECT number AS a, toString(number) AS b FROM numbers(200000) SETTINGS max_block_size = 8192"
    _, _, content = ask(server, query.encode(), default_format=format_, wait_end_of_query=wait)
    structure = "a UInt64, b String"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    insert = urlencode({"query": f"INSERT INTO back SELECT * FROM input('{structure}') FORMAT {format_}", "database": "default"})
    connection.close()
    ask(server, f"CREATE OR REPLACE TABLE back ({structure}) ENGINE = MergeTree ORDER BY a".encode())
    status, _, answer = ask(server, content, query=f"INSERT INTO back FORMAT {format_}")
    assert (status, answer) == (200, b""), insert
    assert ask(server, b"SELECT count(), sum(a), sum(length(b)) FROM back")[2] == b"200000\t19999900000\t1088890\n"


def test_an_empty_native_result_still_names_its_columns(client: Any) -> None:
    result = client.query("select 1::UInt8 as a, null::Nullable(Decimal(9, 2)) as b, [('x', 1)] as c where 0")
    assert (result.column_names, result.row_count) == (("a", "b", "c"), 0)
    assert [type_.name for type_ in result.column_types][:2] == ["UInt8", "Nullable(Decimal(9, 2))"]
    assert client.query("show tables").column_names == ("name",)


def test_a_form_may_hold_the_query_its_parameters_and_a_table(client: Any, server: ClickHouseServer) -> None:
    with server.client(form_encode_query_params=True) as form:
        assert form.query("select {a:String} as x", parameters={"a": "li'ne\n\t\\"}).result_rows == [("li'ne\n\t\\",)]
    table = ExternalData(file_name="people.csv", fmt="CSV", structure=["name String", "age UInt8"], data=b'"Ann",41\n"Bo",7\n')
    assert client.query("select name from people where age > 18", external_data=table).result_rows == [("Ann",)]
    with pytest.raises(DatabaseError):
        client.query("select name from people")


# --- the client


def test_the_client_round_trips_every_way_it_knows(client: Any) -> None:
    client.command("create table t (a UInt64, b Nullable(String), c Array(Int32)) engine = MergeTree order by a")
    assert client.insert("t", [[1, "x", [1]], [2, None, []]], column_names=["a", "b", "c"]).written_rows == 2
    arrow = pa.table({"a": pa.array([3], pa.uint64()), "b": ["z"], "c": pa.array([[3]], pa.list_(pa.int32()))})
    assert client.insert_arrow("t", arrow).written_rows == 1
    assert client.query("select * from t order by a").result_rows == [(1, "x", [1]), (2, None, []), (3, "z", [3])]
    assert client.query_arrow("select * from t order by a")["a"].to_pylist() == [1, 2, 3]
    assert list(client.query_df("select * from t order by a")["a"]) == [1, 2, 3]
    assert client.query("select a from t where a = {n:UInt64}", parameters={"n": 2}).result_rows == [(2,)]
    assert client.raw_query("select 1", fmt="CSV") == b"1\n"
    assert client.command("exists table t") == 1
    with client.query_rows_stream("select a from t order by a") as rows:
        assert [row[0] for row in rows] == [1, 2, 3]
    client.command("create table t2 as t")
    client.command("exchange tables t and t2")
    assert client.command("select count() from t") == 0
    client.command("truncate table t2")
    assert client.command("select count() from system.tables where database = currentDatabase()") == 2


@pytest.mark.parametrize("compress", ["lz4", "zstd", "gzip", False])
def test_the_client_compresses_both_ways(client: Any, server: ClickHouseServer, compress: str | bool) -> None:
    client.command("create table t (a UInt64, b String) engine = MergeTree order by a")
    with server.client(compress=compress, database=client.database) as other:
        other.insert("t", [[number, "x" * 100] for number in range(5000)], column_names=["a", "b"])
        rows = other.query("select a, b from t order by a").result_rows
    assert rows == [(number, "x" * 100) for number in range(5000)]


def compressed(data: bytes, encoding: str) -> bytes:
    """`data` in an encoding."""
    if encoding == "lz4":
        return bytes(lz4.frame.compress(data))
    if encoding == "zstd":
        return zstandard.compress(data)
    return gzip.compress(data) if encoding == "gzip" else zlib.compress(data)


def plain(data: bytes, encoding: str | None) -> bytes:
    """`data` out of an encoding."""
    if encoding == "lz4":
        return bytes(lz4.frame.decompress(data))
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    if encoding is None:
        return data
    return gzip.decompress(data) if encoding == "gzip" else zlib.decompress(data)


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", "deflate"])
def test_bodies_are_compressed_as_the_headers_say(server: ClickHouseServer, encoding: str) -> None:
    headers = {"Accept-Encoding": encoding, "Content-Encoding": encoding}
    for rows in (0, 1, 300_000):
        query = compressed(f"SELECT number FROM numbers({rows})".encode(), encoding)
        _, got, content = ask(server, query, headers=headers, enable_http_compression=1)
        assert got["Content-Encoding"] == encoding
        assert plain(content, encoding).count(b"\n") == rows
    _, got, content = ask(server, compressed(b"SELECT 1", encoding), headers=headers)
    assert ("Content-Encoding" in got, content) == (False, b"1\n")


def test_a_body_of_several_compressed_pieces_is_read_whole(client: Any, server: ClickHouseServer) -> None:
    client.command("create table t (a UInt64) engine = MergeTree order by a")
    for encoding in ("gzip", "zstd", "lz4"):
        body = compressed(b"1\n2\n", encoding) + compressed(b"3\n", encoding)
        ask(server, body, headers={"Content-Encoding": encoding}, query=f"INSERT INTO {client.database}.t FORMAT TSV")
    assert client.command("select count() from t") == 9


@pytest.mark.parametrize("encoding", ["lz4", "zstd", "gzip", "deflate", "rot13"])
def test_a_body_that_is_not_what_it_says_is_refused(server: ClickHouseServer, encoding: str) -> None:
    status, headers, _ = ask(server, b"INSERT INTO t VALUES (1)", headers={"Content-Encoding": encoding})
    assert status in (500, 501)
    assert headers["X-ClickHouse-Exception-Code"]


# --- sessions


def test_a_session_keeps_its_temporary_tables_and_settings(server: ClickHouseServer) -> None:
    name: dict[str, Any] = {"session_id": "kept"}
    ask(server, b"CREATE TEMPORARY TABLE mine (a UInt8)", **name)
    ask(server, b"INSERT INTO mine VALUES (5)", **name)
    ask(server, b"SET max_block_size = 11", **name)
    assert ask(server, b"SELECT a, getSetting('max_block_size') FROM mine", **name)[2] == b"5\t11\n"
    assert ask(server, b"SELECT * FROM mine")[0] == 404
    ask(server, b"SELECT 1", close_session=1, **name)
    assert ask(server, b"SELECT 1", session_check=1, **name)[1]["X-ClickHouse-Exception-Code"] == "372"


def test_a_requests_settings_end_with_it_even_in_a_session(server: ClickHouseServer) -> None:
    name: dict[str, Any] = {"session_id": "settings"}
    asked = b"SELECT getSetting('max_block_size')"
    default = ask(server, asked, **name)[2]
    assert ask(server, asked, max_block_size=3, **name)[2] == b"3\n"
    assert ask(server, asked, max_block_size=4, **name)[2] == b"4\n"
    assert ask(server, asked, **name)[2] == default
    ask(server, b"SET max_block_size = 5", max_block_size=6, **name)
    assert ask(server, asked, **name)[2] == b"5\n"
    assert ask(server, asked, max_block_size=7, **name)[2] == b"7\n"
    assert ask(server, asked, **name)[2] == b"5\n"


def test_readonly_in_a_session_does_not_outlive_its_request(server: ClickHouseServer) -> None:
    name: dict[str, Any] = {"session_id": "readonly"}
    assert ask(server, b"SELECT 1", readonly=1, **name)[::2] == (200, b"1\n")
    assert ask(server, b"CREATE DATABASE not_now", readonly=1, **name)[1]["X-ClickHouse-Exception-Code"] == "164"
    assert ask(server, b"CREATE DATABASE IF NOT EXISTS now", **name)[0] == 200


def test_a_session_is_used_by_one_request_at_a_time(server: ClickHouseServer) -> None:
    slow = threading.Thread(target=ask, args=(server, b"SELECT sleep(2)"), kwargs={"session_id": "busy"})
    slow.start()
    codes: set[str | None] = set()
    while slow.is_alive():
        codes.add(ask(server, b"SELECT 1", session_id="busy")[1]["X-ClickHouse-Exception-Code"])
    slow.join()
    assert "373" in codes
    assert ask(server, b"SELECT 1", session_id="busy")[0] == 200


def test_a_database_given_with_a_request_does_not_stay(server: ClickHouseServer) -> None:
    name: dict[str, Any] = {"session_id": "database"}
    assert ask(server, b"SELECT currentDatabase()", database="system", **name)[2] == b"system\n"
    assert ask(server, b"SELECT currentDatabase()", **name)[2] == b"default\n"
    ask(server, b"USE system", **name)
    assert ask(server, b"SELECT currentDatabase()", **name)[2] == b"system\n"


# --- several at once, long, and broken off


def test_clients_work_side_by_side(server: ClickHouseServer) -> None:
    failures: list[str] = []

    def work(number: int) -> None:
        try:
            with server.client() as own:
                own.command(f"create or replace table side_{number} (a UInt64, b String) engine = MergeTree order by a")
                for turn in range(15):
                    rows = [[turn * 100 + index, "é" * turn] for index in range(turn)]
                    own.insert(f"side_{number}", rows, column_names=["a", "b"])
                    expected = turn * (turn + 1) // 2
                    if own.command(f"select count() from side_{number}") != expected:
                        failures.append(f"{number} lost rows in turn {turn}")
                    size = turn * 997
                    if own.query(f"select number from numbers({size})").row_count != size:
                        failures.append(f"{number} lost a result in turn {turn}")
        except DatabaseError as error:
            failures.append(f"{number}: {error}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_error_late_in_a_stream_reaches_the_client(client: Any) -> None:
    with client.query_row_block_stream("select throwIf(number = 2000000, 'too far') from numbers(3000000)") as blocks:
        seen: list[int] = []
        with pytest.raises(StreamFailureError, match="too far"):
            seen.extend(len(block) for block in blocks)
    assert sum(seen) < 3_000_000
