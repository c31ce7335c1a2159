"""Fixtures of the whole path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deployments import Project, demo_project


@pytest.fixture(scope="session")
def demo() -> Iterator[Project]:
    """A project with a small demo, run once; whoever changes it leaves it with every copy equal."""
    with demo_project() as project:
        yield project
