"""Dagster's entry point, named by `workspace.yaml`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from assets import SOURCES  # noqa: E402
from lakehouse.orchestration import build_definitions  # noqa: E402

defs = build_definitions(SOURCES, dbt_project=ROOT / "dbt_project")
