"""What stands in the database under the names of one table, asked in one statement: each question is a round trip."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lakehouse.errors import TerminalError
from lakehouse.spec import Marker
from lakehouse.warehouse.clickhouse.client import ClickHouseClient
from lakehouse.warehouse.clickhouse.layout import literal
from lakehouse.warehouse.publisher import Published


@dataclass(frozen=True)
class Standing:
    """A table or a view. content: what we wrote into its comment; None where it is not ours. rows, bytes: 0 of a view."""

    engine: str
    uuid: str
    content: dict[str, Any] | None
    rows: int = 0
    bytes: int = 0

    @property
    def view(self) -> dict[str, str] | None:
        """Of a view of ours, what it hides and the digest of its statement."""
        return self.content.get("view") if self.content and self.engine == "View" else None

    @property
    def of(self) -> str | None:
        """Of a table of ours that is under a view, the view's name."""
        return (self.content or {}).get("of")

    @property
    def keys(self) -> str:
        """Of a published table, what was declared as its keys."""
        return str((self.content or {}).get("keys", ""))

    @property
    def published(self) -> Published | None:
        """What its marker says; None where it has none of ours."""
        if self.content is None or "sequence" not in self.content:
            return None
        marker = Marker(int(self.content["sequence"]), int(self.content["rows"]), str(self.content["checksum"]))
        return Published(marker, int(self.content["version"]), self.rows, self.bytes)


def look(client: ClickHouseClient, database: str, *names: str) -> Mapping[str, Standing]:
    """What stands under these names, by name; a name that is free is left out."""
    listed = ", ".join(map(literal, names))
    rows = client.rows(
        "SELECT name, engine, toString(uuid), comment, ifNull(total_rows, 0), ifNull(total_bytes, 0) FROM system.tables "
        f"WHERE database = {literal(database)} AND name IN ({listed})",
        f"looking at {database}.{names[0]} in the warehouse",
    )
    return {
        str(name): Standing(str(engine), str(uuid), written_in(str(comment)), int(count), int(size))
        for name, engine, uuid, comment, count, size in rows
    }


def written_in(comment: str) -> dict[str, Any] | None:
    """What we wrote into the comment of a table or a view; None where we did not."""
    try:
        content = json.loads(comment)["lakehouse"]
    except (ValueError, KeyError, TypeError):
        return None
    return content if isinstance(content, dict) else None


def foreign(database: str, name: str) -> TerminalError:
    """The error of finding a table that is not ours where ours should be."""
    return TerminalError(
        f"looking at {database}.{name} in the warehouse",
        value="a table of this name that the platform did not publish",
        allowed="no table, or one that the platform published",
        remedy="Rename or drop it, or set LAKEHOUSE_WAREHOUSE__DATABASE to another database.",
    )
