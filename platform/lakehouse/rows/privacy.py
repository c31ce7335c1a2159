"""Privacy before landing: what `personal` columns become on their way into the raw zone.

`drop` leaves the column out (sources already do not read it), `mask` keeps the first character, `tokenise` replaces the text by
the first 32 hex digits of HMAC-SHA256 under the deployment's key: the same text gives the same token, so joins and counts work.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.errors import ConfigurationError, DeclarationError
from lakehouse.spec import Table

TOKEN_DIGITS = 32


def check_privacy(table: Table, schema: pa.Schema, key: str) -> None:
    """Refuse what could not be kept: a masked column that is not text, or tokens without a key."""
    for column, action in table.personal.items():
        if action == "drop":
            continue
        if column in schema.names and not pa.types.is_string(schema.field(column).type):
            raise DeclarationError(
                f"declaring table {table.name!r}: personal[{column!r}] = {action!r}",
                value=str(schema.field(column).type),
                allowed="a column of type string (drop works for every type)",
                remedy=f'Write "{column}": "drop", or declare the column as string.',
            )
        if action == "tokenise" and not key:
            raise ConfigurationError(
                f"tokenising {table.name}.{column}: there is no key",
                allowed="a secret text of at least 16 characters",
                remedy="Set LAKEHOUSE_PRIVACY_KEY and keep it for ever; `lakehouse up` makes one for embedded servers.",
            )


def protected(batches: Iterable[pa.RecordBatch], table: Table, key: str) -> Iterator[pa.RecordBatch]:
    """The same rows with every personal column dropped, masked or tokenised."""
    secret = key.encode()
    for batch in batches:
        result = batch
        for column, action in table.personal.items():
            if column not in result.schema.names:
                continue
            index = result.schema.get_field_index(column)
            if action == "drop":
                result = result.remove_column(index)
                continue
            values = _masked(result.column(index)) if action == "mask" else _tokens(result.column(index), secret)
            result = result.set_column(index, result.schema.field(index), values)
        yield result


def protected_again(batches: Iterable[pa.RecordBatch], table: Table, key: str) -> Iterator[pa.RecordBatch]:
    """Rows that were landed, some perhaps before their columns were declared personal, as `protected` would have them.

    What is masked stays so, and so does a text that looks like a token: another token of it would tell nothing any more.
    """
    for batch in batches:
        (result,) = protected([batch], table, key)
        for column, action in table.personal.items():
            if action == "tokenise" and column in result.schema.names:
                index = result.schema.get_field_index(column)
                values = pc.if_else(_is_token(batch.column(column)), batch.column(column), result.column(index))
                result = result.set_column(index, result.schema.field(index), values)
        yield result


def plain_values(batch: pa.RecordBatch, table: Table) -> dict[str, int]:
    """How many values of each personal column are as they came, as far as their looks tell; columns without any are left out."""
    found = {}
    for column, action in table.personal.items():
        if column not in batch.schema.names:
            continue
        values = batch.column(column).drop_null()
        if action == "mask":
            values = values.filter(pc.not_equal(values, _masked(values)))
        elif action == "tokenise":
            values = values.filter(pc.invert(_is_token(values)))
        if len(values):
            found[column] = len(values)
    return found


def _is_token(values: pa.Array) -> pa.Array:
    return pc.fill_null(pc.match_substring_regex(values, f"^[0-9a-f]{{{TOKEN_DIGITS}}}$"), False)


def _masked(values: pa.Array) -> pa.Array:
    first = pc.utf8_slice_codeunits(values, 0, 1)
    return pc.if_else(pc.equal(values, ""), values, pc.binary_join_element_wise(first, "***", ""))


def _tokens(values: pa.Array, secret: bytes) -> pa.Array:
    encoded = values.dictionary_encode()
    tokens = [
        None if text is None else hmac.digest(secret, text.encode(), "sha256").hex()[:TOKEN_DIGITS]
        for text in encoded.dictionary.to_pylist()
    ]
    return pa.array(tokens, pa.string()).take(encoded.indices)


def key_fingerprint(key: str) -> str:
    """What tells one key from another without telling the key: 16 hex digits, none for no key. Tokens tell as much."""
    return hmac.digest(key.encode(), b"lakehouse: fingerprint of the privacy key", "sha256").hex()[:16] if key else ""
