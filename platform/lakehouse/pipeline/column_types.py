"""Changes of columns that a table could not follow, or may not, are refused before anything is landed.

Once it is in the log, such a batch would stop the table until it was rebuilt; refused, it waits in the source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from lakehouse.errors import SchemaChanged
from lakehouse.pipeline.windows import REPAIRS
from lakehouse.raw import fields_of
from lakehouse.spec import FieldSpec, LogEntry, Table, since_rebuilt
from lakehouse.spec.types import declared_type
from lakehouse.tables.evolution import FOLLOWED, wider_type


def refuse_changed_types(source: str, table: Table, entries: Sequence[LogEntry], schema: pa.Schema) -> None:
    """Raise SchemaChanged for the first column of the source whose type the landed ones cannot be widened to, or hold.

    Of a table that is frozen: for any change of its columns since the last batch that brought rows.
    """
    landed = landed_types(entries)
    for field in schema:
        known, found = landed.get(field.name), declared_type(field)
        if known is not None and wider_type(known, found) is None:
            raise SchemaChanged(
                f"reading {source}.{table.name}: column {field.name!r} changed its type",
                value=f"{found} in the source, {known} in what was landed before",
                allowed=FOLLOWED,
                remedy=f"Run `lakehouse rebuild {source}.{table.name}`: what was landed is folded anew as {found}, where every "
                f"value is exactly that. Or change the column back to {known} in the source, let `relation` name a view that "
                f"casts it, or declare the table under another name (relation={table.relation or table.name!r})."
                f"{_fitted_instead(table, field.name, known)} Nothing was landed.",
            )
    if table.on_change == "freeze" and (changes := "; ".join(column_changes(last_fields(entries), fields_of(schema)))):
        raise SchemaChanged(
            f"reading {source}.{table.name}: its columns changed, and it is frozen (on_change='freeze')",
            value=changes,
            allowed="the columns of the last batch that was landed",
            remedy="Change them back in the source; or accept the change: declare on_change='evolve' until a batch has come "
            "with it. Nothing was landed.",
        )


def _fitted_instead(table: Table, column: str, known: str) -> str:
    """What a declaration could do about the column, if it does not do so yet; empty where it could not."""
    if table.on_change == "quarantine" or table.columns or column in fixed_columns(table):
        return ""
    return f" Or declare on_change='quarantine': the column stays {known}, and rows that are not exactly so go to the quarantine."


def fixed_columns(table: Table) -> set[str]:
    """The columns that identify a row or place it: their values are landed as the source has them or not at all."""
    named = (*table.key, table.cursor, table.event_time, table.partition.column)
    return {column for column in named if column is not None}


def last_fields(entries: Sequence[LogEntry]) -> tuple[FieldSpec, ...]:
    """The columns of the last batch that brought rows from the source; none before the first.

    One of a repair may have those of another time, or of several.
    """
    whole = (e.manifest for e in reversed(entries) if e.manifest.kind != "delete" and REPAIRS not in e.manifest.position.detail)
    return next((manifest.fields for manifest in whole), ())


def column_changes(before: Sequence[FieldSpec], now: Sequence[FieldSpec]) -> Iterator[str]:
    """How columns differ, in words; nothing where there were none."""
    if not before or not now:
        return
    known = {field.name: field for field in before}
    for field in now:
        old = known.pop(field.name, None)
        if old is None:
            yield f"{field.name} ({field.type}) is new"
        elif old.type != field.type:
            yield f"{field.name} was {old.type} and is {field.type}"
        elif old.nullable != field.nullable:
            yield f"{field.name} {'may be null now' if field.nullable else 'may not be null any more'}"
    for name in known:
        yield f"{name} is gone"


def landed_types(entries: Sequence[LogEntry]) -> dict[str, str]:
    """The declared type of each column that the log has brought, the widest of its batches: since it was rebuilt, if it was."""
    types: dict[str, str] = {}
    seen = set()
    for entry in since_rebuilt(entries):
        manifest = entry.manifest
        if manifest.kind == "delete" or manifest.fingerprint in seen:
            continue
        seen.add(manifest.fingerprint)
        for field in manifest.fields:
            known = types.get(field.name, field.type)
            types[field.name] = wider_type(known, field.type) or field.type
    return types
