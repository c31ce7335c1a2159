"""The one table of types: what each Postgres type is declared as, and what becomes of values that this cannot hold.

The reader takes its decisions from here (`columns.py`), and the table in docs/sources.md is written from here. For reading back,
the text of every value, as it is in the lake and in the warehouse, casts to the Postgres type that it came from.
"""

from __future__ import annotations

from dataclasses import dataclass

EVERYTHING_ELSE = ""
"""The name of the rule for types that no other rule names."""


@dataclass(frozen=True)
class TypeRule:
    """How values of some Postgres types are read.

    types: names in `pg_type`. declared: the declared type. refused: for people, the values that are refused by name; empty: none.
    note: what else is to be known.
    """

    types: tuple[str, ...]
    declared: str
    refused: str = ""
    note: str = ""


_YEARS = "infinite ones, and years before 1 or after 9999"

RULES = (
    TypeRule(("bool",), "bool"),
    TypeRule(("int2", "int4"), "int32"),
    TypeRule(("int8",), "int64"),
    TypeRule(("float4",), "float32"),
    TypeRule(("float8",), "float64"),
    TypeRule(("numeric",), "string", note="without precision, or with more than 38 digits; the exact text, with its zeros"),
    TypeRule(("money",), "decimal(19,2)", "amounts with a third decimal, as some lc_monetary have"),
    TypeRule(("timestamptz",), "timestamp", _YEARS),
    TypeRule(("timestamp",), "timestamp", _YEARS, "read as UTC"),
    TypeRule(("date",), "date", _YEARS),
    TypeRule(("json", "jsonb"), "json", note="the text, so numbers of any size; json keeps its spaces and repeated names"),
    TypeRule(("bytea",), "binary"),
    TypeRule(("text", "varchar", "name", "char"), "string"),
    TypeRule(("bpchar",), "string", note="without the padding, which Postgres does not compare either"),
    TypeRule(("uuid", "inet", "cidr", "macaddr", "macaddr8"), "string", note="an inet always with its /length"),
    TypeRule(("time", "timetz"), "string", note="24:00:00, and the offset of a timetz, are kept"),
    TypeRule(("interval",), "string", note="ISO 8601, as P1Y2DT3.000004S; months, days and microseconds are kept apart"),
    TypeRule(("bit", "varbit"), "string", note="zeros and ones"),
    TypeRule(("oid", "xid", "xid8", "cid", "tid", "pg_lsn", "pg_snapshot", "txid_snapshot"), "string"),
    TypeRule(
        (*("regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator"),
         *("regproc", "regprocedure", "regrole", "regtype", "refcursor", "aclitem")),
        "string", note="names: they change when what they name is renamed",
    ),
    TypeRule(("point", "line", "lseg", "box", "path", "polygon", "circle"), "string", note="every digit of the doubles"),
    TypeRule(("tsvector", "tsquery", "jsonpath", "xml", "int2vector", "oidvector"), "string"),
    TypeRule(
        (*("int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"),
         *("int4multirange", "int8multirange", "nummultirange", "tsmultirange", "tstzmultirange", "datemultirange")),
        "string", note="infinite bounds are kept",
    ),
    TypeRule(
        (EVERYTHING_ELSE,), "string",
        note="enums, composites, and types of extensions (hstore, vector, citext, ltree, cube, …), as the server spells them",
    ),
)  # fmt: skip

DECIMAL = TypeRule(("numeric",), "decimal(p,s)", "NaN", "numeric(p,s) of up to 38 digits")
"""The rule for `numeric` that is declared with a precision that fits."""

_BY_NAME = {name: rule for rule in RULES for name in rule.types}


def rule_of(type_: str, *, built_in: bool = True) -> TypeRule:
    """The rule of a type by its name in `pg_type`; an extension may use a name that is Postgres' own elsewhere."""
    return _BY_NAME.get(type_ if built_in else EVERYTHING_ELSE, _BY_NAME[EVERYTHING_ELSE])


def decimal_of(modifier: int) -> str | None:
    """decimal(p,s) of a numeric's `atttypmod`, None without precision or beyond 38 digits.

    A scale below 0 or above the precision becomes the digits that it needs.
    """
    if modifier < 4:
        return None
    precision, scale = (modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF
    scale = (scale ^ 1024) - 1024
    if scale < 0:
        precision, scale = precision - scale, 0
    precision = max(precision, scale)
    return f"decimal({precision},{scale})" if precision <= 38 else None
