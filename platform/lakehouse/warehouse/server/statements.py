"""Just enough of ClickHouse's grammar to know what to do with a statement: where its data, its format and its end are.

Tokens are read as ClickHouse's lexer reads them, so that keywords inside strings, identifiers, comments and brackets are not
mistaken for clauses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from lakehouse.warehouse.server.failures import EngineError

Kind = Literal["result", "insert", "command"]

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|\#[ !][^\n]*|/\*.*?\*/)
    |(?P<string>'[^'\\]*(?:(?:\\.|'')[^'\\]*)*')
    |(?P<quoted>"[^"\\]*(?:(?:\\.|"")[^"\\]*)*"|`[^`\\]*(?:(?:\\.|``)[^`\\]*)*`)
    |(?P<heredoc>(?P<tag>\$\w*\$).*?(?P=tag))
    |(?P<word>[A-Za-z_]\w*)
    |(?P<number>\d\w*)
    |(?P<sign>.)""",
    re.DOTALL | re.VERBOSE | re.ASCII,
)
_RESULT = {"SELECT", "FROM", "SHOW", "EXPLAIN", "DESC", "DESCRIBE", "EXISTS", "CHECK", "KILL", "WATCH"}
_DATA_FOLLOWS = re.compile(rb"[ \t\f]*\r?\n?")


@dataclass(frozen=True)
class Token:
    """One token that is not blank; `depth` counts the brackets around it."""

    kind: str
    text: str
    start: int
    end: int
    depth: int

    @property
    def keyword(self) -> str:
        """The word in capitals if it stands outside all brackets, else nothing."""
        return self.text.upper() if self.kind == "word" and self.depth == 0 else ""


@dataclass(frozen=True)
class Statement:
    """A statement cut into parts.

    kind: `result` (gives rows in `format`, or in the default one), `insert` (rows in `format` follow the text), `command`.
    text: up to the FORMAT clause; rest: what follows it (SETTINGS). data: rows that came with the text of an `insert`.
    first: its first keyword.
    """

    kind: Kind
    text: str
    first: str
    format: str | None = None
    rest: str = ""
    data: bytes = b""


def read_statement(source: bytes, *, complete: bool) -> Statement | None:
    """The statement in `source`; None when more of it must be read to tell (never when `complete`).

    Raises EngineError 62 for several statements, 48 for INTO OUTFILE and FROM INFILE, which would touch the server's own files.
    """
    tokens = _tokens(source.decode("latin-1"))
    seen: list[Token] = []
    for token in tokens:
        if token.keyword == "INSERT" and (not seen or seen[0].keyword == "WITH"):
            return _insert(source, tokens, complete)
        if seen and seen[0].keyword not in ("", "WITH") and not complete:
            return None
        seen.append(token)
    if not complete:
        return None
    return _other(source, seen)


def _tokens(text: str) -> Iterator[Token]:
    depth = 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "tag":
            kind = "heredoc"
        if kind == "space":
            continue
        if match[0] in ")]}":
            depth = max(0, depth - 1)
        yield Token(kind, match[0], match.start(), match.end(), depth)
        if match[0] in "([{":
            depth += 1


def _insert(source: bytes, tokens: Iterator[Token], complete: bool) -> Statement | None:
    before = "INSERT"
    for token in tokens:
        word = token.keyword if before not in ("INTO", "TABLE", ".") else ""
        before = token.text.upper() if token.kind in ("word", "sign") else ""
        if word == "VALUES":
            return Statement("insert", _text(source[: token.start]), "INSERT", "Values", data=source[token.end :])
        if word == "FORMAT":
            name = next(tokens, None)
            if name is None or (name.end == len(source) and not complete):
                break
            data = source[name.end :]
            follows = _DATA_FOLLOWS.match(data)
            return Statement(
                "insert", _text(source[: token.start]), "INSERT", name.text, data=data[follows.end() :] if follows else data
            )
        if word == "FROM" and (following := next(tokens, None)) is not None and following.keyword == "INFILE":
            raise EngineError(48, "INSERT FROM INFILE is not supported over HTTP", "NOT_IMPLEMENTED")
        if word in ("SELECT", "WITH", "FROM"):
            return Statement("command", _text(source), "INSERT") if complete else None
    return Statement("insert", _text(source), "INSERT") if complete else None


def _other(source: bytes, tokens: list[Token]) -> Statement:
    end = next((index for index, token in enumerate(tokens) if token.depth == 0 and token.text == ";"), len(tokens))
    if any(token.text != ";" for token in tokens[end:]):
        at = next(token for token in tokens[end:] if token.text != ";")
        raise EngineError(
            62, f"Syntax error (Multi-statements are not allowed): failed at position {at.start + 1}: {at.text}", "SYNTAX_ERROR"
        )
    tokens = tokens[:end]
    if not tokens:
        raise EngineError(62, "Syntax error: Empty query", "SYNTAX_ERROR")
    opening = next((token for token in tokens if token.text != "("), tokens[0])
    first = opening.text.upper() if opening.kind == "word" else ""
    kind: Kind = "result" if first in _RESULT or first == "WITH" else "command"
    stop = tokens[-1].end
    if kind == "command":
        return Statement(kind, _text(source[:stop]), first)
    for left, right in pairwise(tokens):
        if left.keyword == "INTO" and right.keyword == "OUTFILE":
            raise EngineError(48, "INTO OUTFILE is not allowed over HTTP", "NOT_IMPLEMENTED")
    clause = _format_clause(tokens)
    if clause is None:
        return Statement(kind, _text(source[:stop]), first)
    word, name = clause
    return Statement(kind, _text(source[: word.start]), first, name.text, _text(source[name.end : stop]))


def _format_clause(tokens: list[Token]) -> tuple[Token, Token] | None:
    """The last `FORMAT name` outside of brackets that only SETTINGS follow."""
    for index in range(len(tokens) - 2, 0, -1):
        word, name = tokens[index], tokens[index + 1]
        if word.keyword != "FORMAT" or name.kind != "word" or tokens[index - 1].text in (".", ","):
            continue
        after = tokens[index + 2 :]
        if not after or after[0].keyword == "SETTINGS":
            return word, name
        return None
    return None


def _text(source: bytes) -> str:
    try:
        return source.decode()
    except UnicodeDecodeError as error:
        raise EngineError(62, f"Syntax error: the query is not valid UTF-8: {error.reason}", "SYNTAX_ERROR") from None
