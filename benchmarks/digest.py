"""One way of digesting rows that are in memory, in the process that runs it: `python -m benchmarks.digest WAY ROWS`.

Prints, as its last line, `{"rows": n, "seconds": s, "cpu_seconds": c}`. `columns` is what this project does; `text` is what it
did before: DuckDB's MD5 of a text made of the row's values. Both on one core, over 8 columns as those of an API log.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import pyarrow as pa

from lakehouse.rows.checksum import checksum_of
from lakehouse.rows.duck import connect_duckdb

_BATCH = 65_536
_TABLE = """
select i as id, i % 2000 as user_id, '/api/v1/things/' || i % 97 as endpoint, ['GET', 'POST', 'PUT'][1 + i % 3] as method,
       200 + i % 5 as status, (i % 977)::integer as duration, (i % 3 = 0) as cached,
       timestamptz '2026-01-01 00:00:00+00' + interval 1 second * (i % 2592000) as created_at
from range({rows}) as r(i)
"""


def columns(table: pa.Table) -> None:
    """The digest of `lakehouse.rows.digest`, summed."""
    checksum_of(table.to_batches(_BATCH), table.schema)


def text(table: pa.Table) -> None:
    """The lower half of the MD5 of each row's values as text, summed."""
    values = ", ".join(f"coalesce(length({name}::varchar) || ':' || {name}::varchar, '-')" for name in table.column_names)
    duckdb = connect_duckdb(threads=1)
    duckdb.register("rows_in_memory", table)
    duckdb.execute(f"select sum(md5_number_lower(concat({values}))) from rows_in_memory").fetchall()


WAYS: dict[str, Callable[[pa.Table], None]] = {"columns": columns, "text": text}


def main(way: str, rows: int) -> None:
    """Make the rows, digest them, and tell what that took."""
    table = connect_duckdb().execute(_TABLE.format(rows=rows)).to_arrow_table()
    began, cpu = time.perf_counter(), time.process_time()
    WAYS[way](table)
    cost = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps({"rows": rows, **cost}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
