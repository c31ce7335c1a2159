"""Soft deletes: rows that the application marks instead of deleting them, and who still sees them. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

from lakehouse.errors import DeclarationError

if TYPE_CHECKING:
    from lakehouse.spec.declaration import Table

SoftDeleted = Literal["hide", "keep"]

WITH_DELETED = "__with_deleted"
"""What the name of all rows of a published table ends with, where readers of the table do not see the marked ones."""

ALL_ROWS = "all rows"
"""What readers of a published table see where none of its rows are left out."""


def reading_without(column: str) -> str:
    """What readers of a published table see where the rows are left out that the column marks."""
    return f"rows without {column}"


def published_name(source: str, table: Table) -> str:
    """The name in the warehouse that people and statistics read."""
    return f"{source}__{table.name}"


def stored_name(source: str, table: Table) -> str:
    """The name in the warehouse that has all rows of a table, marked or not."""
    return published_name(source, table) + (WITH_DELETED if table.hides else "")


def check_soft_delete(tried: str, column: str | None, becomes: str, mode: str, personal: Mapping[str, str]) -> None:
    """DeclarationError for a mark that cannot be meant: in a table whose rows do not change, or of a personal column."""
    if becomes not in get_args(SoftDeleted) or (column is None and becomes != "hide"):
        raise DeclarationError(
            f"{tried}: field 'soft_deleted'",
            value=becomes if column else f"{becomes!r} without soft_delete",
            allowed=f"{', '.join(get_args(SoftDeleted))}, with soft_delete",
            remedy='Write soft_delete="deleted_at", soft_deleted="keep", or leave soft_deleted out.',
        )
    if column is None:
        return
    if mode == "append":
        raise DeclarationError(
            f"{tried}: field 'soft_delete'",
            value=f"{column!r} for mode 'append'",
            allowed="modes 'upsert' and 'snapshot': an appended row is not read again when it is marked after its day was closed",
            remedy="Leave soft_delete out, or write mode='upsert' with the cursor that grows when a row is marked.",
        )
    if column in personal:
        raise DeclarationError(
            f"{tried}: personal[{column!r}]",
            value=personal[column],
            allowed="columns that are not the mark of soft deletes: readers could not be spared the marked rows without it",
            remedy="Leave the column as it is, or leave soft_delete out.",
        )
