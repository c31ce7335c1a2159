"""dbt-clickhouse, unmodified, on the embedded server: a view, a table, and daily statistics that replace their days."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import clickhouse_connect
import pytest

from lakehouse.settings import WarehouseSettings

FILES = {
    "dbt_project.yml": "name: tiny\nversion: '1.0'\nprofile: tiny\nmodel-paths: [models]\n",
    "profiles.yml": """
tiny:
  target: embedded
  outputs:
    embedded:
      type: clickhouse
      driver: http
      host: "{{ env_var('CH_HOST') }}"
      port: "{{ env_var('CH_PORT') | int }}"
      user: "{{ env_var('CH_USER') }}"
      password: "{{ env_var('CH_PASSWORD') }}"
      schema: "{{ env_var('CH_DATABASE') }}"
      threads: 2
""",
    "models/events.sql": """
{{ config(materialized='view') }}
select number as id, toDate('2026-01-01') + number % 3 as day, {{ var('worth', 1) }} as worth from numbers(30)
""",
    "models/users.sql": """
{{ config(materialized='table', order_by='id') }}
select id, count() as events from {{ ref('events') }} group by id
""",
    "models/daily.sql": """
{{ config(materialized='incremental', incremental_strategy='insert_overwrite', partition_by='day', order_by='day') }}
select day, count() as events, sum(worth) as worth from {{ ref('events') }}
{% if is_incremental() %} where day = toDate('2026-01-02') {% endif %}
group by day
""",
    "models/models.yml": """
models:
  - name: daily
    description: Events of each day, it's said.
    columns:
      - {name: day, description: The day., tests: [unique, not_null]}
""",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small dbt project."""
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return tmp_path


def dbt(project: Path, warehouse: WarehouseSettings, *arguments: str) -> None:
    """Run dbt as a user would, in a process of its own."""
    environment = {
        **os.environ,
        "CH_HOST": warehouse.host,
        "CH_PORT": str(warehouse.port),
        "CH_USER": warehouse.user,
        "CH_PASSWORD": warehouse.password.get_secret_value(),
        "CH_DATABASE": warehouse.database,
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }
    command = [str(Path(sys.executable).with_name("dbt")), *arguments, "--project-dir", ".", "--profiles-dir", "."]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dbt_builds_twice_and_replaces_only_its_days(project: Path, clickhouse_database: WarehouseSettings) -> None:
    dbt(project, clickhouse_database, "build")
    client = clickhouse_connect.get_client(
        host=clickhouse_database.host,
        port=clickhouse_database.port,
        username=clickhouse_database.user,
        password=clickhouse_database.password.get_secret_value(),
        database=clickhouse_database.database,
    )
    daily = "select toString(day), events, worth from daily order by day"
    assert client.query(daily).result_rows == [("2026-01-01", 10, 10), ("2026-01-02", 10, 10), ("2026-01-03", 10, 10)]
    dbt(project, clickhouse_database, "build", "--vars", "{worth: 5}")
    assert client.query(daily).result_rows == [("2026-01-01", 10, 10), ("2026-01-02", 10, 50), ("2026-01-03", 10, 10)]
    engines = "select name, engine from system.tables where database = currentDatabase() order by name"
    assert client.query(engines).result_rows == [("daily", "MergeTree"), ("events", "View"), ("users", "MergeTree")]
    dbt(project, clickhouse_database, "docs", "generate")
    client.close()
