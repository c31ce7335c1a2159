"""How a table's columns follow its batches: the same rules for every format, without I/O.

New columns appear, and new fields of structs. `int32` widens to `int64`, `float32` to `float64`, `json` to `string`, a decimal to
more digits of the same scale, a list with its element, a struct with its fields. A column that a batch lacks, or brings with
nulls, may be null from then on. A batch with a narrower type than the table's is read as the wider one. Anything else is
SchemaChanged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from lakehouse.errors import SchemaChanged, SourceMismatch, WrongUse
from lakehouse.spec import FieldSpec, History, Manifest, Table
from lakehouse.spec.declaration import INTERVAL_NAMES
from lakehouse.spec.history import INTERVAL, refuse_interval_names
from lakehouse.spec.types import list_element, struct_fields

_DECIMAL = re.compile(r"decimal\((\d+),\s*(\d+)\)")
_WIDER = {("int32", "int64"), ("float32", "float64"), ("json", "string")}

FOLLOWED = (
    "int32 to int64, float32 to float64, json to string, a decimal to more digits of the same scale, these inside of lists "
    "and structs, and new fields of a struct"
)
"""What a table's columns follow, in words."""


def wider_type(one: str, other: str) -> str | None:
    """The declared type that holds every value of both exactly and that a table can follow to, or None.

    Of structs that have every field of either, those of `one` first.
    """
    if one == other or (other, one) in _WIDER:
        return one
    if (one, other) in _WIDER:
        return other
    decimals = _DECIMAL.fullmatch(one), _DECIMAL.fullmatch(other)
    if decimals[0] and decimals[1] and decimals[0][2] == decimals[1][2]:
        return max(one, other, key=lambda text: int(_DECIMAL.sub(r"\1", text)))
    elements = list_element(one), list_element(other)
    if elements[0] is not None and elements[1] is not None:
        element = wider_type(elements[0], elements[1])
        return None if element is None else f"list<{element}>"
    structs = struct_fields(one), struct_fields(other)
    if structs[0] is not None and structs[1] is not None:
        return _wider_struct(dict(structs[0]), dict(structs[1]))
    return None


def _wider_struct(one: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    fields = {name: wider_type(one.get(name, type_), other.get(name, type_)) for name, type_ in {**other, **one}.items()}
    found = [f"{name}:{fields[name]}" for name in dict.fromkeys((*one, *other))]
    return None if None in fields.values() else f"struct<{','.join(found)}>"


def evolved_fields(
    source: str, table: Table, current: Sequence[FieldSpec], manifests: Iterable[Manifest]
) -> tuple[FieldSpec, ...]:
    """The columns of `table` after the batches, those that were there first, in their order.

    current: the columns of the table as it stands; empty for a table that is not there yet.
    Raises SchemaChanged naming column, types and the ways on; SourceMismatch when a column that the declaration needs never came;
    WrongUse when no batch has brought columns yet.
    """
    fields = {field.name: field for field in current}
    born = bool(current)
    for manifest in manifests:
        whole = manifest.kind != "delete"
        for field in manifest.fields:
            known = fields.get(field.name)
            if known is not None:
                fields[field.name] = _followed(source, table, manifest, known, field)
            elif whole:
                fields[field.name] = replace(field, nullable=field.nullable or born, stored="")
        if whole:
            brought = {field.name for field in manifest.fields}
            for name, field in fields.items():
                if name not in brought and not field.nullable:
                    fields[name] = replace(field, nullable=True)
            born = True
    if not born:
        raise WrongUse(
            f"building {source}.{table.name}",
            value="batches of deleted keys alone",
            allowed="at least one batch with the table's columns, rows in it or not",
            remedy="Extract the table's rows first.",
        )
    check_declared(source, table, fields)
    return tuple(fields.values())


def folded_fields(
    source: str, table: Table, current: Sequence[FieldSpec], manifests: Sequence[Manifest]
) -> tuple[FieldSpec, ...]:
    """As `evolved_fields`; a history has those of its table and its own, new ones after all that were there."""
    if not isinstance(table, History):
        return evolved_fields(source, table, current, manifests)
    evolved = evolved_fields(source, table.of, [field for field in current if field.name not in INTERVAL_NAMES], manifests)
    refuse_interval_names(table.of, {field.name for field in evolved})
    found = {field.name: field for field in evolved}
    if not current:
        return (*evolved, *INTERVAL)
    first = tuple(found.pop(field.name, field) for field in current)
    return (*first, *found.values())


def renamed_fields(table: Table, fields: Sequence[FieldSpec]) -> tuple[FieldSpec, ...]:
    """The columns of a table under the names that the declaration gives them now."""
    names = table.names_today({field.name for field in fields})
    return tuple(replace(field, name=names.get(field.name, field.name)) for field in fields)


def changes_digests(old: Sequence[FieldSpec], new: Sequence[FieldSpec]) -> bool:
    """Whether equal rows have other digests: a column is gone, or called otherwise, or has another text (`float32` widened)."""
    before = {field.name: field.type for field in old}
    return not before.keys() <= {field.name for field in new} or any(
        "float32" in before.get(field.name, "") and before[field.name] != field.type for field in new
    )


def _followed(source: str, table: Table, manifest: Manifest, known: FieldSpec, field: FieldSpec) -> FieldSpec:
    wider = wider_type(known.type, field.type)
    if wider is None:
        raise SchemaChanged(
            f"applying batch {manifest.batch_id} to {source}.{table.name}: column {field.name!r} changed its type",
            value=f"{field.type} in the batch, {known.type} in the table",
            allowed=FOLLOWED,
            remedy=f"Cast the column back to {known.type} in the source, declare it as {known.type} or string, or declare "
            f"another table of the same relation= beside {source}.{table.name}: it is built anew with the new type.",
        )
    nullable = known.nullable or (field.nullable and manifest.kind != "delete")
    doc = field.doc or known.doc
    return FieldSpec(field.name, wider, nullable, doc)


def check_declared(source: str, table: Table, fields: Collection[str]) -> None:
    """SourceMismatch when the declaration names a column that is not among these."""
    for name in (*table.key, table.cursor, table.event_time, table.partition.column):
        if name is not None and name not in fields:
            raise SourceMismatch(
                f"building {source}.{table.name}: the declaration names column {name!r}, which no batch has brought",
                value=f"columns: {', '.join(fields)}",
                allowed="key, cursor, event_time and partition column among the columns",
                remedy=f"Correct the name in the declaration of {table.name!r}.",
            )
