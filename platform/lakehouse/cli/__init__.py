"""The command `lakehouse`: thin over `pipeline`, `services` and Dagster.

Exit codes: 0 done, 1 failed (or a difference was found), 2 wrong use. Each command's module is imported when it is called.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import threading
from contextlib import suppress
from typing import Any

import click

from lakehouse.errors import LakehouseError, WrongUse

_COMMANDS = {
    "up": "servers",
    "down": "servers",
    "env": "servers",
    "ui": "servers",
    "demo": "demo",
    "plan": "plan",
    "run": "run",
    "verify": "verify",
    "status": "look",
    "tables": "look",
    "show": "look",
    "sql": "sql",
    "diff": "diff",
    "connect": "connect",
    "rollback": "versions",
    "tag": "versions",
    "repair": "repair",
    "rebuild": "rebuild",
    "quarantine": "quarantine",
    "maintain": "maintain",
    "orphans": "orphans",
    "backup": "backup",
    "restore": "backup",
    "spark": "spark",
}


class Commands(click.Group):
    """Commands that load their module when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None for an unknown name."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"lakehouse.cli.{_COMMANDS[cmd_name]}"), cmd_name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lakehouse", message="lakehouse %(version)s")
def cli() -> None:
    """A lakehouse on one machine or many: from your databases to daily statistics, exactly once, and provably so."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command and exit with its code; errors of the platform are printed without a traceback."""
    try:
        # Without its standalone mode click returns the code of a command that ended by `click.exceptions.Exit`.
        sys.exit(cli.main(arguments, standalone_mode=False) or 0)
    except WrongUse as error:
        click.echo(f"lakehouse: {error}", err=True)
        sys.exit(2)
    except LakehouseError as error:
        click.echo(f"lakehouse: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("lakehouse: stopped", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


def console() -> None:
    """`main` as a process of its own.

    After its exit handlers the interpreter only frees memory, object by object: half a second for the libraries that a short
    command has imported. The system does that at once.
    """
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    # What is still running in threads is waited for as ever, and handlers run; then nothing is left to do.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)
