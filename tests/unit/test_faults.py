"""Fault points: each effect outside of the process has one, and a fault does what it is told."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lakehouse
from lakehouse import faults
from lakehouse.errors import WrongUse
from lakehouse.faults import FaultInjected, effect

PACKAGE = Path(lakehouse.__file__).parent
HOPS = ("stores", "raw", "tables", "warehouse/clickhouse", "pipeline", "orchestration/dbt.py")
"""What moves rows; the embedded servers and Dagster's own storage are beside it."""
EFFECTS = re.compile(
    r"obstore\.(put|delete|copy|rename)|os\.(link|replace|rename)|.*\.unlink|.*\.commit_transaction|producer\.commit"
    r"|.*\)\.commit|session\.commit|.*\.create_namespace\w*|SqlCatalog\._write_metadata|.*\.drop_table|.*\.(command|raw_insert)|dbt\.build"
)
"""Calls of libraries that change something outside of the process."""
LOCAL = {"unfinished.unlink", "path.unlink", "local.path.unlink", "local.unlink", "file.path.unlink", "file.unlink"}
"""Files of the process's own, that nobody else reads; in the folder store `file.unlink` deletes an object."""


def modules() -> Iterator[Path]:
    for hop in HOPS:
        place = PACKAGE / hop
        yield from [place] if place.is_file() else sorted(place.rglob("*.py"))


def unmarked(tree: ast.AST, local: set[str]) -> Iterator[tuple[int, str]]:
    """Effects that stand in no `with effect(...)`: line and call."""
    marked = {
        id(call)
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and any(is_effect(item.context_expr) for item in block.items)
        for call in ast.walk(block)
    }
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and id(call) not in marked:
            name = ast.unparse(call.func)
            if EFFECTS.fullmatch(name) and name not in local:
                yield call.lineno, name


def is_effect(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "effect"


def test_every_effect_outside_of_the_process_has_a_fault_point() -> None:
    missing = []
    for path in modules():
        local = LOCAL - {"file.unlink"} if path.parent.name == "stores" else LOCAL
        missing += [f"{path.relative_to(PACKAGE)}:{line} {name}" for line, name in unmarked(ast.parse(path.read_text()), local)]
    assert missing == []


def test_an_effect_without_a_fault_point_would_be_found() -> None:
    bare = "def f(self):\n    obstore.put(self._store, path, data)\n    with effect('store.put'):\n        obstore.put(1)\n"
    assert list(unmarked(ast.parse(bare), LOCAL)) == [(2, "obstore.put")]


def points_in_the_code() -> set[str]:
    """The names of all fault points."""
    text = "".join(path.read_text() for path in modules())
    return set(re.findall(r'(?:effect\(|point=)"([a-z_.]+)"', text))


def test_every_fault_point_is_listed_in_the_documentation() -> None:
    points = points_in_the_code()
    page = (PACKAGE.parent.parent / "docs" / "exactly-once.md").read_text()
    assert len(points) > 15
    assert {point for point in points if f"`{point}`" not in page} == set()


@pytest.fixture
def armed() -> Iterator[None]:
    yield
    faults.watch(None)


@pytest.mark.usefixtures("armed")
def test_an_error_before_leaves_the_effect_undone_and_one_after_hides_that_it_was_done() -> None:
    for moment, expected in (("before", []), ("after", ["done"])):
        done: list[str] = []
        faults.arm(f"store.put:{moment}:error")
        with pytest.raises(FaultInjected), effect("store.put"):
            done.append("done")
        assert done == expected


@pytest.mark.usefixtures("armed")
def test_a_fault_happens_once_at_the_passage_that_it_names() -> None:
    faults.arm("store.put:before:error:2")
    passed = []
    for number in range(4):
        try:
            with effect("store.upload"), effect("store.put"):
                passed.append(number)
        except FaultInjected:
            passed.append(-1)
    assert passed == [0, -1, 2, 3]


@pytest.mark.parametrize("fault", ["", "store.put", "store.put:during:kill", "store.put:before:explode", "a:before:kill:0"])
def test_a_fault_that_is_not_one_is_refused_with_what_is_allowed(fault: str) -> None:
    with pytest.raises(WrongUse, match=r"before\|after:kill\|hang\|error"):
        faults.arm(fault)


def test_a_kill_takes_the_whole_process_group_with_it() -> None:
    script = "from lakehouse.faults import effect\nwith effect('store.put'):\n    print('done')"
    variables = {**os.environ, faults.VARIABLE: "store.put:after:kill"}
    ended = subprocess.run([sys.executable, "-c", script], env=variables, start_new_session=True, check=False)
    assert ended.returncode == -signal.SIGKILL
