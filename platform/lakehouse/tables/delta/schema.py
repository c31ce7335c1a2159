"""Between declared columns and a Delta schema.

A field keeps its declared type in its metadata as `lakehouse.type`, since `json` is a string in Delta. A partitioned table has
one more column, which partitions it: Delta knows no transforms, and takes an empty string in a partition column for null. So it
holds the text of the partition's name, `2026-01-31` in `created_at_day`, and is in no data file; the bounds of the column itself
are in the statistics of each file, where other tools find them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lakehouse.errors import SchemaChanged, Unsupported
from lakehouse.spec import FieldSpec, Partitioning
from lakehouse.tables.columns import DECIMAL, SPARK_NAMES, spark_type
from lakehouse.tables.partitions import NULL, PartitionScheme

TYPE, COMMENT, PARTITION, BUCKETS = "lakehouse.type", "comment", "lakehouse.partition", "lakehouse.buckets"

EMPTY = "%"
"""What a partition's column holds for the empty text, which Delta takes for null; no other value is written so."""

_NAMES = {type_: name for name, type_ in SPARK_NAMES.items() if name != "json"} | {"short": "int32", "byte": "int32"}
_REFUSED = re.compile(r"[ ,;{}()\n\t=]")


def declared_of(type_: Any, column: str) -> str:
    """The declared type that a Delta type is kept for; Unsupported for one that this platform never writes."""
    if isinstance(type_, dict) and type_.get("type") == "array":
        return f"list<{declared_of(type_['elementType'], column)}>"
    if isinstance(type_, dict) and type_.get("type") == "struct":
        return "struct<" + ",".join(f"{field['name']}:{declared_of(field['type'], column)}" for field in type_["fields"]) + ">"
    if isinstance(type_, str) and DECIMAL.fullmatch(type_):
        return type_
    if isinstance(type_, str) and type_ in _NAMES:
        return _NAMES[type_]
    raise Unsupported(
        f"reading column {column!r} of a Delta table",
        value=json.dumps(type_),
        allowed=", ".join(_NAMES),
        remedy="Another tool added the column: drop it there, or cast it to one of these types.",
    )


def fields_of(schema: Mapping[str, Any]) -> tuple[FieldSpec, ...]:
    """The columns of a Delta schema as they were declared, without the one that partitions."""
    return tuple(
        FieldSpec(
            field["name"],
            field["metadata"].get(TYPE) or declared_of(field["type"], field["name"]),
            field["nullable"],
            field["metadata"].get(COMMENT, ""),
        )
        for field in schema["fields"]
        if PARTITION not in field["metadata"]
    )


def schema_json(tried: str, fields: Sequence[FieldSpec], partitioning: Partitioning) -> dict[str, Any]:
    """The Delta schema of a table; Unsupported for a name that Delta's readers refuse."""
    for field in fields:
        if _REFUSED.search(field.name):
            raise Unsupported(
                tried,
                value=f"column {field.name!r}",
                allowed="in Delta: names without spaces and none of , ; { } ( ) =",
                remedy="Declare the table with format='iceberg', or rename the column in the source.",
            )
    columns = [_field(field.name, spark_type(field.type), field.nullable, _metadata(field)) for field in fields]
    if (name := partition_column(partitioning)) is not None:
        if any(field.name.lower() == name.lower() for field in fields):
            raise Unsupported(
                tried,
                value=f"column {name!r}",
                allowed=f"no column of this name: a Delta table needs it for its partitions by {partitioning.transform}",
                remedy="Declare the table with format='iceberg', another partitioning, or rename the column in the source.",
            )
        told = {PARTITION: partitioning.transform, COMMENT: "The partition of the row."}
        if partitioning.buckets is not None:
            told[BUCKETS] = str(partitioning.buckets)
        columns.append(_field(name, "string", True, told))
    return {"type": "struct", "fields": columns}


def partition_column(partitioning: Partitioning) -> str | None:
    """The column that partitions the table: `created_at_day`, `country_identity`; None for a table in one piece."""
    return None if partitioning.column is None else f"{partitioning.column}_{partitioning.transform}"


def partition_text(partition: str) -> str | None:
    """What a partition's column holds, by the partition's name."""
    text = partition.partition("=")[2]
    return None if text == NULL else text or EMPTY


def partition_name(scheme: PartitionScheme, text: str | None) -> str:
    """A partition's name, by what its column holds."""
    if text is None or scheme.partitioning.column is None:
        return scheme.name(None)
    return f"{scheme.field}={'' if text == EMPTY else text}"


def partitioning_of(columns: Sequence[str], fields: Sequence[Mapping[str, Any]]) -> Partitioning:
    """The partitioning that a table was declared with; SchemaChanged for another tool's."""
    if not columns:
        return Partitioning()
    name = columns[0]
    told = next(field["metadata"] for field in fields if field["name"] == name)
    if len(columns) > 1 or PARTITION not in told:
        raise SchemaChanged(
            "reading how a Delta table is partitioned",
            value=", ".join(columns),
            allowed=f"one column that says in its metadata what it is ({PARTITION}), or none",
            remedy="Another tool has made the table anew: go back to a version of ours with its tools, or build it under another "
            "name.",
        )
    transform, buckets = told[PARTITION], told.get(BUCKETS)
    return Partitioning(transform, name.removesuffix(f"_{transform}"), None if buckets is None else int(buckets))


def check_partitioning(
    tried: str, columns: Sequence[str], fields: Sequence[Mapping[str, Any]], partitioning: Partitioning
) -> None:
    """SchemaChanged when a table is partitioned in another way than it is declared now."""
    wanted = partition_column(partitioning)
    buckets = next((field["metadata"].get(BUCKETS) for field in fields if field["name"] == wanted), None)
    declared = None if partitioning.buckets is None else str(partitioning.buckets)
    if list(columns) != ([] if wanted is None else [wanted]) or buckets != declared:
        raise SchemaChanged(
            tried,
            value=f"the table is partitioned by {', '.join(columns) or 'nothing'}",
            allowed=f"the declared partitioning: {wanted or 'nothing'}",
            remedy="Declare the partitioning that it has; or run `lakehouse rebuild` on the table: it is folded anew in the "
            "declared one.",
        )


def rewritten(old: Sequence[FieldSpec], new: Sequence[FieldSpec]) -> bool:
    """Whether a column has another Delta type than before, so that files of the old one cannot stay."""
    before = {field.name: spark_type(field.type) for field in old}
    return any(field.name in before and before[field.name] != spark_type(field.type) for field in new)


def _field(name: str, type_: Any, nullable: bool, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "type": type_, "nullable": nullable, "metadata": dict(metadata)}


def _metadata(field: FieldSpec) -> dict[str, Any]:
    return {TYPE: field.type, **({COMMENT: field.doc} if field.doc else {})}
