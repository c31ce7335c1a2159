"""Column types that a table could not follow are refused before anything is landed.

Once it is in the log, such a batch would stop the table until it was rebuilt; refused, it waits in the source.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lakehouse.errors import SchemaChanged
from lakehouse.spec import LogEntry, Table
from lakehouse.spec.types import declared_type
from lakehouse.tables.evolution import FOLLOWED, wider_type


def refuse_changed_types(source: str, table: Table, entries: Sequence[LogEntry], schema: pa.Schema) -> None:
    """Raise SchemaChanged for the first column of the source whose type the landed ones cannot be widened to, or hold."""
    landed = landed_types(entries)
    for field in schema:
        known, found = landed.get(field.name), declared_type(field)
        if known is not None and wider_type(known, found) is None:
            raise SchemaChanged(
                f"reading {source}.{table.name}: column {field.name!r} changed its type",
                value=f"{found} in the source, {known} in what was landed before",
                allowed=FOLLOWED,
                remedy=f"Change the column back to {known} in the source, or let `relation` name a view that casts it, or "
                f"declare the table under another name (relation={table.relation or table.name!r}). Nothing was landed.",
            )


def landed_types(entries: Sequence[LogEntry]) -> dict[str, str]:
    """The declared type of each column that the log has brought, the widest of its batches."""
    types: dict[str, str] = {}
    seen = set()
    for entry in entries:
        manifest = entry.manifest
        if manifest.kind == "delete" or manifest.fingerprint in seen:
            continue
        seen.add(manifest.fingerprint)
        for field in manifest.fields:
            known = types.get(field.name, field.type)
            types[field.name] = wider_type(known, field.type) or field.type
    return types
