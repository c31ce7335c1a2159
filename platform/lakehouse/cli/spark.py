"""`spark`: what Spark needs before it can be the engine."""

from __future__ import annotations

import click

from lakehouse.cli.terminal import print_table, say, size_of
from lakehouse.settings import current_settings


@click.group()
def spark() -> None:
    """Spark as the engine that builds lake tables (LAKEHOUSE_ENGINE=spark): its jars, and its configuration."""


@spark.command()
def jars() -> None:
    """Bring the pinned jars by Spark's own resolver, once for all deployments of a user, and prove each by its checksum.

    Java then keeps Spark's classes in an archive beside them, so that a session starts sooner.

    A mirror or a proxy is named as Spark knows it: LAKEHOUSE_SPARK__CONF='{"spark.jars.ivySettings": "/path/ivysettings.xml"}'.
    """
    from lakehouse.tables.spark.classes import make_archive
    from lakehouse.tables.spark.jars import bring_jars, default_folder
    from lakehouse.tables.spark.java import check_java

    settings = current_settings()
    check_java()
    folder = settings.spark.jars or default_folder()
    found = bring_jars(folder, settings.spark.conf)
    say(f"{len(found)} jars, {size_of(sum(path.stat().st_size for path in found))}, in {folder}")
    archive = make_archive(found)
    say(
        f"Java keeps Spark's classes in {archive}"
        if archive
        else "Java keeps no archive of Spark's classes: each start loads them"
    )


@spark.command()
@click.option(
    "--server",
    is_flag=True,
    help="Print the properties file of a Connect server; the store's keys are in it.",
)
def conf(server: bool) -> None:
    """Show Spark's configuration, each line with its reason; secrets are left out."""
    from lakehouse.tables.spark.session import configuration, server_properties

    settings = current_settings()
    if server:
        for key, value in server_properties(settings).items():
            escaped = value.replace("\\", "\\\\")
            click.echo(f"{key} {escaped}")
        return
    rows = [(line.key, "***" if line.is_secret else line.value, line.reason) for line in configuration(settings)]
    own = [(key, value, "LAKEHOUSE_SPARK__CONF") for key, value in settings.spark.conf.items()]
    print_table(("key", "value", "reason"), rows + own)
