"""How statements and the embedded ClickHouse itself end: clients that hang up, kills, long streams, signals, wrong use."""

from __future__ import annotations

import http.client
import io
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pyarrow as pa

from lakehouse.services.processes import poll
from tests.clickhouse_server import (  # noqa: F401
    PASSWORD,
    USER,
    ClickHouseServer,
    ask,
    clickhouse_server,
    client_fixture,
    server_fixture,
    spawn,
)


def running_statements(server: ClickHouseServer, text: str) -> int:
    """How many statements with this text the engine is running."""
    query = f"SELECT count() FROM system.processes WHERE position(query, '{text}') = 1".encode()
    return int(ask(server, query)[2])


def eventually(condition: Callable[[], bool]) -> None:
    """Fail unless it is so within half a minute."""
    assert poll(condition, seconds=30)


def test_a_statement_ends_when_its_client_hangs_up(server: ClickHouseServer) -> None:
    query = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1"
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", f"/?{urlencode({'user': USER, 'password': PASSWORD})}", body=query)
    eventually(lambda: running_statements(server, query) == 1)
    connection.close()
    eventually(lambda: running_statements(server, query) == 0)


def test_a_stream_ends_when_its_client_stops_reading(server: ClickHouseServer) -> None:
    query = "SELECT number FROM numbers(1000000000000)"
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("POST", f"/?{urlencode({'user': USER, 'password': PASSWORD})}", body=query)
    assert connection.getresponse().read(10)
    assert running_statements(server, query) == 1
    connection.close()
    eventually(lambda: running_statements(server, query) == 0)


def test_a_statement_can_be_killed_by_the_id_its_client_gave_it(server: ClickHouseServer) -> None:
    query = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 2"
    answers: list[tuple[int, http.client.HTTPMessage, bytes]] = []
    slow = threading.Thread(target=lambda: answers.append(ask(server, query.encode(), query_id="slow-one")))
    slow.start()
    eventually(lambda: running_statements(server, query) == 1)
    assert ask(server, b"KILL QUERY WHERE query_id = 'slow-one' SYNC")[0] == 200
    slow.join()
    assert answers[0][1]["X-ClickHouse-Exception-Code"] == "394"


def test_a_client_that_waits_long_is_told_of_progress(server: ClickHouseServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        parameters = {"user": USER, "password": PASSWORD, "wait_end_of_query": 1, "send_progress_in_http_headers": 1,
                      "query": "SELECT sleep(3)", "http_headers_progress_interval_ms": 1000}  # fmt: skip
        raw.sendall(
            f"POST /?{urlencode(parameters)} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    headers, _, content = answer.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200")
    assert headers.count(b"X-ClickHouse-Progress") >= 1
    assert content == b"0\n"


def test_an_insert_that_breaks_off_leaves_nothing(client: Any, server: ClickHouseServer) -> None:
    client.command("create table t (a UInt64) engine = MergeTree order by a")
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        parameters = {"user": USER, "password": PASSWORD, "query": f"INSERT INTO {client.database}.t FORMAT TSV"}
        raw.sendall(f"POST /?{urlencode(parameters)} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        raw.sendall(b"4\r\n1\n2\n\r\n")
        raw.shutdown(socket.SHUT_WR)
        raw.recv(1000)
    assert client.command("select count() from t") == 0
    assert client.insert("t", [[1]], column_names=["a"]).written_rows == 1


def test_memory_does_not_grow_with_the_rows_that_pass(tmp_path: Path) -> None:
    batch = pa.record_batch({"a": pa.array(range(65536), pa.uint64()), "b": ["some text of a usual length"] * 65536})
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, batch.schema) as writer:
        for _ in range(25):
            writer.write_batch(batch)
    with clickhouse_server(tmp_path / "db") as server, server.client(compress=False, autogenerate_session_id=False) as own:
        own.command("create table t (a UInt64, b String) engine = MergeTree order by a")
        peaks = []
        for _ in range(4):
            own.raw_insert("t", ["a", "b"], stream.getvalue(), fmt="ArrowStream")
            for wait in (0, 1):
                with own.raw_stream("select * from t", fmt="Native", settings={"wait_end_of_query": wait}) as result:
                    while result.read(1 << 20):
                        pass
            peaks.append(server.peak_mb())
    assert peaks[-1] < peaks[0] + 300


# --- starting and stopping


def test_sigterm_stops_it_cleanly(tmp_path: Path) -> None:
    with clickhouse_server(tmp_path / "db") as server:
        with server.client() as own:
            own.command("create table t (a UInt64) engine = MergeTree order by a")
        busy = threading.Thread(target=_ignoring, args=(server, b"SELECT count() FROM numbers(1000000000000)"))
        busy.start()
        eventually(lambda: running_statements(server, "SELECT count() FROM numbers(1000000000000)") == 1)
        server.end(signal.SIGTERM)
        busy.join()
        assert server.process.returncode == 0
        server.restart()
        with server.client() as own:
            assert own.command("exists table t") == 1


def _ignoring(server: ClickHouseServer, query: bytes) -> None:
    try:
        ask(server, query)
    except (OSError, http.client.HTTPException):
        return


def test_a_second_server_on_one_folder_says_so(server: ClickHouseServer) -> None:
    second = spawn(server.path, server.port)
    assert second.wait(timeout=60) == 1
    assert "Another server has the data folder" in (server.path / "log").read_text()


def test_a_taken_port_is_said(server: ClickHouseServer, tmp_path: Path) -> None:
    second = spawn(tmp_path / "db", server.port)
    assert second.wait(timeout=60) == 1
    assert "Address already in use" in (tmp_path / "db" / "log").read_text()


def test_a_missing_argument_is_wrong_use(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "lakehouse.warehouse.server"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"--port" in done.stderr
