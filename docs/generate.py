"""Write `docs/commands.md` and `docs/settings.md` from the code; with `--check`, fail when they are out of step."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

from lakehouse.cli import cli
from lakehouse.settings import Settings

DOCS = Path(__file__).parent


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


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when a page is not what the code says")
    check = parser.parse_args().check
    stale = []
    for name, text in (("commands.md", commands_page()), ("settings.md", settings_page())):
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
