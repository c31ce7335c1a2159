"""Write the pages, and the parts of pages, that follow from the code and from the benchmarks' results.

With `--check`, fail when one is out of step.
"""

from __future__ import annotations

import argparse
import ast
import json
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

import lakehouse
from lakehouse.cli import cli
from lakehouse.settings import Settings
from lakehouse.sources.mongodb.mapping import ANY
from lakehouse.sources.mongodb.mapping import RULES as BSON_RULES
from lakehouse.sources.postgres.mapping import DECIMAL, EVERYTHING_ELSE, RULES, TypeRule
from lakehouse.spec.types import arrow_field, declared_type
from lakehouse.tables.columns import spark_type
from lakehouse.tables.iceberg.schema import iceberg_type
from lakehouse.warehouse.clickhouse.layout import column_type

PACKAGE = Path(lakehouse.__file__).parent
DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
TESTS = DOCS.parent / "tests"
CRASH = "crash.json"
"""What `make crash` has counted: no benchmark."""


def commands_page() -> str:
    """Every command with its help, as it prints it."""
    parts = ["# Commands", "", "Written by `make docs` from the code. Exit codes: 0 done, 1 failed, 2 wrong use.", ""]
    for path, command in _commands(cli, "lakehouse"):
        with click.Context(command, info_name=path, max_content_width=110, terminal_width=110) as context:
            parts += [f"## `{path}`", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(parts)


def _commands(group: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from _commands(command, f"{path} {name}")


def settings_page() -> str:
    """Every setting with its variable, default and description."""
    parts = [
        "# Settings",
        "",
        "Written by `make docs` from the code. The environment wins over `lakehouse.toml`, which wins over what `lakehouse up`",
        "recorded, which wins over the default. In the file, a nested setting is a table: `[store]`, `url = …`.",
        "",
        "| variable | default | what it says |",
        "| --- | --- | --- |",
    ]
    parts += [f"| `{name}` | {default} | {text} |" for name, default, text in _settings(Settings, "LAKEHOUSE_")]
    return "\n".join(parts) + "\n"


def _settings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _settings(inner, variable + "__")
        elif name == "sources":
            yield from _settings(get_args(inner)[1], variable + "__<NAME>__")
        else:
            default = field.default
            if default is PydanticUndefined:
                text = "required" if field.is_required() else "number of cores"
            else:
                text = "" if default in (None, "") or isinstance(default, SecretStr) else f"`{default}`"
            yield variable, text, (field.description or "").replace("|", "\\|")


_TYPES_HEAD = ["| Postgres | declared | Arrow | Parquet | Iceberg | Delta | ClickHouse | refused by name | |", "| --- " * 9 + "|"]


def postgres_types() -> str:
    """The table of Postgres types, through every hop."""
    rows = []
    for rule in RULES:
        if rule.types == ("numeric",):
            rows.append(_type_row(DECIMAL))
        rows.append(_type_row(rule))
    return "\n".join([*_TYPES_HEAD, *rows])


def _type_row(rule: TypeRule) -> str:
    names = ", ".join(rule.types) if rule.types != (EVERYTHING_ELSE,) else "everything else"
    field = arrow_field("c", rule.declared.replace("(p,s)", "(12,5)"))
    return "| " + " | ".join([names, rule.declared, *_hops(field), rule.refused, rule.note]) + " |"


def _hops(field: pa.Field) -> list[str]:
    """A column's type in Arrow, Parquet, Iceberg, Delta and ClickHouse."""
    with pa.BufferOutputStream() as sink:
        pq.write_table(pa.schema([field]).empty_table(), sink)
        column = pq.ParquetFile(sink.getvalue()).schema.column(0)
    annotation = "" if column.logical_type.type == "NONE" else f" {_parquet_annotation(column)}"
    parquet = "group" if pa.types.is_nested(field.type) else column.physical_type.lower() + annotation
    hops = [str(field.type), parquet, str(iceberg_type(declared_type(field)))]
    hops.append(_delta(spark_type(declared_type(field))))
    hops.append(column_type(field, required=True))
    return [hop.replace("12, 5", "p, s").replace("12,5", "p,s") for hop in hops]


def _delta(type_: Any) -> str:
    """A Delta type as it is written in SQL."""
    if isinstance(type_, str):
        return type_
    if type_["type"] == "array":
        return f"array<{_delta(type_['elementType'])}>"
    return "struct<" + ", ".join(f"{field['name']}: {_delta(field['type'])}" for field in type_["fields"]) + ">"


_BSON_HEAD = ["| BSON | declared | Arrow | Parquet | Iceberg | Delta | ClickHouse | refused by name | |", "| --- " * 9 + "|"]


def bson_types() -> str:
    """The table of BSON types; the hops are those of the declared type that comes first."""
    rows = []
    for rule in BSON_RULES:
        usual = rule.declared[0] if rule.declared else ANY
        field = arrow_field("c", usual.replace("(p,s)", "(12,5)"))
        declared = "every type, as null" if rule.is_null else ", ".join((*rule.declared, ANY))
        cells = [rule.name, declared, *([""] * 5 if rule.is_null else _hops(field)), rule.refused, rule.note]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join([*_BSON_HEAD, *rows])


def _parquet_annotation(column: pq.ColumnSchema) -> str:
    kind: str = column.logical_type.type
    within = {"TIMESTAMP": "(us, UTC)", "DECIMAL": f"({column.precision}, {column.scale})"}
    return kind.lower() + within.get(kind, "")


def benchmark_results(name: str) -> str:
    """The results of a benchmark that are kept, as a table."""
    content = json.loads((RESULTS / f"{name}.json").read_text())
    machine = content["machine"]
    on = f"{machine['cores']} cores, {machine['memory_mb'] // 1024} GB, {machine['os']}, Python {machine['python']}"
    head = ["| | rows | seconds | CPU s | rows/s | peak MB | goal |", "| --- | ---: | ---: | ---: | ---: | ---: | --- |"]
    rows = [
        f"| {each['tool']} | {_count(each['rows'])} | {each['seconds']:.2f} | {each['cpu_seconds']:.2f} "
        f"| {_count(each['rows_per_s'])} | {each['peak_rss_mb']:.0f} | {_goal(each)} |"
        for each in content["results"]
    ]
    load = f"load {machine['load_average']} when it began"
    return "\n".join([f"Measured on {on}, {load}; the median of the runs.", "", *head, *rows])


def _count(number: float) -> str:
    return f"{number:,.0f}" if number else ""


def _goal(result: dict[str, Any]) -> str:
    if result["goal_seconds"] is None:
        return ""
    return f"< {result['goal_seconds']:.3g} s: {'met' if result['goal_met'] else 'not met'}"


def crash_results() -> str:
    """What the last `make crash` that was kept has counted."""
    parts = json.loads((RESULTS / CRASH).read_text())["parts"]
    names = [name.replace("_", " ") for name in next(iter(parts.values()))]
    lines = [["", *names], ["---", *["---:"] * len(names)]]
    for part, counted in parts.items():
        lines.append([part, *(f"{value:,}" if isinstance(value, int) else str(value) for value in counted.values())])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def source_changes() -> str:
    """What becomes of a change of a source: the cases of the tests that execute them."""
    cases = runpy.run_path(str(TESTS / "source_changes.py"))
    lines = ["| in the source | here |", "| --- | --- |"]
    for kind, title in (("POSTGRES", "Postgres"), ("MONGODB", "MongoDB")):
        for case in cases[kind]:
            rebuilt = f"; `lakehouse rebuild`: {case.rebuilt}" if case.rebuilt else ""
            lines.append(f"| {title}: {case.what} | {case.happens}{rebuilt} |")
    return "\n".join(lines)


def fault_points() -> str:
    """The fault points of the code, each with the functions that it stands in."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for scope in ast.walk(ast.parse(path.read_text())):
            if isinstance(scope, ast.FunctionDef):
                for point in _points(scope):
                    name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
                    found.setdefault(point, set()).add(f"{name}.{scope.name}")
    lines = [f"| `{point}` | {', '.join(f'`{place}`' for place in sorted(places))} |" for point, places in sorted(found.items())]
    return "\n".join(["| point | where |", "| --- | --- |", *lines])


def _points(scope: ast.FunctionDef) -> Iterator[str]:
    for call in ast.walk(scope):
        if isinstance(call, ast.Call):
            named = [keyword.value for keyword in call.keywords if keyword.arg == "point"]
            if isinstance(call.func, ast.Name) and call.func.id == "effect":
                named += call.args[:1]
            yield from (str(node.value) for node in named if isinstance(node, ast.Constant))


def page_with_parts(name: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """A page as it is, with its generated parts anew."""
    text = (DOCS / name).read_text()
    for title, part in parts.items():
        begin, end = f"<!-- {title}: written by `make docs` -->\n", f"\n<!-- end of {title} -->"
        head, begun, rest = text.partition(begin)
        _, ended, tail = f"\n{rest}".partition(end)
        if not (begun and ended):
            raise SystemExit(f"docs/{name} has no place for its generated part: the lines {begin}{end.strip()}")
        text = head + begin + part() + end + tail
    return text


def pages() -> dict[str, str]:
    """Every page that is written or checked."""
    results = {
        f"results of {name}": partial(benchmark_results, name)
        for name in sorted(path.stem for path in RESULTS.glob("*.json"))
        if f"{name}.json" != CRASH
    }
    return {
        "commands.md": commands_page(),
        "settings.md": settings_page(),
        "sources.md": page_with_parts(
            "sources.md", {"postgres types": postgres_types, "BSON types": bson_types, "source changes": source_changes}
        ),
        "exactly-once.md": page_with_parts("exactly-once.md", {"crash results": crash_results, "fault points": fault_points}),
        "performance.md": page_with_parts("performance.md", results),
    }


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when a page is not what the code says")
    check = parser.parse_args().check
    stale = []
    for name, text in pages().items():
        path = DOCS / name
        if path.is_file() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text)
    if check and stale:
        sys.stderr.write(f"out of step with the code: {', '.join(stale)}; run `make docs`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
