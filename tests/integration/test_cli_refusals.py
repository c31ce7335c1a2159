"""What the command refuses, and two of it at once, on a small demo."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deployments import Project, demo_project


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with demo_project() as project:
        yield project


@pytest.mark.parametrize(
    ("arguments", "found", "allowed"),
    [
        (("run", "--from", "1999-01-01", "--to", "1999-01-02"), "1999-01-01", "2025-01-01"),
        (("run", "--from", "2026-01-01"), "only one of --from and --to", "both or none"),
        (("run", "--select", "chronochat.nothing"), "chronochat.nothing", "chronochat.users"),
        (("verify", "nothing"), "nothing", "chronochat.users"),
        (("sql", "select 1", "--on", "nowhere"), "nowhere", "warehouse"),
        (("rollback", "chronochat", "--to", "1"), "chronochat", "one table"),
    ],
)
def test_wrong_use_says_what_was_found_and_what_is_allowed(
    project: Project, arguments: tuple[str, ...], found: str, allowed: str
) -> None:
    refused = project.lakehouse(*arguments, ends=2)
    assert f"found:   {found}" in refused.err
    assert allowed in refused.err
    assert "do next:" in refused.err


def test_two_runs_at_once_end_well_and_nothing_is_doubled(project: Project) -> None:
    project.lakehouse("demo", "tick")
    runs = [project.started("run", "--no-show"), project.started("run", "--no-show")]
    codes = [run.end() for run in runs]
    assert codes == [0, 0], [run.text for run in runs]
    project.verify()
