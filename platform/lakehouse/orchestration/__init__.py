"""The binding to Dagster and dbt: what `platform/definitions.py` and `assets/` build on."""

from lakehouse.orchestration.definitions import build_definitions

__all__ = ["build_definitions"]
