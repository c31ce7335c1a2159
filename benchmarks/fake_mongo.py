"""A server of prebuilt replies in MongoDB's wire protocol: `python -m benchmarks.fake_mongo COUNT`.

It answers a query with COUNT documents of mixed shape, whatever was asked, as fast as a socket takes them: what is measured
against it is the client. Prints its port, and ends when its standard input closes. (MongoDB Wire Protocol, "OP_MSG".)
"""

from __future__ import annotations

import itertools
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import bson
from bson.int64 import Int64

from benchmarks.mixed import documents

REPLY_DOCUMENTS = 8_000
_HEADER = struct.Struct("<iiii")
_OP_MSG, _OP_QUERY, _OP_REPLY = 2013, 2004, 1
_ids = itertools.count(1)


class Replies:
    """The replies to a query and to each request for more, without headers."""

    def __init__(self, count: int) -> None:
        distinct = [bson.encode(document) for document in documents(min(count, 4 * REPLY_DOCUMENTS))]
        whole = itertools.islice(itertools.cycle(distinct), count)
        self.bodies = []
        batches = list(iter(lambda: list(itertools.islice(whole, REPLY_DOCUMENTS)), []))
        for number, batch in enumerate(batches):
            more = number + 1 < len(batches)
            self.bodies.append(_body(_cursor(batch, "nextBatch" if number else "firstBatch", number + 1 if more else 0)))


def _cursor(batch: list[bytes], name: str, identity: int) -> bytes:
    """A reply document around a batch of encoded documents: encoding the batch again would take longer than all the rest."""
    items = b"".join(b"\x03" + str(place).encode() + b"\0" + document for place, document in enumerate(batch))
    array = struct.pack("<i", len(items) + 5) + items + b"\0"
    rest = bson.encode({"id": Int64(identity), "ns": "bench.documents"})[4:-1]
    inner = b"\x04" + name.encode() + b"\0" + array + rest
    cursor = b"\x03cursor\0" + struct.pack("<i", len(inner) + 5) + inner + b"\0" + b"\x01ok\0" + struct.pack("<d", 1.0)
    return struct.pack("<i", len(cursor) + 5) + cursor + b"\0"


def _body(document: bytes) -> bytes:
    return struct.pack("<iB", 0, 0) + document


def _hello() -> dict[str, Any]:
    return {
        "helloOk": True,
        "isWritablePrimary": True,
        "ismaster": True,
        "maxBsonObjectSize": 16 << 20,
        "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000,
        "localTime": datetime.now(UTC),
        "minWireVersion": 0,
        "maxWireVersion": 21,
        "ok": 1.0,
    }


def _answer(command: dict[str, Any], replies: Replies) -> bytes:
    name = next(iter(command))
    if name == "find":
        return replies.bodies[0]
    if name == "getMore":
        return replies.bodies[int(command[name])]
    found: dict[str, Any] = {"ok": 1.0}
    if name in ("hello", "ismaster", "isMaster"):
        found = _hello()
    elif name == "listCollections":
        found = {"cursor": {"id": Int64(0), "ns": "bench.$cmd", "firstBatch": []}, "ok": 1.0}
    elif name == "count":
        found = {"n": 0, "ok": 1.0}  # so few that they are read by one query
    elif name == "buildInfo":
        found = {"version": "8.0.0", "ok": 1.0}
    return _body(bson.encode(found))


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionError
        parts += part
    return parts


def _requests(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    while True:
        length, request, _, code = _HEADER.unpack(_receive(connection, 16))
        yield request, code, _receive(connection, length - 16)


def _serve(connection: socket.socket, replies: Replies) -> None:
    try:
        for request, code, body in _requests(connection):
            if code == _OP_QUERY:  # the first hello of a driver
                answer = struct.pack("<iqii", 0, 0, 0, 1) + bson.encode(_hello())
                connection.sendall(_HEADER.pack(len(answer) + 16, next(_ids), request, _OP_REPLY) + answer)
                continue
            size = struct.unpack_from("<i", body, 5)[0]
            answer = _answer(bson.decode(body[5 : 5 + size]), replies)
            connection.sendall(_HEADER.pack(len(answer) + 16, next(_ids), request, _OP_MSG))
            connection.sendall(answer)
    except OSError:
        connection.close()


def main() -> None:
    """Serve until the standard input closes."""
    replies = Replies(int(sys.argv[1]))
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_serve, args=(connection, replies), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
