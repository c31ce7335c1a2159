"""Source, Table and Column: all that a user writes. Pure data, checked when it is declared."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, get_args

from lakehouse.errors import DeclarationError
from lakehouse.spec.expectations import RELATIONS, Expect
from lakehouse.spec.load import Load
from lakehouse.spec.partitioning import Partitioning
from lakehouse.spec.soft_delete import ALL_ROWS, WITH_DELETED, SoftDeleted, check_soft_delete, reading_without
from lakehouse.spec.types import arrow_type

Mode = Literal["append", "upsert", "snapshot"]
Deletes = Literal["none", "sweep"]
Privacy = Literal["drop", "mask", "tokenise"]
Kind = Literal["postgres", "mongodb"]
TableFormat = Literal["iceberg", "delta"]
Mixed = Literal["refuse", "widen", "split"]
OnChange = Literal["evolve", "freeze", "quarantine"]
OnRefused = Literal["stop", "quarantine"]

DOCUMENT = "_document"
"""The column that keeps a MongoDB document whole."""

QUARANTINE = "__quarantine"
"""What the name of a table's quarantine ends with."""

LONGEST_NAME = 63

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


INTERVAL_NAMES = ("valid_from", "valid_to", "is_current", "deleted")
"""The columns that a history has besides those of its table."""


def history_name(table: str) -> str:
    """The name of a table's history."""
    return f"{table}__history"


