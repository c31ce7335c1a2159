"""The manifest of a batch as JSON: what stands in `_log/<20-digit sequence>.json`. Format version 1.

    {
      "format": 1,
      "batch_id": "20260131T010203-4f1c…",   unique for each attempt; file names begin with it
      "source": "chronochat", "table": "api_logs",
      "kind": "replace" | "upsert" | "delete" | "snapshot",
      "window": {"low": time | null, "high": time | null} | null,
      "closed": true,                         no row of the window can arrive any more
      "files": [{"path": …, "rows": n, "bytes": n, "sha256": hex}],   paths relative to raw/<source>/<table>
      "fields": [{"name": …, "type": declared type, "nullable": …, "doc": …}],
      "fingerprint": hex,                     of names, types and nullability
      "position": {"taken_at": time, "bound": time, "exact": …, "detail": {name: text}},
      "rows": n, "checksum": 16 hex digits    the row checksum (lakehouse.rows.checksum)
      "created_at": time, "run_id": …,
      "seal": hex                             SHA-256 of the document without it, keys sorted, no spaces, UTF-8
    }

A time is ISO 8601 in UTC with microseconds. The sequence is the file's name alone. The seal tells a damaged manifest from a whole
one. A reader refuses a format that it does not know, and ignores no field: format 1 has exactly these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, get_args

import pyarrow as pa

from lakehouse.errors import DamagedData
from lakehouse.spec import BatchKind, FieldSpec, Manifest, Position, RawFile, Window
from lakehouse.spec.types import arrow_field, declared_type, field_doc

FORMAT = 1


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON, UTF-8, one field a line, ending in a newline; equal manifests give equal bytes."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "batch_id": manifest.batch_id,
        "source": manifest.source,
        "table": manifest.table,
        "kind": manifest.kind,
        "window": None if manifest.window is None else _window(manifest.window),
        "closed": manifest.closed,
        "files": [{"path": f.path, "rows": f.rows, "bytes": f.bytes, "sha256": f.sha256} for f in manifest.files],
        "fields": [{"name": f.in_files, "type": f.type, "nullable": f.nullable, "doc": f.doc} for f in manifest.fields],
        "fingerprint": manifest.fingerprint,
        "position": {
            "taken_at": _time(manifest.position.taken_at),
            "bound": _time(manifest.position.bound),
            "exact": manifest.position.exact,
            "detail": dict(sorted(manifest.position.detail.items())),
        },
        "rows": manifest.rows,
        "checksum": manifest.checksum,
        "created_at": _time(manifest.created_at),
        "run_id": manifest.run_id,
    }
    document["seal"] = seal_of(document)
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


def decode_manifest(data: bytes, name: str) -> Manifest:
    """The manifest in the JSON of the object called `name`; DamagedData, naming it, when it is not what was written."""
    try:
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise _damaged(name, f"format {document['format']!r}", f"format {FORMAT}")
        seal = document.pop("seal")
        if seal != seal_of(document):
            raise _damaged(name, "content that does not fit its seal", "the bytes that were written")
        return _manifest(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(name, f"{type(error).__name__}: {error}", "a manifest as lakehouse.raw.manifest writes it") from error


def fields_of(schema: pa.Schema) -> tuple[FieldSpec, ...]:
    """The fields of an Arrow schema by their declared types."""
    return tuple(FieldSpec(f.name, declared_type(f), f.nullable, field_doc(f)) for f in schema)


def schema_of(manifest: Manifest) -> pa.Schema:
    """The Arrow schema that the batch came with."""
    return pa.schema([arrow_field(f.name, f.type, nullable=f.nullable, doc=f.doc) for f in manifest.fields])


def fingerprint(fields: Iterable[FieldSpec]) -> str:
    """Equal for schemas with the same names, types and nullability, whatever their order and descriptions: 32 hex digits."""
    plain = sorted([f.name, f.type, f.nullable] for f in fields)
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False).encode()).hexdigest()[:32]


def _manifest(document: dict[str, Any]) -> Manifest:
    position = document["position"]
    window = document["window"]
    kind: BatchKind = document["kind"]
    if kind not in get_args(BatchKind):
        raise ValueError(f"kind {kind!r}")
    return Manifest(
        batch_id=document["batch_id"],
        source=document["source"],
        table=document["table"],
        kind=kind,
        window=None if window is None else Window(_read_time(window["low"]), _read_time(window["high"])),
        closed=document["closed"],
        files=tuple(RawFile(**file) for file in document["files"]),
        fields=tuple(FieldSpec(**field) for field in document["fields"]),
        fingerprint=document["fingerprint"],
        position=Position(
            taken_at=datetime.fromisoformat(position["taken_at"]),
            bound=datetime.fromisoformat(position["bound"]),
            exact=position["exact"],
            detail=position["detail"],
        ),
        rows=document["rows"],
        checksum=document["checksum"],
        created_at=datetime.fromisoformat(document["created_at"]),
        run_id=document["run_id"],
    )


def _window(window: Window) -> dict[str, str | None]:
    low, high = window.low, window.high
    return {"low": None if low is None else _time(low), "high": None if high is None else _time(high)}


def _time(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError(f"the time {moment!r} has no zone")
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _read_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def seal_of(document: dict[str, Any]) -> str:
    """What tells a whole document from a damaged one: SHA-256 of it, keys sorted, no spaces, in hex."""
    plain = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


def _damaged(name: str, found: str, allowed: str) -> DamagedData:
    return DamagedData(
        f"reading the manifest {name}",
        value=found,
        allowed=allowed,
        remedy="Run `lakehouse repair` on the table, or restore the object from a copy. Never edit a manifest.",
    )
