"""What applies a change to a table: this project with each engine, and the tools that it stands on, each in its own words.

The others prove nothing and keep no marker: their work is the rows alone. A tool that does not find the touched days by itself is
told them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.folds.data import SOURCE, Prepared
from lakehouse.rows.duck import connect_duckdb, literal
from lakehouse.tables import open_tables
from lakehouse.tables.delta.opening import storage_options
from lakehouse.tables.filesystem import opener
from lakehouse.tables.iceberg.catalog import LakeCatalog

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DAY = "made_at_day"
Apply = Callable[[Prepared], Any]


def lakehouse(prepared: Prepared) -> None:
    """An apply, as `lakehouse run` does it."""
    log = prepared.log
    applied = open_tables(prepared.settings, prepared.store).apply(SOURCE, prepared.events.table, log.entries(), log.folder)
    assert applied.entries == 1


def spark_sql(prepared: Prepared) -> None:
    """The same in Spark's SQL, in a session of the same configuration."""
    session, events = session_of(prepared), prepared.events
    session.read.parquet(*prepared.change).createOrReplaceTempView("raw")
    iceberg = events.format == "iceberg"
    name = f"{SOURCE}.{events.table.name}"
    table = f"`{prepared.settings.catalog.name}`.{name}" if iceberg else f"delta.`{_place(prepared)}`"
    columns = "*" if iceberg else f"*, cast(cast(made_at as date) as string) as {DAY}"
    change = f"select {columns} from raw"
    if events.scenario == "fold":
        newest = f"select *, row_number() over (partition by id order by score desc) as nth from ({change})"
        place = "using iceberg partitioned by (days(made_at))" if iceberg else f"using delta partitioned by ({DAY})"
        if iceberg:
            session.sql(f"create namespace if not exists `{prepared.settings.catalog.name}`.{SOURCE}")
            place += f" location '{_place(prepared)}'"
        session.sql(f"create or replace table {table} {place} as select * except (nth) from ({newest}) where nth = 1")
    elif events.scenario == "upsert":
        days = ", ".join(f"'{day}'" for day in events.days)
        pruned = f"t.made_at < timestamp '{events.end:%Y-%m-%d}'" if iceberg else f"t.{DAY} in ({days}) and t.{DAY} = s.{DAY}"
        session.sql(
            f"merge into {table} t using ({change}) s on t.id = s.id and t.made_at = s.made_at and {pruned} "
            "when matched and s.score >= t.score then update set * when not matched then insert *"
        )
    else:
        session.conf.set("spark.sql.sources.partitionOverwriteMode", "dynamic")
        session.sql(f"insert overwrite {table} {change}")


def delta_rs(prepared: Prepared) -> None:
    """delta-rs; what it cannot do, to take the newest version of each key, DuckDB does before it."""
    from deltalake import DeltaTable, write_deltalake

    events, place, options = prepared.events, _place(prepared), storage_options(prepared.settings.store)
    rows = _with_day(_newest(prepared))
    if events.scenario == "fold":
        write_deltalake(place, rows, partition_by=[DAY], storage_options=options)
    elif events.scenario == "replace":
        write_deltalake(place, rows, mode="overwrite", predicate=f"{DAY} = '{events.days[0]}'", storage_options=options)
    else:
        days = ", ".join(f"'{day}'" for day in events.days)
        table = DeltaTable(place, storage_options=options)
        merge = table.merge(
            rows,
            f"t.{DAY} in ({days}) and t.{DAY} = s.{DAY} and t.id = s.id and t.made_at = s.made_at",
            source_alias="s",
            target_alias="t",
        )
        merge.when_matched_update_all("s.score >= t.score").when_not_matched_insert_all().execute()


def pyiceberg(prepared: Prepared) -> None:
    """pyiceberg; DuckDB takes the newest versions before it. Its own upsert builds one condition of all keys."""
    events, rows = prepared.events, _newest(prepared)
    catalog = LakeCatalog(prepared.settings, prepared.store.url)
    if events.scenario == "fold":
        from lakehouse.tables.iceberg.schema import new_schema, new_spec

        fields = prepared.log.entries()[-1].manifest.fields
        schema = new_schema(fields, ())
        creation = catalog.creation(SOURCE, events.table.name, schema, new_spec(events.table.partition, schema), {})
        with creation:
            creation.append(rows)
        return
    table = catalog.load(SOURCE, events.table.name)
    assert table is not None
    if events.scenario == "upsert":
        table.upsert(rows, ["id", "made_at"])
    else:
        table.overwrite(
            rows, f"made_at >= '{events.days[0]}T00:00:00+00:00' and made_at < '{events.end:%Y-%m-%d}T00:00:00+00:00'"
        )


TOOLS: dict[str, Apply] = {
    "lakehouse": lakehouse,
    "lakehouse-spark": lakehouse,
    "spark": spark_sql,
    "delta-rs": delta_rs,
    "pyiceberg": pyiceberg,
}


def session_of(prepared: Prepared) -> SparkSession:
    """The session of this process."""
    from lakehouse.tables.spark.session import open_session

    return open_session(prepared.settings)


def _place(prepared: Prepared) -> str:
    """The address of the table's folder."""
    root = open_tables(prepared.settings, prepared.store).root(SOURCE, prepared.events.table)
    return prepared.store.url_of(root)


def _newest(prepared: Prepared) -> pa.Table:
    """The rows of the change in memory, the newest of each key if it has several."""
    open_file = opener(prepared.settings.store)
    root = prepared.store.url + "/"
    rows = pa.concat_tables([pq.read_table(open_file(url.removeprefix(root))) for url in prepared.change])
    if prepared.events.scenario != "fold":
        return rows
    with connect_duckdb() as connection:
        connection.register("raw", rows)
        query = "select * from raw qualify row_number() over (partition by id order by score desc) = 1"
        return connection.execute(query).to_arrow_table().cast(rows.schema)


def _with_day(rows: pa.Table) -> pa.Table:
    with connect_duckdb() as connection:
        connection.register("raw", rows)
        query = f"select *, strftime(made_at, {literal('%Y-%m-%d')}) as {DAY} from raw"
        return connection.execute(query).to_arrow_table()