def _check(tried: str, field_name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DeclarationError(
            f"{tried}: field {field_name!r}",
            value=value,
            allowed=", ".join(allowed),
            remedy=f"Give {field_name} one of the allowed values.",
        )


def _check_name(tried: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DeclarationError(
            f"{tried}: field 'name'",
            value=name,
            allowed="lower-case letters, digits and underscores, a letter first, at most 63",
            remedy="Choose such a name; `relation` names the table as the source spells it.",
        )


@dataclass(frozen=True)
class Column:
    """One column, where the source does not say it all.

    type: see `lakehouse.spec.types`. path: where a MongoDB document has it, dotted (default: the name).
    mixed: what becomes of a value of a MongoDB document that `type` does not hold exactly. `refuse`: its row is refused by name.
      `widen`: a `string` column takes every value, what is no text as Extended JSON. `split`: columns of the same path share
      its values, the first that holds one has it and the others are null; what none of them holds is refused.
    """

    name: str
    type: str
    description: str = ""
    nullable: bool = True
    path: str | None = None
    mixed: Mixed = "refuse"

    def __post_init__(self) -> None:
        arrow_type(self.type)
        _check(f"declaring column {self.name!r}", "mixed", self.mixed, get_args(Mixed))
        if self.mixed == "widen" and self.type.strip() != "string":
            raise DeclarationError(
                f"declaring column {self.name!r}: field 'mixed'",
                value=f"'widen' for type {self.type}",
                allowed="'widen' with type string only; numbers widen by themselves: float64 takes every number that it holds",
                remedy="Declare the column as string or json, or as several columns of one path with mixed='split'.",
            )


@dataclass(frozen=True)
class Table:
    """One table or collection of a source, and how it is kept.

    mode: `append` (immutable rows with an event time: each closed day replaces its partition), `upsert` (mutable rows,
      newest by `cursor`), `snapshot` (small: read whole).
    key: the columns that identify a row. cursor: the column that grows when a row changes. event_time: the column that says
      to which day of the statistics a row belongs.
    deletes: how an `upsert` table learns of deleted rows: `sweep` compares keys, `none` ignores them.
    expect: what every row should be; see `Expect` for what becomes of a batch with rows that are not.
    gone_at_most: the share of its rows, from 0 to 1, that may be found gone from the source at once (mode `snapshot`, or deletes
      `sweep`). With more the table stops, and none is deleted, until a run accepts it.
    on_change: what becomes of the table when the source's columns change. `evolve`: what can be followed is. `freeze`: any change
      stops it, and nothing is landed, until the declaration says `evolve`. `quarantine`: as `evolve`, and a column whose type
      cannot be followed keeps the one that it has; rows whose value is not exactly of it go to the table's quarantine. Not for
      collections: their columns are as declared.
    on_refused: what becomes of a row with a value that its column cannot hold exactly. `quarantine`: the batch lands without the
      row, which is kept as it came in the table's quarantine. `stop`: the batch does not land, and the table stops with an error
      that names the row. refused_at_most: the share of the rows, from 0 to 1, that may be in quarantine before its check fails.
    sweep_every: how long after a sweep the next one may wait; each run sweeps otherwise. It reads the keys of all rows.
    lookback: how far behind the newest row a row may still arrive with an older time.
    personal: columns that must not land as they are, each with `drop`, `mask` (first letter kept) or `tokenise` (keyed hash).
    relation: the name in the source, `schema.table` or a collection (default: the name).
    keep_document: MongoDB: whether the whole document is kept as well, as BSON without its personal fields, in `_document`.
    renamed: by the name of a column today, the name that it had before, or those that it had, the latest first. What came under
      them is kept as this column.
    keep_months: whether the lake keeps what the table was at the end of each month, under the name `month-2026-10`; maintenance
      sees to it.
    history: whether lake and warehouse have, beside the table, all states that its rows have had: see `docs/history.md`. Modes
      `upsert` and `snapshot`.
    soft_delete: the column by which the application marks a row as deleted: true in a boolean column, any value in one of times
      or dates. Modes `upsert` and `snapshot`.
    soft_deleted: what becomes of marked rows, which raw log, lake and `verify` have in any case. `hide`: who reads the table in
      the warehouse does not see them, nor do its statistics; `<table>__with_deleted` has all. `keep`: they are only counted.
    """

    name: str
    mode: Mode
    key: tuple[str, ...]
    cursor: str | None = None
    event_time: str | None = None
    partition: Partitioning = field(default_factory=Partitioning)
    format: TableFormat = "iceberg"
    deletes: Deletes = "none"
    lookback: timedelta = timedelta(0)
    sweep_every: timedelta = timedelta(0)
    columns: tuple[Column, ...] = ()
    personal: Mapping[str, Privacy] = field(default_factory=dict)
    relation: str | None = None
    description: str = ""
    keep_document: bool = True
    renamed: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    keep_months: bool = False
    gone_at_most: float = 1.0
    on_change: OnChange = "evolve"
    expect: tuple[Expect, ...] = ()
    on_refused: OnRefused = "quarantine"
    refused_at_most: float = 0.0
    history: bool = False
    soft_delete: str | None = None
    soft_deleted: SoftDeleted = "hide"

    @property
    def hides(self) -> str | None:
        """The column whose marked rows readers of the published table do not see."""
        return self.soft_delete if self.soft_deleted == "hide" else None

    @property
    def reading(self) -> str:
        """What readers of the published table are to see."""
        return reading_without(self.hides) if self.hides else ALL_ROWS

    @property
    def keeps_refused(self) -> bool:
        """Whether it has a quarantine."""
        policies = (self.on_refused, self.on_change, *(expected.otherwise for expected in self.expect))
        return "quarantine" in policies

    def __post_init__(self) -> None:
        tried = f"declaring table {self.name!r}"
        _check_name(tried, self.name)
        _check(tried, "mode", self.mode, get_args(Mode))
        _check(tried, "format", self.format, get_args(TableFormat))
        _check(tried, "deletes", self.deletes, get_args(Deletes))
        _check(tried, "on_change", self.on_change, get_args(OnChange))
        _check(tried, "on_refused", self.on_refused, get_args(OnRefused))
        for column, action in self.personal.items():
            _check(f"{tried}: personal[{column!r}]", "personal", action, get_args(Privacy))
        if not self.key or isinstance(self.key, str):
            raise DeclarationError(
                f"{tried}: field 'key'", value=self.key, allowed="a tuple of column names, not empty", remedy='Write key=("id",).'
            )
        needed = {"append": "event_time", "upsert": "cursor"}.get(self.mode)
        if needed is not None and getattr(self, needed) is None:
            raise DeclarationError(
                f"{tried}: field {needed!r}",
                value=None,
                allowed=f"a timestamp column: mode {self.mode!r} reads windows of it",
                remedy=f"Name the column in {needed}, or use mode='snapshot' if the table is small.",
            )
        if self.deletes == "sweep" and self.mode != "upsert":
            raise DeclarationError(
                f"{tried}: field 'deletes'",
                value=self.deletes,
                allowed="'sweep' with mode 'upsert' only: a snapshot finds deletes by itself, appended rows have none",
                remedy="Leave deletes out.",
            )
        if self.sweep_every < timedelta(0) or (self.sweep_every and self.deletes != "sweep"):
            raise DeclarationError(
                f"{tried}: field 'sweep_every'",
                value=f"{self.sweep_every} with deletes={self.deletes!r}",
                allowed="zero or more, with deletes='sweep'",
                remedy="Write deletes='sweep', sweep_every=timedelta(days=1), or leave both out.",
            )
        self._check_expect(tried)
        self._check_refused(tried)
        self._check_gone(tried)
        self._check_renamed(tried)
        if self.keep_months and self.format == "delta":
            raise DeclarationError(
                f"{tried}: field 'keep_months'",
                value="True for a table in Delta's format",
                allowed="format='iceberg': Delta has no names of versions",
                remedy="Leave keep_months out, or keep the table in Iceberg's format.",
            )
        self._check_history(tried)
        check_soft_delete(tried, self.soft_delete, self.soft_deleted, self.mode, self.personal)
        if self.mode == "append" and (self.partition.transform != "day" or self.partition.column != self.event_time):
            raise DeclarationError(
                f"{tried}: field 'partition'",
                value=self.partition,
                allowed=f"days({self.event_time!r}): an appended day replaces its partition",
                remedy=f"Write partition=days({self.event_time!r}).",
            )
        for needed_column in (*self.key, self.cursor, self.event_time, self.partition.column):
            if needed_column is not None and needed_column in self.personal:
                raise DeclarationError(
                    f"{tried}: personal[{needed_column!r}]",
                    value=self.personal[needed_column],
                    allowed="columns that are not key, cursor, event_time or partition column",
                    remedy="Choose another key, or leave the column as it is.",
                )
        if self.lookback < timedelta(0):
            raise DeclarationError(
                f"{tried}: field 'lookback'", value=self.lookback, allowed="zero or more", remedy="Write timedelta(hours=6)."
            )

    @property
    def row_key(self) -> tuple[str, ...]:
        """The columns by which a batch finds the rows that it changes."""
        return self.key

    def _check_history(self, tried: str) -> None:
        if self.history and self.mode == "append":
            raise DeclarationError(
                f"{tried}: field 'history'",
                value="True for mode 'append'",
                allowed="modes 'upsert' and 'snapshot': appended rows do not change",
                remedy="Leave history out.",
            )
        if taken := [column.name for column in self.columns if self.history and column.name in INTERVAL_NAMES]:
            raise DeclarationError(
                f"{tried}: field 'columns'",
                value=", ".join(taken),
                allowed=f"other names: its history has {', '.join(INTERVAL_NAMES)} of its own",
                remedy='Call the column otherwise (in a collection `path` says where it is: Column("removed", "bool", '
                'path="deleted")), or leave history out.',
            )
        if self.history and not _NAME.fullmatch(history_name(self.name)):
            raise DeclarationError(
                f"{tried}: field 'history'",
                value=f"a table named {history_name(self.name)}",
                allowed="a name of at most 63 characters",
                remedy="Choose a shorter name for the table; `relation` names it as the source spells it.",
            )

    def _check_expect(self, tried: str) -> None:
        wrong: list[object] = [self.expect] if not isinstance(self.expect, tuple) else []
        for expected in wrong or self.expect:
            if wrong or not isinstance(expected, Expect) or any(self.personal.get(name) == "drop" for name in expected.columns):
                raise DeclarationError(
                    f"{tried}: field 'expect'",
                    value=expected,
                    allowed="Expect.not_null, .between, .matches, .one_of, .unique or .references, of columns that are read",
                    remedy='Write expect=(Expect.one_of("tier", "free", "pro"),).',
                )
            if expected.rule in RELATIONS and any(self.personal.get(name) == "mask" for name in expected.columns):
                raise DeclarationError(
                    f"{tried}: field 'expect'",
                    value=expected,
                    allowed="columns that tell one value from another: a masked one does not",
                    remedy='Write personal={…: "tokenise"}: the same text gives the same token.',
                )
        if len(set(self.expect)) < len(self.expect):
            raise DeclarationError(
                f"{tried}: field 'expect'",
                value=", ".join(map(str, self.expect)),
                allowed="each expectation once",
                remedy="Remove the one that is repeated.",
            )

    def _check_refused(self, tried: str) -> None:
        if not isinstance(self.refused_at_most, int | float) or not 0 <= self.refused_at_most <= 1:
            raise DeclarationError(
                f"{tried}: field 'refused_at_most'",
                value=self.refused_at_most,
                allowed="a share of the table's rows, from 0 to 1",
                remedy="Write refused_at_most=0.001 to let the check pass while at most one row in a thousand is refused.",
            )
        if self.refused_at_most and not self.keeps_refused:
            raise DeclarationError(
                f"{tried}: field 'refused_at_most'",
                value=f"{self.refused_at_most} for a table without quarantine",
                allowed="on_refused='quarantine', or an expectation with otherwise='quarantine'",
                remedy="Write on_refused='quarantine', or leave refused_at_most out.",
            )
        if self.keeps_refused and len(self.name) > LONGEST_NAME - len(QUARANTINE):
            raise DeclarationError(
                f"{tried}: field 'name'",
                value=self.name,
                allowed=f"at most {LONGEST_NAME - len(QUARANTINE)} letters: its quarantine is called {self.name}{QUARANTINE}",
                remedy="Choose a shorter name (`relation` names the table as the source spells it), or write on_refused='stop'.",
            )

    def _check_gone(self, tried: str) -> None:
        if not isinstance(self.gone_at_most, int | float) or not 0 <= self.gone_at_most <= 1:
            raise DeclarationError(
                f"{tried}: field 'gone_at_most'",
                value=self.gone_at_most,
                allowed="a share of the table's rows, from 0 to 1",
                remedy="Write gone_at_most=0.2 to stop where more than a fifth of the rows is gone.",
            )
        if self.gone_at_most < 1 and self.mode != "snapshot" and self.deletes != "sweep":
            raise DeclarationError(
                f"{tried}: field 'gone_at_most'",
                value=f"{self.gone_at_most} for mode {self.mode!r} with deletes={self.deletes!r}",
                allowed="a table whose deletes are noticed: mode 'snapshot', or mode 'upsert' with deletes='sweep'",
                remedy="Leave gone_at_most out, or write deletes='sweep'.",
            )

    def _check_renamed(self, tried: str) -> None:
        former = [name for names in self._former().values() for name in names]
        if repeated := sorted({name for name in former if former.count(name) > 1 or name in self.renamed}):
            raise DeclarationError(
                f"{tried}: field 'renamed'",
                value=", ".join(repeated),
                allowed="each name once: as one column's name today, or as one that a column had",
                remedy='Write all names that a column had with it, the latest first: renamed={"email": ("mail", "e_mail")}.',
            )
        if self.partition.column in self.renamed:
            raise DeclarationError(
                f"{tried}: field 'renamed'",
                value=self.partition.column,
                allowed="columns that the table is not partitioned by",
                remedy="Let `relation` name a view that has the column under its old name, or declare another table of the same "
                "relation=: it is built anew.",
            )

    def names_today(self, names: Collection[str]) -> dict[str, str]:
        """Of columns that came together, those that have another name today, with it.

        A column that came together with one of today's name is another one.
        """
        found = {}
        for today, had in self._former().items():
            before = next((name for name in had if name in names), None)
            if before is not None and today not in names:
                found[before] = today
        return found

    def _former(self) -> dict[str, tuple[str, ...]]:
        return {today: (had,) if isinstance(had, str) else had for today, had in self.renamed.items()}


@dataclass(frozen=True)
class Source:
    """One system that is read, with its tables; its URL comes from `LAKEHOUSE_SOURCES__<NAME>__URL`.

    load: what reading may cost it.
    """

    name: str
    kind: Kind
    tables: tuple[Table, ...]
    description: str = ""
    owners: tuple[str, ...] = ()
    load: Load = field(default_factory=Load)

    def __post_init__(self) -> None:
        tried = f"declaring source {self.name!r}"
        _check_name(tried, self.name)
        _check(tried, "kind", self.kind, get_args(Kind))
        names = [table.name for table in self.tables]
        names += [f"{table.name}{QUARANTINE}" for table in self.tables if table.keeps_refused]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise DeclarationError(
                f"{tried}: field 'tables'",
                value=sorted(repeated),
                allowed="each table once",
                remedy="Remove the repeated table, or give it another name and a relation.",
            )
        if taken := sorted({history_name(table.name) for table in self.tables if table.history}.intersection(names)):
            raise DeclarationError(
                f"{tried}: field 'tables'",
                value=", ".join(taken),
                allowed="other names: these are the histories of tables that are declared with history=True",
                remedy="Give the table another name and a relation, or leave history out.",
            )
        if taken := sorted({f"{table.name}{WITH_DELETED}" for table in self.tables if table.hides}.intersection(names)):
            raise DeclarationError(
                f"{tried}: field 'tables'",
                value=", ".join(taken),
                allowed="other names: these have all rows of the tables that are declared with soft_delete",
                remedy="Give the table another name and a relation, or write soft_deleted='keep'.",
            )
        if self.kind == "mongodb":
            for table in self.tables:
                if table.keep_document and any(column.name == DOCUMENT for column in table.columns):
                    raise DeclarationError(
                        f"{tried}: table {table.name!r}: field 'columns'",
                        value=DOCUMENT,
                        allowed="other names: this column keeps the whole document",
                        remedy=f'Write Column("document", …, path="{DOCUMENT}"), or keep_document=False.',
                    )
                if table.on_change != "evolve":
                    raise DeclarationError(
                        f"{tried}: table {table.name!r}: field 'on_change'",
                        value=table.on_change,
                        allowed="'evolve': a collection has the columns that you declare, and they change when you change them; "
                        "what does not fit them is for its quarantine (on_refused)",
                        remedy="Leave on_change out.",
                    )
                if not table.columns:
                    raise DeclarationError(
                        f"{tried}: table {table.name!r}: field 'columns'",
                        value="none",
                        allowed="at least one Column: a collection has no schema to read them from",
                        remedy='Write columns=(Column("created_at", "timestamp"), …).',
                    )

    def table(self, name: str) -> Table:
        """The table of that name; DeclarationError when there is none."""
        for table in self.tables:
            if table.name == name:
                return table
        raise DeclarationError(
            f"looking for table {name!r} in source {self.name!r}",
            value=name,
            allowed=", ".join(table.name for table in self.tables),
            remedy="Use a declared table, or declare it in assets/.",
        )
