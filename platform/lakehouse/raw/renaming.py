"""Batches that came before a column was renamed, seen under the names that the declaration gives today.

The raw log is never rewritten: a file keeps the names that it came with. A manifest is read with today's names instead, each
field knowing what the files call it (`FieldSpec.stored`). So whoever folds, verifies or lists batches sees one name for a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from lakehouse.raw.manifest import schema_of
from lakehouse.spec import FieldSpec, Manifest, Table


def under_todays_names(table: Table, manifest: Manifest) -> Manifest:
    """The manifest of a batch with its columns as the declaration calls them now."""
    names = table.names_today({field.name for field in manifest.fields})
    if not names:
        return manifest
    fields = (replace(f, name=names[f.name], stored=f.name) if f.name in names else f for f in manifest.fields)
    return replace(manifest, fields=tuple(fields))


def as_stored(manifest: Manifest) -> pa.Schema:
    """The schema of the batch's files."""
    return _renamed(schema_of(manifest), {field.name: field.in_files for field in manifest.fields})


def as_today(batch: pa.RecordBatch, fields: Sequence[FieldSpec]) -> pa.RecordBatch:
    """Rows of a batch's file with its columns under today's names."""
    names = {field.in_files: field.name for field in fields if field.stored}
    if names.keys().isdisjoint(batch.schema.names):
        return batch
    return pa.RecordBatch.from_arrays(batch.columns, schema=_renamed(batch.schema, names))


def _renamed(schema: pa.Schema, names: Mapping[str, str]) -> pa.Schema:
    return pa.schema([field.with_name(names.get(field.name, field.name)) for field in schema], schema.metadata)
