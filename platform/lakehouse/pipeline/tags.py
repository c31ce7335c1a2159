"""Names of versions: given, taken away, and understood wherever a version is asked for."""

from __future__ import annotations

import re

from lakehouse.errors import WrongUse
from lakehouse.pipeline.attempts import until_won
from lakehouse.pipeline.deployment import Deployment
from lakehouse.spec import Source, Table

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_TAKEN = "main"
"""Iceberg's own name of what is current."""


def tag_version(deployment: Deployment, source: Source, table: Table, name: str, version: int | None = None) -> int:
    """Give a version (None: the current one) a name; the version.

    Raises WrongUse for a name that will not do or is another version's, Unsupported for a format without tags, and CommitConflict
    only after losing `ATTEMPTS` commits in a row.
    """
    if not _NAME.fullmatch(name) or name == _TAKEN:
        raise WrongUse(
            f"naming a version of {source.name}.{table.name}",
            value=name,
            allowed=f"a letter or _, then letters, digits and . _ - up to 100 characters; not {_TAKEN}",
            remedy="Choose another name.",
        )
    if version is None:
        state = deployment.lake.state(source.name, table)
        version = None if state is None else state.current.version
    if version is None:
        raise WrongUse(
            f"naming a version of {source.name}.{table.name}",
            value="the table is not there",
            allowed="a table that was built",
            remedy=f"Build it first: `lakehouse run --select {source.name}.{table.name}`.",
        )
    _commit(deployment, source, table, name, version)
    return version


def remove_tag(deployment: Deployment, source: Source, table: Table, name: str) -> None:
    """Take a name away; the version stays. WrongUse when no version has it."""
    if name not in (tags := deployment.lake.tags(source.name, table)):
        raise _unknown(source, table, name, tags)
    _commit(deployment, source, table, name, None)


def version_named(deployment: Deployment, source: Source, table: Table, version: str) -> int:
    """The number of a version that is told by its number or by its name; WrongUse for a name that no version has."""
    if version.isdigit():
        return int(version)
    tags = deployment.lake.tags(source.name, table)
    if version not in tags:
        raise _unknown(source, table, version, tags)
    return tags[version]


def _commit(deployment: Deployment, source: Source, table: Table, name: str, version: int | None) -> None:
    until_won(lambda: deployment.lake.tag(source.name, table, name, version))


def _unknown(source: Source, table: Table, name: str, tags: dict[str, int]) -> WrongUse:
    return WrongUse(
        f"looking for a version of {source.name}.{table.name}",
        value=name,
        allowed=", ".join(["the number of a version", *tags]),
        remedy=f"`lakehouse show {source.name}.{table.name}` lists versions and their names.",
    )
