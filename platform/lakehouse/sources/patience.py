"""How long a source may keep us waiting."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """Seconds in which a source must accept a connection, and in which it must answer (`SourceSettings`)."""

    connect_seconds: float = 10
    answer_seconds: float = 300
