"""Fixtures of recovery: the whole path on all four servers, as the integration tests have it."""

from __future__ import annotations

from tests.integration.conftest import shop

__all__ = ["shop"]
