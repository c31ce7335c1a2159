"""Rows of a source whose columns got other types, as the types that were landed: for a table with `on_change="quarantine"`.

A value that is exactly a value of the landed type is landed so; a row with another goes to the quarantine, as it came. What
identifies a row, or places it, is never fitted: such a column stops its table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.pipeline.column_types import fixed_columns, landed_types
from lakehouse.rows.recast import castable, exact_values
from lakehouse.spec import LogEntry, Table
from lakehouse.spec.types import arrow_field, declared_type, field_doc
from lakehouse.tables.evolution import wider_type

Unfit = Callable[[pa.RecordBatch, str, str], None]
"""Is given rows as the source has them, the column whose values are not of the landed type, and why."""


class Fitting:
    """What the columns of a source are landed as. Every other table is landed as its source is."""

    def __init__(self, table: Table, entries: Sequence[LogEntry]) -> None:
        """entries: of the table's log."""
        self._landed: Mapping[str, str] = landed_types(entries) if table.on_change == "quarantine" else {}
        self._fixed = fixed_columns(table)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The columns of the source as they are landed."""
        return pa.schema([self._field(field) for field in schema], schema.metadata)

    def changes(self, schema: pa.Schema) -> list[str]:
        """In words, what is fitted."""
        return [
            f"column {field.name} is {declared_type(field)} in the source and stays {declared_type(fitted)} here: a row whose "
            "value is not exactly that goes to the quarantine"
            for field, fitted in zip(schema, self.schema(schema), strict=True)
            if field.type != fitted.type
        ]

    def passing(self, batches: Iterable[pa.RecordBatch], leave_out: Unfit) -> Iterator[pa.RecordBatch]:
        """The rows as they are landed, but for those that do not fit."""
        for whole in batches:
            fields = [field for field in self.schema(whole.schema) if field.type != whole.schema.field(field.name).type]
            batch, fitting = whole, pa.array([True] * whole.num_rows) if fields else None
            for field in fields:
                index = whole.schema.get_field_index(field.name)
                values, exact = exact_values(whole.column(index), field.type)
                unfit = pc.and_(fitting, pc.invert(exact))
                if unfit.true_count:
                    found = declared_type(whole.schema.field(index))
                    leave_out(whole.filter(unfit), field.name, f"{found} in the source, and not exactly {declared_type(field)}")
                    fitting = pc.and_(fitting, exact)
                batch = batch.set_column(index, field, values)
            yield batch if fitting is None or not fitting.false_count else batch.filter(fitting)

    def _field(self, field: pa.Field) -> pa.Field:
        known, found = self._landed.get(field.name), declared_type(field)
        if known is None or field.name in self._fixed or wider_type(known, found) is not None or not castable(found, known):
            return field
        return arrow_field(field.name, known, nullable=field.nullable, doc=field_doc(field))
