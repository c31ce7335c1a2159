"""Privacy before landing."""

from __future__ import annotations

import pyarrow as pa
import pytest

from lakehouse import Table
from lakehouse.errors import ConfigurationError, DeclarationError
from lakehouse.rows.privacy import check_privacy, plain_values, protected, protected_again

TABLE = Table("users", "snapshot", ("id",), personal={"email": "tokenise", "name": "mask", "photo": "drop"})
ROWS = pa.RecordBatch.from_pydict(
    {
        "id": [1, 2, 3, 4],
        "email": ["a@x.org", "b@x.org", "a@x.org", None],
        "name": ["Ångström", "", None, "Bo"],
        "photo": ["p", "q", "r", "s"],
    }
)


def landed(key: str = "k" * 16) -> pa.Table:
    return pa.Table.from_batches(list(protected([ROWS], TABLE, key)))


def test_the_same_text_gives_the_same_token_and_no_text_gives_none() -> None:
    tokens = landed()["email"].to_pylist()
    assert tokens[0] == tokens[2] != tokens[1]
    assert tokens[3] is None
    assert all(len(token) == 32 and "@" not in token for token in tokens[:3])


def test_another_key_gives_other_tokens() -> None:
    assert landed("a" * 16)["email"].to_pylist()[0] != landed("b" * 16)["email"].to_pylist()[0]


def test_a_masked_text_keeps_its_first_character_only() -> None:
    assert landed()["name"].to_pylist() == ["Å***", "", None, "B***"]


def test_a_dropped_column_does_not_land() -> None:
    assert landed().column_names == ["id", "email", "name"]


def test_tokens_without_a_key_are_refused_before_any_work() -> None:
    with pytest.raises(ConfigurationError, match="LAKEHOUSE_PRIVACY_KEY"):
        check_privacy(TABLE, ROWS.schema, "")


def test_masking_a_number_is_refused_and_named() -> None:
    table = Table("users", "snapshot", ("name",), personal={"id": "mask"})
    with pytest.raises(DeclarationError, match=r"personal\['id'\]"):
        check_privacy(table, ROWS.schema, "k" * 16)


def test_rows_that_landed_before_are_protected_and_what_is_protected_stays() -> None:
    (first,) = protected([ROWS], TABLE, "k" * 16)
    assert plain_values(ROWS, TABLE) == {"email": 3, "name": 2, "photo": 4}
    assert plain_values(first, TABLE) == {}
    assert list(protected_again([ROWS], TABLE, "k" * 16)) == [first]
    assert list(protected_again([first], TABLE, "k" * 16)) == [first]
    assert list(protected_again([first], TABLE, "x" * 16)) == [first], "a token of a token tells nothing"
