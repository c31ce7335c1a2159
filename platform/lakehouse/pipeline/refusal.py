"""Why a table cannot be read as it is declared."""

from __future__ import annotations

from lakehouse.errors import LakehouseError, TerminalError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.rows.privacy import check_privacy
from lakehouse.sources.reader import SourceReader
from lakehouse.spec import Table
from lakehouse.spec.history import refuse_interval_names


def refusal(deployment: Deployment, reader: SourceReader, table: Table) -> LakehouseError | None:
    """Why a table cannot be read as it is declared. Raises ConfigurationError and SourceUnavailable, which are the source's."""
    try:
        reader.check([table])
        refuse_interval_names(table, reader.schema(table).names)
        check_privacy(table, reader.schema(table), deployment.settings.privacy_key.get_secret_value())
    except TerminalError as error:
        if type(error).__name__ == "ConfigurationError":
            raise
        return error
    return None
