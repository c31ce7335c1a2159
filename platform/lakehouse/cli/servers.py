"""`up`, `down`, `env`, `ui`: the servers of the deployment."""

from __future__ import annotations

import json
import shlex
import time

import click

from lakehouse import services
from lakehouse.cli.session import recorded_settings, running_settings, source_kinds
from lakehouse.cli.terminal import print_table, say
from lakehouse.settings import load_settings


@click.command()
def up() -> None:
    """Start the embedded servers and wait until each answers. What runs already stays as it is."""
    started = time.monotonic()
    settings = load_settings()
    found = services.start(settings, source_kinds(settings), on_event=say)
    print_table(("service", "address"), sorted(found.addresses.items()))
    say(f"up in {time.monotonic() - started:.1f} s; `lakehouse env` prints how to reach them")


@click.command()
@click.option("--wipe", is_flag=True, help="Also remove all data, logs and recorded addresses.")
def down(wipe: bool) -> None:
    """Stop everything that `up` and `ui` started."""
    stopped = services.stop(load_settings(), wipe=wipe, on_event=say)
    say(f"stopped: {', '.join(stopped) or 'nothing was running'}{'; data removed' if wipe else ''}")


@click.command()
@click.option(
    "--format", "form", type=click.Choice(["shell", "json"]), default="shell", help="How to print it.", show_default=True
)
def env(form: str) -> None:
    """Print the environment in which dbt, psql, Dagster and your own tools find everything. It holds passwords."""
    values = services.environment(recorded_settings())
    if form == "json":
        click.echo(json.dumps(values, indent=2))
        return
    for name, value in values.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@click.command()
@click.option("--stop", "stopping", is_flag=True, help="Stop the web server and the daemon; the other servers go on.")
def ui(stopping: bool) -> None:
    """Start Dagster's web server and daemon in the background, and print the address."""
    if stopping:
        say(f"stopped: {', '.join(services.stop_ui(load_settings(), on_event=say)) or 'nothing was running'}")
        return
    click.echo(services.start_ui(running_settings(), on_event=say))
