"""Which tables refer to which, by the expectation `references`. Pure data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lakehouse.errors import DeclarationError
from lakehouse.spec.declaration import Source, Table
from lakehouse.spec.expectations import Expect


@dataclass(frozen=True)
class Reference:
    """A column of a declared table that another table's values must be in."""

    source: Source
    table: Table
    column: str


def reference_of(sources: Sequence[Source], source: Source, table: Table, expected: Expect) -> Reference:
    """What an expectation `references` of a table of `source` names; DeclarationError where it is not one column."""
    tried = f"expecting of {source.name}.{table.name} that {expected}"
    name, column = (*expected.values, "")[:2]
    known = {f"{other.name}.{one.name}": (other, one) for other in sources for one in other.tables}
    found = known.get(name) or known.get(f"{source.name}.{name}")
    if found is None:
        raise DeclarationError(
            tried,
            value=name,
            allowed=f"a table of {source.name}, or another one as source.table: {', '.join(known)}",
            remedy="Name a declared table.",
        )
    other = found[1]
    if not column and len(other.key) != 1:
        raise DeclarationError(
            tried,
            value=f"no column, and a key of {', '.join(other.key)}",
            allowed="one column",
            remedy=f'Write Expect.references("{expected.column}", "{name}", "{other.key[0]}").',
        )
    reference = Reference(*found, column or other.key[0])
    actions = table.personal.get(expected.column), other.personal.get(reference.column)
    if actions not in ((None, None), ("tokenise", "tokenise")):
        raise DeclarationError(
            tried,
            value=f"{expected.column}: {actions[0] or 'as it is'}; {name}.{reference.column}: {actions[1] or 'as it is'}",
            allowed="two columns that land as they are, or two that are tokenised",
            remedy='Write personal={…: "tokenise"} of both, or of none.',
        )
    return reference


def check_references(sources: Sequence[Source]) -> None:
    """Raise DeclarationError for a reference to what is not declared, or that leads from a table of a source back to it."""
    for source in sources:
        for table in source.tables:
            for expected in references(table):
                reference_of(sources, source, table, expected)
        list(referred_first(source, source.tables))


def references(table: Table) -> list[Expect]:
    """The expectations of a table that name another."""
    return [expected for expected in table.expect if expected.rule == "references"]


def referred_to(source: Source, table: Table) -> set[str]:
    """The tables of the same source, by name, that a table refers to."""
    names = {expected.values[0].removeprefix(f"{source.name}.") for expected in references(table)}
    return names.intersection(one.name for one in source.tables)


def referred_first(source: Source, tables: Iterable[Table]) -> Iterator[Table]:
    """Tables of one source, each after those that it refers to; else in their order. DeclarationError for a circle."""
    wanted = {table.name: table for table in tables}
    done: set[str] = set()

    def with_referred(table: Table, path: tuple[str, ...]) -> Iterator[Table]:
        if table.name in path:
            raise DeclarationError(
                f"declaring source {source.name!r}: tables that refer to each other",
                value=" -> ".join((*path, table.name)),
                allowed="references that do not lead back: a table is read after those that it refers to",
                remedy="Take one of these expectations away.",
            )
        if table.name in done:
            return
        for name in sorted(referred_to(source, table).intersection(wanted)):
            yield from with_referred(wanted[name], (*path, table.name))
        done.add(table.name)
        yield table

    for table in wanted.values():
        yield from with_referred(table, ())
