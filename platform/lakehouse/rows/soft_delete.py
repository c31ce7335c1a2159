"""The column that marks a row as deleted, held against what the source has."""

from __future__ import annotations

import pyarrow as pa

from lakehouse.errors import DeclarationError
from lakehouse.spec import Table
from lakehouse.spec.types import declared_type


def check_mark(source: str, table: Table, schema: pa.Schema) -> None:
    """Raise DeclarationError for a mark that is not there, or whose values do not say whether a row is deleted.

    Of a `bool`, true says so; of a `timestamp` or `date`, any value: such a column must be one that may be null.
    """
    if table.soft_delete is None:
        return
    tried = f"telling deleted rows of {source}.{table.name} by {table.soft_delete}"
    if table.soft_delete not in schema.names:
        raise DeclarationError(
            tried,
            value=f"no column {table.soft_delete!r}",
            allowed=", ".join(schema.names),
            remedy="Name the column that marks a deleted row; if the source has lost it, bring it back, declare it as `renamed`, "
            "or leave soft_delete out: then all rows are shown.",
        )
    field = schema.field(table.soft_delete)
    type_ = declared_type(field)
    if type_ == "bool" or (type_ in ("timestamp", "date") and field.nullable):
        return
    raise DeclarationError(
        tried,
        value=f"a column of type {type_}{'' if field.nullable else ' that is never null'}",
        allowed="bool, or a timestamp or date that is null in rows that are not deleted",
        remedy="Name another column; where a status says it, let `relation` name a view with a column `status = 'deleted'`.",
    )
