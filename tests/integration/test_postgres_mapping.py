"""Every Postgres type through every hop, and back into Postgres: each value is the value that it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakehouse import Source, Table
from lakehouse.pipeline.apply import apply_table
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import extract_source
from lakehouse.pipeline.publish import publish_table
from lakehouse.settings import Settings, SourceSettings, StoreSettings, WarehouseSettings
from lakehouse.sources import open_source
from lakehouse.sources.postgres.mapping import EVERYTHING_ELSE, RULES
from tests.conftest import fresh_name
from tests.postgres_values import MADE, MAKE, VALUES, Values, value_text

Row = list[Any]

KINDS = {**VALUES, **MADE}
COLUMNS = [(f"c_{name}", values.type, False) for name, values in KINDS.items()]
COLUMNS += [(f"a_{name}", f"{values.type}[]", True) for name, values in KINDS.items()]
THINGS = Table("things", "snapshot", ("id",))
SOURCE = Source("kinds", "postgres", (THINGS,))
QUICK = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def database(postgres: Settings) -> Iterator[str]:
    """A database with a table that has a column of each type and one of its arrays, and an empty copy of it."""
    catalog, name = postgres.catalog.url.get_secret_value(), fresh_name()
    url = catalog.rpartition("/")[0] + f"/{name}"
    columns = ", ".join(f'"{column}" {type_}' for column, type_, _ in COLUMNS)
    execute(catalog, f"create database {name}")
    execute(url, *MAKE, *(f"create table {table} (id int primary key, {columns})" for table in ("things", "back")))
    yield url
    execute(catalog, f"drop database {name} with (force)")


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def put(url: str, table: str, rows: Iterable[Row]) -> None:
    """Replace the table's rows; each value is a text, or a list of them for an array, that is cast to the column's type."""
    places = ", ".join(f"%s::{'text[]' if is_array else 'text'}::{type_}" for _, type_, is_array in COLUMNS)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"truncate {table}".encode())
        cursor.executemany(f"insert into {table} values (%s, {places})".encode(), list(rows))


def edge_rows() -> list[Row]:
    """Nulls, then the edges of every type, each also in an array with a null and with all the others; then an empty array."""
    most = max(len(values.edges) for values in KINDS.values())
    rows: list[Row] = [[0, *(None for _ in COLUMNS)]]
    for number in range(most):
        scalars = [values.edges[number % len(values.edges)] for values in KINDS.values()]
        arrays = [[None, *values.edges] if number else [] for values in KINDS.values()]
        rows.append([number + 1, *scalars, *arrays])
    return rows


def differences(url: str) -> list[tuple[str, str, str]]:
    """Column, value and what came back, for each that is not the same to Postgres, to the last digit of its text."""
    found = []
    with psycopg.connect(url, options="-c extra_float_digits=1 -c timezone=UTC -c bytea_output=hex") as connection:
        for name, _, _ in COLUMNS:
            column = f'"{name}"'
            query = (
                f"select format('%%s', t.{column}), format('%%s', b.{column}) from things t full join back b using (id) "
                f"where (t.{column} is null) <> (b.{column} is null) "
                f"or format('%%s', t.{column}) <> format('%%s', b.{column})"
            )
            found += [(name, *pair) for pair in connection.execute(query.replace("%%", "%").encode()).fetchall()]
    return found


def as_texts(rows: pa.Table) -> list[Row]:
    """What is read, as texts that cast back."""
    assert rows.schema.names == ["id", *(name for name, _, _ in COLUMNS)]
    return [[row["id"], *(_texts(row[name]) for name, _, _ in COLUMNS)] for row in rows.to_pylist()]


def _texts(value: Any) -> Any:
    return [value_text(element) for element in value] if isinstance(value, list) else value_text(value)


def read(url: str) -> pa.Table:
    reader = open_source(SOURCE, url)
    with reader.snapshot() as snapshot:
        return pa.Table.from_batches(list(snapshot.read(THINGS)), reader.schema(THINGS))


def test_every_type_that_a_column_can_have_is_in_the_table_of_types_and_is_tried(database: str) -> None:
    """Of the server at hand: base types, ranges and multiranges; those of its own catalogs are no types for columns."""
    internal = {"gtsvector", "pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list", "pg_brin_bloom_summary"}
    internal |= {"pg_brin_minmax_multi_summary", "pg_ddl_command"}
    with psycopg.connect(database) as connection:
        found = connection.execute(
            "select typname from pg_type where typnamespace = 'pg_catalog'::regnamespace and typtype in ('b', 'r', 'm') "
            "and not (typcategory = 'A' and typname like '\\_%')"
        ).fetchall()
    there = {name for (name,) in found} - internal
    ruled = {name for rule in RULES for name in rule.types} - {EVERYTHING_ELSE}
    assert ruled == there
    assert ruled - {"xml"} == set(VALUES) - {"decimal(p,s)"}


def test_xml_is_not_in_the_embedded_server(database: str) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="XML"):
        execute(database, "select '<a/>'::xml")


def test_every_type_goes_through_every_hop_and_back(
    database: str, settings: Settings, s3_store: StoreSettings, clickhouse_database: WarehouseSettings
) -> None:
    put(database, "things", edge_rows())
    own = settings.model_copy(
        update={
            "sources": {"kinds": SourceSettings(url=database)},
            "store": s3_store,
            "warehouse": clickhouse_database,
            "catalog": settings.catalog.model_copy(update={"name": fresh_name()}),
        }
    )
    deployment = Deployment(own, (SOURCE,))
    [extracted] = extract_source(deployment, SOURCE, (THINGS,))
    assert extracted.error is None
    apply_table(deployment, SOURCE, THINGS)
    publish_table(deployment, SOURCE, THINGS)
    state = deployment.lake.state("kinds", THINGS)
    assert state is not None
    for copy in (deployment.lake.scan("kinds", THINGS), deployment.warehouse.scan("kinds", THINGS, state.schema)):
        rows = pa.Table.from_batches(list(copy), state.schema)
        assert rows.num_rows == len(edge_rows())
        put(database, "back", as_texts(rows))
        assert differences(database) == []


def one_row(kinds: Sequence[Values]) -> st.SearchStrategy[Row]:
    scalars = [st.none() | values.texts for values in kinds]
    arrays = [st.none() | st.lists(st.none() | values.texts, max_size=3) for values in kinds]
    return st.tuples(*scalars, *arrays).map(list)


@QUICK
@given(st.data())
def test_any_value_of_any_type_is_read_as_it_is(database: str, data: st.DataObject) -> None:
    rows = [[number, *data.draw(one_row(list(KINDS.values())))] for number in range(4)]
    put(database, "things", rows)
    put(database, "back", as_texts(read(database)))
    assert differences(database) == []
