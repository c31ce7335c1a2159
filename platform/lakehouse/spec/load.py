"""How much a source may be asked at once: it belongs to an application that has other work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from lakehouse.errors import DeclarationError


@dataclass(frozen=True)
class Load:
    """What reading may cost a source.

    connections: sessions that read rows at the same time, over all tables. pause: rest of each of them between one range of rows
    and the next. statement_timeout: the server ends a statement of ours that runs longer; lock_timeout: one that waits longer for
    a lock. Zero: no limit.
    """

    connections: int = 4
    pause: timedelta = timedelta(0)
    statement_timeout: timedelta = timedelta(hours=1)
    lock_timeout: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        if self.connections < 1:
            raise DeclarationError(
                "declaring a load: field 'connections'",
                value=self.connections,
                allowed="1 or more",
                remedy="Write connections=1.",
            )
        for name in ("pause", "statement_timeout", "lock_timeout"):
            if getattr(self, name) < timedelta(0):
                raise DeclarationError(
                    f"declaring a load: field {name!r}",
                    value=getattr(self, name),
                    allowed="zero or more",
                    remedy=f"Write {name}=timedelta(seconds=10).",
                )
