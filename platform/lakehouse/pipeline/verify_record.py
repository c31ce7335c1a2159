"""What a verification found equal, kept so that the next one need not read it again: `verified/<source>/<table>.json`.

It is written only after every copy of a table was found equal, and is believed piece by piece, each under its own condition: a
partition of the lake or of the warehouse if what tells its content from any other (`contents` of the two seams) is what it was;
an entry of the raw log if the log up to the recorded sequence is what it was, and the entry's files were not written since. What
is not believed is read. So a record that is missing, damaged (it carries its own hash), stale, or of another declaration or other
columns makes a verification read more, and never makes a difference pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any, TypeVar

from lakehouse.errors import LakehouseError
from lakehouse.raw import encode_manifest
from lakehouse.spec import LogEntry, RowChecksum, Source, Table
from lakehouse.stores import ObjectStore

FORMAT = 1
"""Raised when this document, or the digest of a row, changes its meaning."""

Parts = dict[str, RowChecksum]
K = TypeVar("K")


@dataclass(frozen=True)
class Seen:
    """A piece of a copy that was read and found equal. identity: what told its content; at: when it was read; parts: its rows."""

    identity: str
    at: datetime
    parts: Parts = field(default_factory=dict)


@dataclass(frozen=True)
class DaySeen:
    """A closed day of the source that was compared with the log entry `sequence`; rows: of the source."""

    sequence: int
    at: datetime
    rows: RowChecksum


@dataclass(frozen=True)
class Record:
    """One table as it was found equal.

    log: of the entries up to `sequence`. entries: those that could still have a row, by sequence. raw: the rows of an `upsert`
    table, which are of no one entry. version: of the lake. days: of the source of an `append` table; upto: every source row of an
    `upsert` table with an older cursor was compared, at `upto_at`.
    """

    declaration: str
    schema: str
    sequence: int
    version: int
    log: str
    entries: Mapping[int, Seen]
    raw: Parts
    lake: Mapping[str, Seen]
    warehouse: Mapping[str, Seen]
    days: Mapping[date, DaySeen]
    upto: datetime | None = None
    upto_at: datetime | None = None


def declaration_of(source: Source, table: Table) -> str:
    """A hash of all that a declaration says, descriptions apart."""
    plain = replace(table, description="", columns=tuple(replace(column, description="") for column in table.columns))
    return _hash([source.name, source.kind, repr(plain), repr(sorted(table.personal.items()))])


def log_prefix(entries: Sequence[LogEntry]) -> str:
    """A hash of log entries, their manifests and their order."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.sequence} ".encode() + encode_manifest(entry.manifest))
    return digest.hexdigest()


def file_identities(store: ObjectStore, folder: str, entries: Sequence[LogEntry]) -> dict[int, str]:
    """For each entry what tells its files from others, by sequence; empty when one is missing. No file is read."""
    listed = {info.path: f"{info.size} {info.modified.isoformat()}" for info in store.list(folder)}
    found = {}
    for entry in entries:
        written = [[file.path, file.sha256, listed.get(f"{folder}/{file.path}")] for file in entry.manifest.files]
        found[entry.sequence] = _hash(written) if all(all(file) for file in written) else ""
    return found


def load_record(store: ObjectStore, source: Source, table: Table, say: Callable[[str], None]) -> Record | None:
    """The record of a table, or None, which is said when there is one that cannot be believed."""
    try:
        data = store.get(_path(source, table))
    except FileNotFoundError:
        return None
    except LakehouseError as error:
        say(f"the record of the last verification cannot be read, everything is: {error.value or error}")
        return None
    try:
        document = json.loads(data)
        seal = document.pop("seal")
        if document["format"] != FORMAT or seal != _hash(document):
            raise ValueError("its content does not fit its seal")
        record = _decoded(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        say(f"the record of the last verification is damaged ({error}): everything is read")
        return None
    if record.declaration != declaration_of(source, table):
        say("the declaration has changed since the last verification: everything is read")
        return None
    return record


def save_record(store: ObjectStore, source: Source, table: Table, record: Record, say: Callable[[str], None]) -> None:
    """Keep a record in place of the last one. A failure is said: the next verification reads more."""
    document = _encoded(record)
    document["seal"] = _hash(document)
    try:
        store.put(_path(source, table), (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode())
    except LakehouseError as error:
        say(f"what was verified could not be recorded, the next verification reads it again: {error.value or error}")


def _path(source: Source, table: Table) -> str:
    return f"verified/{source.name}/{table.name}.json"


def _encoded(record: Record) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "declaration": record.declaration,
        "schema": record.schema,
        "sequence": record.sequence,
        "version": record.version,
        "log": record.log,
        "entries": _encoded_seen({str(sequence): seen for sequence, seen in record.entries.items()}),
        "raw": _encoded_parts(record.raw),
        "lake": _encoded_seen(record.lake),
        "warehouse": _encoded_seen(record.warehouse),
        "days": {
            day.isoformat(): [seen.sequence, _encoded_time(seen.at), seen.rows.rows, seen.rows.hex]
            for day, seen in sorted(record.days.items())
        },
        "upto": _encoded_time(record.upto),
        "upto_at": _encoded_time(record.upto_at),
    }


def _decoded(document: dict[str, Any]) -> Record:
    return Record(
        declaration=str(document["declaration"]),
        schema=str(document["schema"]),
        sequence=int(document["sequence"]),
        version=int(document["version"]),
        log=str(document["log"]),
        entries={int(sequence): seen for sequence, seen in _decoded_seen(document["entries"]).items()},
        raw=_decoded_parts(document["raw"]),
        lake=_decoded_seen(document["lake"]),
        warehouse=_decoded_seen(document["warehouse"]),
        days={
            date.fromisoformat(day): DaySeen(int(sequence), datetime.fromisoformat(at), RowChecksum(rows, int(value, 16)))
            for day, (sequence, at, rows, value) in document["days"].items()
        },
        upto=_decoded_time(document["upto"]),
        upto_at=_decoded_time(document["upto_at"]),
    )


def _encoded_seen(seen: Mapping[str, Seen]) -> dict[str, Any]:
    return {name: [one.identity, _encoded_time(one.at), _encoded_parts(one.parts)] for name, one in sorted(seen.items())}


def _decoded_seen(document: dict[str, Any]) -> dict[str, Seen]:
    return {
        name: Seen(identity, datetime.fromisoformat(at), _decoded_parts(parts))
        for name, (identity, at, parts) in document.items()
    }


def _encoded_parts(parts: Parts) -> dict[str, Any]:
    return {name: [part.rows, part.hex] for name, part in sorted(parts.items())}


def _decoded_parts(document: dict[str, Any]) -> Parts:
    return {name: RowChecksum(int(rows), int(value, 16)) for name, (rows, value) in document.items()}


def _encoded_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _decoded_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
