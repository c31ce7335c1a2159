"""The shape of the tree: what would break quietly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lakehouse
from lakehouse import errors

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "platform" / "lakehouse"


def test_the_source_root_is_no_package_or_it_would_shadow_the_standard_library() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    found = subprocess.run(
        [sys.executable, "-c", "import platform; print(platform.system())"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip()


def test_no_module_has_more_than_five_hundred_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert long == {}


def test_the_public_names_are_those_that_the_package_says() -> None:
    assert {name for name in vars(lakehouse) if name in lakehouse.__all__} == set(lakehouse.__all__)
    assert sorted(lakehouse.__all__) == [
        "Column",
        "Expect",
        "Load",
        "Partitioning",
        "Source",
        "Table",
        "bucket",
        "days",
        "identity",
        "months",
        "unpartitioned",
    ]


def test_the_error_tree_is_drawn_as_it_is() -> None:
    assert errors.__doc__ is not None
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.LakehouseError)]
    for error in classes:
        assert error.__name__ in errors.__doc__


def test_declarations_read_like_a_description_and_import_only_public_names() -> None:
    for path in (ROOT / "assets").glob("*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) < 120, path
        for line in lines:
            if line.startswith(("import lakehouse", "from lakehouse")):
                assert line.startswith("from lakehouse import"), f"{path}: {line}"
