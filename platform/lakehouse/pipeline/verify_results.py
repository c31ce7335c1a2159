"""What every verification found, kept as a table of the warehouse: `lakehouse_verifications`, a row for each copy of each table.

The view `lakehouse_verified` has a row for each stretch of time in which a copy was found equal, or different: since when, until
when, how often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.verify import TableReport

RESULTS = "lakehouse_verifications"
SCHEMA = pa.schema(
    [
        pa.field("verified_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("table", pa.string(), nullable=False),
        pa.field("copy", pa.string(), nullable=False),
        pa.field("deep", pa.bool_(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("checksum", pa.string(), nullable=False),
        pa.field("equal", pa.bool_(), nullable=False),
        pa.field("differs", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
        pa.field("pending", pa.int64(), nullable=False),
        pa.field("rows_read", pa.int64(), nullable=False),
        pa.field("rows_taken", pa.int64(), nullable=False),
        pa.field("taken_since", pa.timestamp("us", "UTC")),
    ]
)

VIEW = """
create view if not exists {database}.lakehouse_verified as
select source, table, copy, equal, min(verified_at) as since, max(verified_at) as until, count() as verifications,
  argMax(differs, verified_at) as differs, argMax(problem, verified_at) as problem
from (
  select *, sum(turned) over (partition by source, table, copy order by verified_at) as stretch
  from (
    select source, table, copy, equal, verified_at, differs, problem,
      equal != lagInFrame(equal, 1, equal) over (
        partition by source, table, copy order by verified_at rows between unbounded preceding and unbounded following
      ) as turned
    from {database}.lakehouse_verifications
  )
)
group by source, table, copy, equal, stretch
"""


def keep_results(
    deployment: Deployment, reports: Sequence[TableReport], *, run: str = "", on_event: Callable[[str], None] = lambda _: None
) -> bool:
    """Add the reports of one verification to the table; when the warehouse does not take them, that is said (False).

    run: what made it, a Dagster run id or nothing.
    """
    if not reports:
        return True
    now = datetime.now(UTC)
    rows = pa.Table.from_pylist([row for report in reports for row in _rows(report, now, run)], schema=SCHEMA)
    try:
        deployment.warehouse.append_rows(RESULTS, rows, ("source", "table", "copy", "verified_at"), VIEW)
    except LakehouseError as error:
        on_event(f"the results could not be kept in the warehouse: {error.value or error}")
        return False
    return True


def _rows(report: TableReport, now: datetime, run: str) -> list[dict[str, object]]:
    source, _, table = report.table.partition(".")
    return [
        {
            "verified_at": now,
            "run": run,
            "source": source,
            "table": table,
            "copy": copy.copy,
            "deep": report.deep,
            "sequence": copy.sequence,
            "rows": copy.rows,
            "checksum": copy.checksum,
            "equal": copy.equal,
            "differs": list(copy.differs),
            "problem": copy.problem,
            "pending": copy.pending,
            "rows_read": copy.read,
            "rows_taken": copy.taken,
            "taken_since": copy.since,
        }
        for copy in report.copies
    ]
