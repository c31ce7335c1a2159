"""Values of every Postgres type, as the text that casts to them: the edges, and strategies for any others."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

Texts = st.SearchStrategy[str]


@dataclass(frozen=True)
class Values:
    """A type as SQL spells it, texts of values at its edges, and a strategy for texts of any value that is read exactly."""

    type: str
    edges: tuple[str, ...]
    any: Texts | None = None

    @property
    def texts(self) -> Texts:
        """Any value, the edges often."""
        edges = st.sampled_from(self.edges)
        return edges if self.any is None else edges | self.any


def integers(bits: int) -> Texts:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).map(str)


def single(value: float) -> str:
    return repr(struct.unpack("f", struct.pack("f", value))[0])


def clock(microseconds: int) -> str:
    seconds, rest = divmod(microseconds, 10**6)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:06}"


def interval(parts: tuple[int, int, int]) -> str:
    return f"{parts[0]} mons {parts[1]} days {parts[2]} microseconds"


def offset(minutes: int) -> str:
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
doubles = st.floats(width=64).map(repr)
numbers = st.tuples(st.integers(-(10**60), 10**60), st.integers(-60, 60)).map(lambda pair: f"{pair[0]}e{pair[1]}")
jsons = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
instants = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999), timezones=st.just(UTC))
clocks = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)).map(datetime.isoformat)
times = st.integers(0, 24 * 3600 * 10**6).map(clock)
intervals = st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1), st.integers(-(2**62), 2**62))
bits = st.text("01", max_size=70)
points = st.tuples(doubles, doubles).map(lambda pair: f"({pair[0]},{pair[1]})")
outlines = st.lists(points, min_size=1, max_size=4).map(",".join)
addresses = st.ip_addresses().map(str)
networks = st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda pair: f"{pair[0]}/{pair[1]}")
hexes = st.binary(max_size=20).map(lambda value: "\\x" + value.hex())
lexemes = st.lists(words.filter(str.strip), max_size=4).map(
    lambda found: " ".join("'" + word.replace("\\", "\\\\").replace("'", "''") + "'" for word in found)
)
small = st.integers(-(10**6), 10**6)

LONG_AGO, FAR = "0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"

VALUES: dict[str, Values] = {
    "bool": Values("bool", ("true", "false")),
    "int2": Values("int2", ("-32768", "32767", "0"), integers(16)),
    "int4": Values("int4", ("-2147483648", "2147483647"), integers(32)),
    "int8": Values("int8", ("-9223372036854775808", "9223372036854775807", "9007199254740993"), integers(64)),
    "float4": Values("float4", ("NaN", "Infinity", "-Infinity", "-0", "1e-45", "3.4028235e38", "1.1"),
                     st.floats(width=32).map(single)),
    "float8": Values("float8", ("NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e308", "0.1"), doubles),
    "decimal(p,s)": Values("numeric(38,10)", ("9999999999999999999999999999.9999999999", "-0.0000000001", "0"),
                           st.decimals(-(10**27), 10**27, places=10).map(str)),
    "numeric": Values("numeric", ("NaN", "Infinity", "-Infinity", "1.10", "1.1", "9" * 200 + "." + "9" * 200, "0.000"), numbers),
    "money": Values("money", ("-92233720368547758.08", "92233720368547758.07", "0.01"),
                    st.decimals(-(10**15), 10**15, places=2).map(str)),
    "timestamptz": Values("timestamptz", (LONG_AGO, FAR, "1969-12-31 23:59:59.999999", "2026-03-29 01:00:00.000001"),
                          instants.map(datetime.isoformat)),
    "timestamp": Values("timestamp", (LONG_AGO, FAR, "1970-01-01 00:00:00"), clocks),
    "date": Values("date", ("0001-01-01", "9999-12-31", "1970-01-01", "2000-02-29"), st.dates().map(str)),
    "json": Values("json", ('{"b": 1,  "a": 1e400, "b": 12345678901234567890.10}', "null", '"\\ud83e\\udd86"'),
                   jsons.map(json.dumps)),
    "jsonb": Values("jsonb", ('{"a": 1e400, "b": 0.10}', "null", '"\\ud83e\\udd86"'),
                    jsons.map(json.dumps).filter(lambda text: "\\u0000" not in text)),
    "bytea": Values("bytea", ("\\x", "\\x00ff5c27"), hexes),
    "text": Values("text", ("", " a\t\n\r\x01\"'\\{},", "naïve 東京 🦆 \u202e", "null", "NULL"), words),
    "varchar": Values("varchar(12)", ("", "ab  "), words),
    "name": Values("name", ("", "A b"), words),
    "char": Values('"char"', ("", "a", "\\377"), st.characters(codec="ascii", exclude_characters="\0")),
    "bpchar": Values("char(12)", ("", "ab", " a"), words),
    "uuid": Values("uuid", ("00000000-0000-0000-0000-000000000000",), st.uuids().map(str)),
    "inet": Values("inet", ("10.0.0.1/8", "::1", "10.0.0.1", "::ffff:1.2.3.4/128"), addresses | networks),
    "cidr": Values("cidr", ("10.0.0.0/8", "::/0"), addresses),
    "macaddr": Values("macaddr", ("08:00:2b:01:02:03",), st.binary(min_size=6, max_size=6).map(bytes.hex)),
    "macaddr8": Values("macaddr8", ("08:00:2b:01:02:03:04:05",), st.binary(min_size=8, max_size=8).map(bytes.hex)),
    "time": Values("time", ("24:00:00", "00:00:00", "23:59:59.999999"), times),
    "timetz": Values("timetz", ("24:00:00+15:59", "12:00:00.000001+05:30", "00:00:00-15:59:59"),
                     st.tuples(times, st.integers(-959, 959).map(offset)).map("".join)),
    "interval": Values("interval", ("1 mon -1 day 00:00:00.000001", "infinity", "-infinity", "-1 mons +2 days -03:04:05.6",
                                    "178956970 years 7 mons"), intervals.map(interval)),
    "bit": Values("bit(5)", ("00000", "10101"), st.text("01", min_size=5, max_size=5)),
    "varbit": Values("varbit", ("", "1"), bits),
    "oid": Values("oid", ("0", "4294967295"), st.integers(0, 2**32 - 1).map(str)),
    "xid": Values("xid", ("0", "4294967295"), st.integers(0, 2**32 - 1).map(str)),
    "xid8": Values("xid8", ("18446744073709551615",), st.integers(0, 2**64 - 1).map(str)),
    "cid": Values("cid", ("4294967295",)),
    "tid": Values("tid", ("(4294967295,65535)", "(0,1)")),
    "pg_lsn": Values("pg_lsn", ("0/0", "FFFFFFFF/FFFFFFFF")),
    "pg_snapshot": Values("pg_snapshot", ("10:20:10,14,15",)),
    "txid_snapshot": Values("txid_snapshot", ("10:20:10,14,15",)),
    "regclass": Values("regclass", ("pg_class",)),
    "regcollation": Values("regcollation", ('"C"',)),
    "regconfig": Values("regconfig", ("english",)),
    "regdictionary": Values("regdictionary", ("simple",)),
    "regnamespace": Values("regnamespace", ("pg_catalog",)),
    "regoper": Values("regoper", ("||/",)),
    "regoperator": Values("regoperator", ("+(integer,integer)",)),
    "regproc": Values("regproc", ("now",)),
    "regprocedure": Values("regprocedure", ("abs(numeric)",)),
    "regrole": Values("regrole", ("pg_monitor",)),
    "regtype": Values("regtype", ("timestamp with time zone",)),
    "refcursor": Values("refcursor", ("c1",), words),
    "aclitem": Values("aclitem", ("pg_monitor=r/pg_monitor",)),
    "point": Values("point", ("(0.1,-0)", "(NaN,Infinity)", "(5e-324,1e308)"), points),
    "line": Values("line", ("{1,-1,0.1}",)),
    "lseg": Values("lseg", ("[(0,0.1),(1,1e-300)]",), st.tuples(points, points).map(lambda p: f"[{p[0]},{p[1]}]")),
    "box": Values("box", ("(1,0.1),(0,0)",), st.tuples(points, points).map(",".join)),
    "path": Values("path", ("[(0,0),(1,0.1)]", "((0,0),(1,0.1))"), outlines.map(lambda outline: f"[{outline}]")),
    "polygon": Values("polygon", ("((0,0),(1,0.1),(2,0))",), outlines.map(lambda outline: f"({outline})")),
    "circle": Values("circle", ("<(0,0.1),2>",)),
    "tsvector": Values("tsvector", ("", "'a':1A 'b c':2,3B 'it''s':4"), lexemes),
    "tsquery": Values("tsquery", ("'a' & ( 'b':*AB | !'c d' ) <2> 'e'",)),
    "jsonpath": Values("jsonpath", ('strict $."a"[*]?(@ > 1.10)',)),
    "int2vector": Values("int2vector", ("", "1 -2 3")),
    "oidvector": Values("oidvector", ("", "1 4294967295")),
    "int4range": Values("int4range", ("empty", "(,)", "[-2147483648,5)"), small.map(lambda i: f"[{i},{i + 7})")),
    "int8range": Values("int8range", ("empty", "[5,)")),
    "numrange": Values("numrange", ("[-Infinity,1.10]", "(NaN,)", "[1.1,1.10]"), small.map(lambda i: f"({i}.50,{i + 1}.0]")),
    "tsrange": Values("tsrange", ("[-infinity,infinity]", '["0044-03-15 12:00:00 BC",)')),
    "tstzrange": Values("tstzrange", ("[-infinity,infinity]", '["2025-01-01 00:00:00.000001+00",)')),
    "daterange": Values("daterange", ("(,infinity]", "[2025-01-01,2025-02-01)")),
    "int4multirange": Values("int4multirange", ("{}", "{[1,3),[5,7)}")),
    "int8multirange": Values("int8multirange", ("{}", "{(,3),[5,)}")),
    "nummultirange": Values("nummultirange", ("{[1.10,2.0],(3,4)}",)),
    "tsmultirange": Values("tsmultirange", ('{["2025-01-01 00:00:00","2025-01-02 00:00:00")}',)),
    "tstzmultirange": Values("tstzmultirange", ('{["2025-01-01 00:00:00+00",)}',)),
    "datemultirange": Values("datemultirange", ("{[2025-01-01,infinity)}",)),
}  # fmt: skip
"""By name in `pg_type`; `decimal(p,s)` for numeric with a precision."""

MADE: dict[str, Values] = {
    "enum": Values("mood", ("sad", "so, so")),
    "domain": Values("cents", ("12.34", "0.00"), st.decimals(0, 1000, places=2).map(str)),
    "composite": Values("pair", ('(1,"x y")', "(,)", '(1,"")', '(2,"a""b\\\\c")')),
    "hstore": Values("hstore", ("", '"a"=>"1", "b"=>NULL, "c d"=>""')),
    "vector": Values("vector(3)", ("[1,2.5,3e-07]", "[0,-0,1]")),
    "halfvec": Values("halfvec(2)", ("[1,65504]",)),
    "sparsevec": Values("sparsevec(3)", ("{1:1.5,3:-2}/3",)),
    "citext": Values("citext", ("Ab", ""), words),
    "ltree": Values("ltree", ("Top.Science.Astronomy", "")),
    "cube": Values("cube", ("(0.1, 2),(3, 4)",)),
    "seg": Values("seg", ("1.00 .. 2.0",)),
}
"""Types that a database has by its own making, or by an extension."""

MAKE = (
    "create type mood as enum ('sad', 'so, so')",
    "create domain cents as numeric(8,2) check (value >= 0)",
    "create type pair as (a int, b text)",
    *(f"create extension {name}" for name in ("hstore", "vector", "citext", "ltree", "cube", "seg")),
)


def array_text(texts: list[str | None]) -> str:
    """The text of an array of such values, or nulls."""
    quoted = ('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if text is not None else "null" for text in texts)
    return "{" + ",".join(quoted) + "}"


def value_text(value: Any) -> str | None:
    """The text, for Postgres, of a value as it is in the lake and in the warehouse."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, list):
        return array_text([value_text(element) for element in value])
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)
