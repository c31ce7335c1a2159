"""What the Dagster UI shows of each materialization: rows, bytes, the sequence, a sample."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pyarrow as pa

from lakehouse.pipeline.extract import Extracted
from lakehouse.pipeline.publish import Publication
from lakehouse.spec import Table
from lakehouse.spec.types import declared_type, field_doc
from lakehouse.tables.engine import Applied

Metadata = dict[str, Any]
_CELL = 60


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """The columns with their types and descriptions."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                field.name,
                declared_type(field),
                description=field_doc(field) or None,
                constraints=dg.TableColumnConstraints(nullable=field.nullable),
            )
            for field in schema
        ]
    )


def sample_markdown(rows: pa.Table | None) -> str:
    """A few rows as a Markdown table; long values are cut."""
    if rows is None or not rows.num_rows:
        return "_no rows_"
    lines = ["| " + " | ".join(rows.column_names) + " |", "|" + " --- |" * rows.num_columns]
    lines += ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows.to_pylist()]
    return "\n".join(lines)


def extracted_metadata(result: Extracted) -> Metadata:
    """Of a raw asset."""
    metadata: Metadata = {
        "dagster/row_count": result.rows,
        "bytes": result.bytes,
        "batches": len(result.entries),
        "windows unchanged": result.unchanged,
        "sequence": result.sequence,
    }
    if result.position is not None:
        metadata["bound"] = result.position.bound.isoformat()
        metadata["bound is exact"] = result.position.exact
        metadata["source position"] = dg.MetadataValue.json(dict(result.position.detail))
    if result.quarantined:
        metadata["in quarantine"] = result.quarantined
    if result.days:
        metadata["days read"] = f"{result.days[0]} to {result.days[-1]} ({len(result.days)})"
    if result.sample is not None:
        metadata["sample"] = dg.MetadataValue.md(sample_markdown(result.sample))
    if result.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in result.notes))
    return metadata


def applied_metadata(applied: Applied, sample: pa.Table | None) -> Metadata:
    """Of a lake asset."""
    marker = applied.state.current.marker
    return {
        "dagster/row_count": marker.rows,
        "dagster/column_schema": column_schema(applied.state.schema),
        "bytes": applied.state.bytes,
        "files": applied.state.files,
        "sequence": marker.sequence,
        "checksum": marker.checksum,
        "version": str(applied.state.current.version),
        "entries applied": applied.entries,
        "rows written": applied.rows_written,
        "partitions rewritten": _names(applied.partitions),
        "days changed": _names(applied.changed_days),
        "sample": dg.MetadataValue.md(sample_markdown(sample)),
    }


def published_metadata(publication: Publication, table: Table, sample: pa.Table | None) -> Metadata:
    """Of a warehouse asset."""
    marker = publication.published.marker
    copied = "all" if publication.partitions is None else _names(publication.partitions)
    deleted = {} if table.soft_delete is None else {"rows marked as deleted": publication.marked}
    return {
        "dagster/row_count": publication.published.rows,
        "bytes": publication.published.bytes,
        "sequence": marker.sequence,
        "checksum": marker.checksum,
        "version": str(publication.published.version),
        "partitions copied": copied if publication.changed else "none: already published",
        "mode": table.mode,
        **deleted,
        "sample": dg.MetadataValue.md(sample_markdown(sample)),
    }


def _names(names: tuple[str, ...]) -> str:
    if len(names) > 12:
        return f"{', '.join(names[:5])} … {', '.join(names[-2:])} ({len(names)})"
    return ", ".join(names) or "none"


def _cell(value: object) -> str:
    text = "" if value is None else str(value)
    text = text.replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"
