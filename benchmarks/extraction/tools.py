"""Other tools, each at its best settings: one Postgres table to zstd Parquet in a folder, in an environment of their own.

`python tools.py TOOL TABLE ROWS FOLDER`, with the address in DATABASE_URL. Prints, as its last line, `{"rows": n, "seconds": s,
"cpu_seconds": c}`, the time without the start of the interpreter and the tool's own imports.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

URL = os.environ["DATABASE_URL"]
BATCH = 65_536


def duckdb(table: str, rows: int, folder: str) -> None:
    """DuckDB's Postgres scanner, two threads, small row groups without a dictionary."""
    import duckdb
    import duckdb_extensions

    connection = duckdb.connect(config={"threads": 2, "preserve_insertion_order": False})
    duckdb_extensions.import_extension("postgres_scanner", con=connection)
    connection.execute(f"attach '{URL}' as source (type postgres, read_only)")
    connection.execute(
        f"copy (from source.{table}) to '{folder}/rows.parquet' (format parquet, compression zstd, compression_level 1,"
        " row_group_size 20480, dictionary_size_limit 1)"
    )


def adbc(table: str, rows: int, folder: str) -> None:
    """ADBC's driver, Parquet by pyarrow without a dictionary."""
    import adbc_driver_postgresql.dbapi
    import pyarrow.parquet as pq

    with adbc_driver_postgresql.dbapi.connect(URL) as connection, connection.cursor() as cursor:
        cursor.execute(f"select * from {table}")
        reader = cursor.fetch_record_batch()
        with pq.ParquetWriter(
            f"{folder}/rows.parquet", reader.schema, compression="zstd", compression_level=1, use_dictionary=False
        ) as writer:
            for batch in reader:
                writer.write_batch(batch)


def connectorx(table: str, rows: int, folder: str) -> None:
    """connectorx, two partitions; a table with types that it cannot read has them as text."""
    import connectorx
    import pyarrow.parquet as pq

    columns = "*" if table == "narrow" else "*, numbers::text as numbers_text, labels::text as labels_text"
    found = connectorx.read_sql(
        URL, f"select {columns} from {table}", return_type="arrow", partition_on="id", partition_num=2, partition_range=(1, rows)
    )
    pq.write_table(found, f"{folder}/rows.parquet", compression="zstd", compression_level=1, use_dictionary=False)


def dlt(table: str, rows: int, folder: str) -> None:
    """dlt's sql_database with its connectorx backend, to Parquet files."""
    os.environ["DESTINATION__FILESYSTEM__BUCKET_URL"] = f"file://{folder}"
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["DLT_DATA_DIR"] = folder
    os.environ["NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION"] = "true"
    import dlt
    from dlt.sources.sql_database import sql_table

    pipeline = dlt.pipeline("bench", destination="filesystem", dataset_name="rows", pipelines_dir=f"{folder}/state")
    resource = sql_table(
        URL.replace("postgresql://", "postgresql+psycopg2://"),
        table=table,
        backend="connectorx",
        backend_kwargs={"conn": URL, "partition_on": "id", "partition_num": 2, "partition_range": (1, rows)},
    )
    pipeline.run(resource, loader_file_format="parquet").raise_on_failed_jobs()


TOOLS = {"duckdb": duckdb, "adbc": adbc, "connectorx": connectorx, "dlt": dlt}
IMPORTS = {
    "duckdb": ("duckdb", "duckdb_extensions"),
    "adbc": ("adbc_driver_postgresql.dbapi", "pyarrow.parquet"),
    "connectorx": ("connectorx", "pyarrow.parquet"),
    "dlt": ("dlt", "dlt.sources.sql_database", "connectorx"),
}


def main() -> None:
    """Do what the arguments say, and print what it cost."""
    tool, table, rows, folder = sys.argv[1:]
    for module in IMPORTS[tool]:
        importlib.import_module(module)
    began, cpu = time.monotonic(), time.process_time()
    TOOLS[tool](table, int(rows), folder)
    print(json.dumps({"rows": int(rows), "seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
