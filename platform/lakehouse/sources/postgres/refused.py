"""Rows with values that their columns refuse, as they are in the database: read on the same snapshot once a scan has left some
out, and given to the columns anew when those are declared otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pyarrow as pa

from lakehouse.rows.duck import literal, quoted
from lakehouse.sources.postgres.catalog import Relation
from lakehouse.sources.postgres.columns import ReadColumn
from lakehouse.sources.postgres.refusal import allowed
from lakehouse.sources.postgres.scan import Scan
from lakehouse.sources.reader import RefusedRows
from lakehouse.spec import Table

_SHOWN = 80
"""Letters of a value that a reason shows."""

_AT_ONCE = 500
"""Originals that one query takes."""


class RefusedScan:
    """The scan of the rows that `columns` refuse, and what comes of its batches."""

    def __init__(self, table: Table, relation: Relation, columns: Sequence[ReadColumn], within: str) -> None:
        self._columns = columns
        self._refusing = [column for column in columns if column.refused is not None]
        time = {"append": table.event_time, "upsert": table.cursor}.get(table.mode)
        names = dict.fromkeys([*table.key, *([time] if time else [])])
        self._known = [column for name in names for column in columns if column.field.name == name]
        any_ = " or ".join(f"coalesce({column.refused}, false)" for column in self._refusing)
        self.scan = Scan(relation.sql, tuple(self._read()), (f"({within}) and ({any_})",))

    def _read(self) -> Iterator[ReadColumn]:
        for column in self._known:
            value, type_ = column.value, column.field.type
            if column.refused:
                value = f"case when {column.refused} then null else {value} end"
                # A case of a null and a numeric has lost the digits of its type.
                value += f"::numeric({type_.precision},{type_.scale})" if pa.types.is_decimal(type_) else ""
            yield ReadColumn(column.field.with_nullable(True), value)
        for column in self._columns:
            yield ReadColumn(pa.field(column.field.name, pa.string()), f"{quoted(column.field.name)}::text")
        for column in self._refusing:
            yield ReadColumn(pa.field(column.field.name, pa.bool_()), f"coalesce({column.refused}, false)")

    def rows(self, batch: pa.RecordBatch) -> RefusedRows:
        """A batch of the scan, taken apart."""
        known, columns = len(self._known), len(self._columns)
        fields = [*batch.schema]
        originals = pa.RecordBatch.from_arrays(
            batch.columns[known : known + columns], schema=pa.schema(fields[known : known + columns])
        )
        refuses = dict(zip((column.field.name for column in self._refusing), batch.columns[known + columns :], strict=True))
        by_name = {column.field.name: column for column in self._refusing}
        names = [next(name for name, found in refuses.items() if found[row].as_py()) for row in range(batch.num_rows)]
        reasons = [
            f"{_cut(originals.column(name)[row].as_py())}, and it takes {allowed(by_name[name])}"
            for row, name in enumerate(names)
        ]
        found = pa.RecordBatch.from_arrays(batch.columns[:known], schema=pa.schema(fields[:known]))
        return RefusedRows("text", originals, found, names, reasons)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def as_relations(relation: Relation, columns: Sequence[ReadColumn], originals: Sequence[bytes]) -> Iterator[str]:
    """SQL for rows that came as text, some hundred at a time, with the columns and types of the relation.

    What is read as text stays as it is: a cast would cut a token to the length that the column allows.
    """
    text = {column.field.name for column in columns if pa.types.is_string(column.field.type)}
    for start in range(0, len(originals), _AT_ONCE):
        rows = [json.loads(original) for original in originals[start : start + _AT_ONCE]]
        values = ", ".join("(" + ", ".join(_literal(row.get(c.name)) for c in relation.columns) + ")" for row in rows)
        names = ", ".join(f"c{i}" for i in range(len(relation.columns)))
        casts = ", ".join(
            f"c{i}::{'text' if column.name in text else column.spelled} as {quoted(column.name)}"
            for i, column in enumerate(relation.columns)
        )
        yield f"(select {casts} from (values {values}) as t({names})) as r"


def _literal(value: str | None) -> str:
    return "null" if value is None else literal(value)
