"""What becomes of a table when its source changes: each case is executed by a test, and told in `docs/sources.md`.

Only data, and nothing imported from the project: the documentation is written from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Change:
    """A change of the source, between two runs.

    what, happens: in words, as the documentation has them. before, change: what makes it, before the first run and after: SQL for
    the table `customers`, or update documents of MongoDB for the collection `clicks`.
    old, new: what the warehouse has of a row that was there before and is not touched, and of one that comes after; None where
    there is no such row any more. new_row: columns and values, or fields, of the row that comes after, beside those it needs.
    stops: what the error says with which the table stops; empty where it goes on. declared: what is declared of it afterwards.
    from_start: what is declared of it all the time.
    rebuilt: what `lakehouse rebuild` makes of a table that stopped, after which it goes on; empty where that is no way.
    """

    what: str
    happens: str
    change: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    old: Mapping[str, Any] | None = field(default_factory=dict)
    new: Mapping[str, Any] | None = field(default_factory=dict)
    new_row: Mapping[str, Any] = field(default_factory=dict)
    stops: str = ""
    declared: Mapping[str, Any] = field(default_factory=dict)
    from_start: Mapping[str, Any] = field(default_factory=dict)
    rebuilt: str = ""


POSTGRES = (
    Change(
        "a column is added",
        "it arrives; rows that were landed without it are read again",
        ("alter table customers add plan text", "update customers set plan = 'basic'"),
        old={"plan": "basic"},
        new={"plan": None},
    ),
    Change(
        "a column is added with a default",
        "so too: old rows have it as the source shows it",
        ("alter table customers add plan text not null default 'basic'",),
        old={"plan": "basic"},
        new={"plan": "basic"},
    ),
    Change(
        "a column is dropped",
        "it stays with what it held, and is null in rows that are read from then on",
        ("alter table customers drop plan",),
        before=("alter table customers add plan text default 'basic'",),
        old={"plan": "basic"},
        new={"plan": None},
    ),
    Change(
        "a column is renamed",
        "one is dropped, and one is added: all rows are read again, and have null under the old name",
        ("alter table customers rename tier to level",),
        old={"level": "free", "tier": None},
        new={"level": "free", "tier": None},
        new_row={"level": "free"},
    ),
    Change(
        "a column is renamed, and that is declared (`renamed`)",
        "what came under the old name is its past: the table is built anew from its raw log, and nothing is read again",
        ("alter table customers rename tier to level",),
        old={"level": "free"},
        new={"level": "pro"},
        new_row={"level": "pro"},
        declared={"renamed": {"level": "tier"}},
    ),
    Change(
        "an integer becomes wider (`int` to `bigint`)",
        "the column does, in the same commit as the first rows of it",
        ("alter table customers alter visits type bigint",),
        before=("alter table customers add visits int default 7",),
        old={"visits": 7},
        new={"visits": 2**40},
        new_row={"visits": 2**40},
    ),
    Change(
        "a float becomes wider (`real` to `double precision`)",
        "the column does; every row is written again, for the digests are those of the wider numbers",
        ("alter table customers alter share type double precision",),
        before=("alter table customers add share real default 0.5",),
        old={"share": 0.5},
        new={"share": 0.1},
        new_row={"share": 0.1},
    ),
    Change(
        "a `numeric` gets more digits before the point",
        "the column does",
        ("alter table customers alter paid type numeric(12,2)",),
        before=("alter table customers add paid numeric(6,2) default 1.25",),
        old={"paid": "1.25"},
        new={"paid": "123456789.01"},
        new_row={"paid": "123456789.01"},
    ),
    Change(
        "a type becomes narrower (`bigint` to `int`)",
        "nothing: the column stays as wide as it was",
        ("alter table customers alter visits type int",),
        before=("alter table customers add visits bigint default 7",),
        old={"visits": 7},
        new={"visits": 8},
        new_row={"visits": 8},
    ),
    Change(
        "a `varchar(n)` becomes longer, or `text`",
        "nothing: both are text",
        ("alter table customers alter city type text",),
        before=("alter table customers add city varchar(5) default 'Brno'",),
        old={"city": "Brno"},
        new={"city": "Ostrava"},
        new_row={"city": "Ostrava"},
    ),
    Change(
        "a column may be null from now on",
        "so may it here",
        ("alter table customers alter visits drop not null",),
        before=("alter table customers add visits int not null default 7",),
        old={"visits": 7},
        new={"visits": None},
        new_row={"visits": None},
    ),
    Change(
        "a column may not be null any more",
        "nothing: it may be null here, for old versions of rows",
        ("alter table customers alter visits set not null",),
        before=("alter table customers add visits int default 7",),
        old={"visits": 7},
        new={"visits": 7},
    ),
    Change(
        "an enum gets a value",
        "nothing: an enum is text",
        ("alter type mood add value 'great'",),
        before=("create type mood as enum ('fine')", "alter table customers add mood mood default 'fine'"),
        old={"mood": "fine"},
        new={"mood": "great"},
        new_row={"mood": "great"},
    ),
    Change(
        "the table is dropped and made again, with the same columns",
        "rows that are not in the new one are deleted, as by any key sweep",
        ("create table next (like customers including all)", "drop table customers", "alter table next rename to customers"),
        old=None,
        new={"tier": "pro"},
        new_row={"tier": "pro"},
    ),
    Change(
        "a row has a value that its column does not hold (`infinity` in a `date`)",
        "it goes to the [quarantine](quarantine.md), all others land",
        ("alter table customers add since date",),
        old={"since": None},
        new=None,
        new_row={"since": "infinity"},
    ),
    Change(
        "a column gets a type that cannot be followed (`int` to `text`)",
        "the table stops, before anything of it is landed",
        ("alter table customers alter visits type text",),
        before=("alter table customers add visits int default 7",),
        old={"visits": "7"},
        new={"visits": "many"},
        new_row={"visits": "many"},
        stops="column 'visits' changed its type",
        rebuilt="every value is taken in the new type, or the first that is not exactly there is named and nothing is changed",
    ),
    Change(
        'the same, and the table is declared with `on_change="quarantine"`',
        "the column keeps its type: rows whose value is exactly of it land, the others go to the quarantine as they are",
        ("alter table customers alter visits type text",),
        before=("alter table customers add visits int default 7",),
        old={"visits": 7},
        new=None,
        new_row={"visits": "many"},
        from_start={"on_change": "quarantine"},
    ),
    Change(
        "the key becomes another one",
        "the table stops: rows could be taken for each other",
        ("alter table customers drop constraint customers_pkey", "alter table customers add primary key (tier, id)"),
        old={"tier": "free"},
        new={"tier": "free"},
        new_row={"tier": "free"},
        stops="no primary key, nor a unique index",
        declared={"key": ("tier", "id")},
        rebuilt="declared beforehand, the new key is taken, if every row has it and no two share it",
    ),
    Change(
        "a column that is declared is dropped or renamed: key, cursor, event time, a personal one",
        "the table stops",
        ("alter table customers rename changed_at to modified_at",),
        stops="no such column",
    ),
    Change(
        "the table is dropped or renamed",
        "the table stops, and what there is of it stays",
        ("alter table customers rename to people",),
        stops="no such table",
    ),
)
"""Of the table `customers` of `tests/shop.py`, an `upsert` table that sweeps."""

MONGODB = (
    Change(
        "a field appears that nobody declared",
        "it is in `_document`",
        old={"undeclared": None},
        new={"undeclared": 5},
        new_row={"undeclared": 5},
    ),
    Change(
        "a field appears, and is declared then",
        "it is a column; documents that were landed without it are read again",
        old={"score": None},
        new={"score": 5},
        new_row={"score": 5},
        declared={"score": "int32"},
    ),
    Change(
        "a field is not in documents any more",
        "its column is null in them",
        old={"page": "/p/0"},
        new={"page": None},
        new_row={"page": None},
    ),
    Change(
        "a field has a value that its column does not hold",
        "the document goes to the [quarantine](quarantine.md), all others land; `mixed` and `json` are other rules",
        old={"page": "/p/0"},
        new=None,
        new_row={"page": 5},
    ),
    Change(
        "so too, and `on_refused` is `stop`",
        "the table stops at that day, naming the document",
        new_row={"page": 5},
        stops="field 'page' of the document with _id",
    ),
)
"""Of the collection `clicks` of `tests/shop.py`, an `append` table."""
