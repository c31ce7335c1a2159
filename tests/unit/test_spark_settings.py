"""What Spark needs before it starts: found, or named with the remedy, before anything is begun."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from lakehouse.cli import cli
from lakehouse.errors import ConfigurationError, Unsupported
from lakehouse.settings import Settings, StoreSettings, current_settings
from lakehouse.tables.format import DataFile
from lakehouse.tables.spark.classes import archive_options, class_path_key, find_archive
from lakehouse.tables.spark.jars import COORDINATES, default_folder, find_jars, pinned
from lakehouse.tables.spark.java import check_java
from lakehouse.tables.spark.session import configuration


def fake_java(folder: Path, version: str) -> None:
    """A program `java` that says a version, as Java does."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    program.chmod(0o755)


@pytest.mark.parametrize("version", ["17.0.15", "21.0.2"])
def test_a_java_that_spark_runs_on_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    fake_java(tmp_path, version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert check_java() == tmp_path / "bin" / "java"


@pytest.mark.parametrize("version", ["25", "1.8.0_392", "11.0.1", "none"])
def test_another_java_is_named_with_the_versions_that_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    fake_java(tmp_path, version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match="Java 17 or 21") as raised:
        check_java()
    assert "openjdk-17-jre-headless" in str(raised.value)


def test_no_java_at_all_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="where JAVA_HOME leads"):
        check_java()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="no java on the PATH"):
        check_java()


def test_jars_that_are_not_there_are_named_with_the_command_that_brings_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="8 of 8 are not there") as raised:
        find_jars(tmp_path)
    assert "lakehouse spark jars" in str(raised.value)


def test_every_jar_of_the_list_is_pinned_and_no_other() -> None:
    names = {"{}_{}-{}.jar".format(*coordinate.split(":")) for coordinate in COORDINATES}
    assert set(pinned()) == names
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in pinned().values())


def test_the_jars_are_kept_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder().parent.parent == tmp_path


def test_an_archive_of_classes_that_was_cut_off_is_not_given_to_java(tmp_path: Path) -> None:
    fake_java(tmp_path, "17.0.15")
    java, jars = tmp_path / "bin" / "java", [tmp_path / "jars" / name for name in ("a.jar", "b.jar")]
    jars[0].parent.mkdir()
    name = f"classes-{class_path_key(java, jars)}-7.jsa"
    (jars[0].parent / name).write_bytes(b"1234567")
    archive = find_archive(java, jars)
    assert archive == jars[0].parent / name
    assert str(archive) in archive_options(archive)
    assert find_archive(java, jars[:1]) is None, "an archive is of one class path"
    archive.write_bytes(b"123456")
    assert find_archive(java, jars) is None
    assert archive_options(None) == ""


def test_spark_refuses_a_file_of_which_another_tool_deleted_rows_and_says_which_engine_takes_it() -> None:
    from lakehouse.tables.spark.engine import refuse_deletes

    plain = DataFile("s3://lake/a.parquet", "all", 2, 10)
    refuse_deletes("shop.users", {"all": [plain]})
    with pytest.raises(Unsupported, match="LAKEHOUSE_ENGINE=embedded"):
        refuse_deletes("shop.users", {"all": [plain, replace(plain, deletes=("s3://lake/a-deletes.parquet",))]})


def settings_with_secrets(tmp_path: Path) -> Settings:
    store = {"url": "s3://lake/x", "endpoint": "http://127.0.0.1:9", "access_key": "the-key", "secret_key": "the-secret"}
    catalog = {"url": "postgresql://me:the-password@127.0.0.1:5/db"}
    return Settings.model_validate({"home": tmp_path, "store": StoreSettings.model_validate(store), "catalog": catalog})


def test_every_line_of_spark_s_configuration_has_a_reason_and_is_there_once(tmp_path: Path) -> None:
    lines = configuration(settings_with_secrets(tmp_path))
    assert all(line.reason for line in lines)
    assert len({line.key for line in lines}) == len(lines)
    found = {line.key: line.value for line in lines}
    assert found["spark.hadoop.fs.s3a.endpoint"] == "http://127.0.0.1:9"
    assert found["spark.sql.catalog.lakehouse.jdbc.password"] == "the-password"
    secrets = {line.value for line in lines if line.is_secret}
    assert secrets == {"the-key", "the-secret", "the-password"}


def test_spark_conf_shows_the_configuration_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LAKEHOUSE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKEHOUSE_STORE__URL", "s3://lake")
    monkeypatch.setenv("LAKEHOUSE_STORE__ACCESS_KEY", "the-key")
    monkeypatch.setenv("LAKEHOUSE_STORE__SECRET_KEY", "the-secret")
    monkeypatch.setenv("LAKEHOUSE_SPARK__CONF", '{"spark.eventLog.enabled": "true"}')
    current_settings.cache_clear()
    shown = CliRunner().invoke(cli, ["spark", "conf"])
    current_settings.cache_clear()
    assert shown.exit_code == 0
    assert "spark.eventLog.enabled" in shown.output
    assert "the-secret" not in shown.output
