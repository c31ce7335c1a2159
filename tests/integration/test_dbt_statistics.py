"""The dbt project on published tables: right totals, and exactly the asked days."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import bson
import clickhouse_connect
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import assets
from lakehouse.demo import documents, relational
from lakehouse.demo.columns import stream
from lakehouse.demo.world import Plan, World
from lakehouse.settings import Settings
from lakehouse.spec import Marker, Table
from lakehouse.spec.types import arrow_field, declared_type
from lakehouse.warehouse import open_warehouse

PROJECT = Path(__file__).parents[2] / "dbt_project"
PLAN = Plan(days=5, users=60, until=date(2026, 3, 11), seed=7)
DAYS = [PLAN.first_day + timedelta(days=n) for n in range(PLAN.days)]

Rows = dict[str, pa.Table]


def generated(plan: Plan) -> Rows:
    """The rows of every chronochat table, as they would be published."""
    world = World(plan)
    chats, sessions = documents.all_chats(world), relational.all_sessions(world)
    total = plan.api_logs or plan.total(relational.API_LOGS_PER_USER_DAY)
    rows = {
        "users": relational.all_users(world, sessions),
        "user_usage_stats": relational.all_usage(world, chats),
        "user_sessions": relational.user_sessions(stream(plan.seed, "user_sessions"), world, sessions),
        "api_logs": pa.concat_tables(relational.all_api_logs(world, total)),
        "user_preferences": relational.all_preferences(world),
    }
    raw = list(documents.conversation_documents(stream(1), world, chats))
    rows["conversations"] = _from_documents("conversations", [bson.decode(document.raw) for document in raw])
    raw = documents.message_documents(stream(2), chats.messages, 0, len(chats.messages.created))
    rows["messages"] = _from_documents("messages", [bson.decode(document.raw) for document in raw])
    return rows


def declared(name: str) -> tuple[str, Table]:
    """A declared table and the name of its source."""
    return next((source.name, table) for source in assets.SOURCES for table in source.tables if table.name == name)


def _from_documents(name: str, found: list[dict[str, Any]]) -> pa.Table:
    table = declared(name)[1]
    columns = [column for column in table.columns if table.personal.get(column.name) != "drop"]
    schema = pa.schema([arrow_field(c.name, c.type, nullable=c.nullable, doc=c.description) for c in columns])
    rows = []
    for document in found:
        row = {c.name: document.get(c.name) for c in columns}
        row["_id"] = str(row["_id"])
        row["metadata"] = json.dumps(row["metadata"])
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema)


@dataclass
class Statistics:
    """A warehouse with published tables, and the dbt project on it."""

    settings: Settings
    sequence: int = 0

    def publish(self, rows: Rows) -> None:
        """Publish tables whole."""
        self.sequence += 1
        warehouse = open_warehouse(self.settings)
        for name, table in rows.items():
            source, kept = declared(name)
            schema = pa.schema([arrow_field(f.name, declared_type(f), nullable=f.name not in kept.key) for f in table.schema])
            found = table.cast(schema)
            marker = Marker(self.sequence, found.num_rows, f"{self.sequence:016x}")

            def scan(names: Sequence[str] | None, found: pa.Table = found) -> Iterator[pa.RecordBatch]:
                assert names is None
                yield from found.to_batches()

            warehouse.publish(source, kept, schema, marker=marker, version=self.sequence, partitions=None, scan=scan)

    def dbt(self, *arguments: str, days: Sequence[date] | None = None) -> subprocess.CompletedProcess[str]:
        """Run dbt in a process of its own."""
        warehouse = self.settings.warehouse
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DBT_")},
            "LAKEHOUSE_WAREHOUSE__HOST": warehouse.host,
            "LAKEHOUSE_WAREHOUSE__PORT": str(warehouse.port),
            "LAKEHOUSE_WAREHOUSE__USER": warehouse.user,
            "LAKEHOUSE_WAREHOUSE__PASSWORD": warehouse.password.get_secret_value(),
            "LAKEHOUSE_WAREHOUSE__DATABASE": warehouse.database,
            "DBT_TARGET_PATH": str(self.settings.home / "dbt_target"),
            "DBT_LOG_PATH": str(self.settings.home / "dbt_logs"),
        }
        command = [
            str(Path(sys.executable).parent / "dbt"),
            *arguments,
            "--project-dir",
            str(PROJECT),
            "--profiles-dir",
            str(PROJECT),
        ]
        if days is not None:
            command += ["--vars", json.dumps({"days": [day.isoformat() for day in days]})]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def build(self, *arguments: str, days: Sequence[date] | None = None) -> None:
        """`dbt build`, which must pass."""
        done = self.dbt("build", *arguments, days=days)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

    def rows(self, model: str, condition: str = "1") -> list[dict[str, Any]]:
        """The rows of a model."""
        found = open_warehouse(self.settings).query(f"select * from statistics.{model} where {condition} order by all")
        return list(found.to_pylist())


@dataclass(frozen=True)
class Built:
    """Statistics built once from generated rows."""

    statistics: Statistics
    rows: Rows
    output: str


@pytest.fixture(scope="module")
def statistics(postgres: Settings, clickhouse: Settings) -> Iterator[Statistics]:
    """Empty databases of published tables, staging and statistics, dropped afterwards."""
    warehouse = clickhouse.warehouse.model_copy(update={"database": "t_dbt_statistics"})
    client = clickhouse_connect.get_client(
        host=warehouse.host, port=warehouse.port, username=warehouse.user, password=warehouse.password.get_secret_value()
    )
    databases = (warehouse.database, "staging", "statistics")
    for name in databases:
        client.command(f"drop database if exists {name} sync")
    yield Statistics(postgres.model_copy(update={"warehouse": warehouse}))
    for name in databases:
        client.command(f"drop database if exists {name} sync")
    client.close()


@pytest.fixture(scope="module")
def built(statistics: Statistics) -> Built:
    """Everything built once, by one `dbt build` without variables."""
    rows = generated(PLAN)
    statistics.publish(rows)
    done = statistics.dbt("build", "--show-all-deprecations")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return Built(statistics, rows, done.stdout)


def of_day(table: pa.Table, column: str, day: date) -> list[dict[str, Any]]:
    """The rows of a UTC day, as Python has them."""
    return [row for row in table.to_pylist() if as_utc(row[column]).date() == day]


def as_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def minutes(session: dict[str, Any]) -> float:
    return float(((session["ended_at"] or session["last_activity_at"]) - session["started_at"]) / timedelta(minutes=1))


def prices() -> dict[str, tuple[Decimal, Decimal]]:
    lines = (PROJECT / "seeds" / "model_prices.csv").read_text().splitlines()[1:]
    return {model: (Decimal(low), Decimal(high)) for _, model, low, high in (line.split(",") for line in lines)}


def cost(messages: list[dict[str, Any]]) -> Decimal:
    """US dollars by the price list, exactly."""
    total = Decimal(0)
    for message in messages:
        if message["model"] is not None:
            price = prices()[message["model"]][message["role"] == "assistant"]
            total += price * message["tokens"] / 1_000_000
    return total


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "built_at"} for row in rows]


DAILY = (
    "daily_statistics",
    "daily_user_activity",
    "daily_api_by_endpoint",
    "daily_sessions",
    "daily_new_users",
    "daily_messages_by_model",
)


def test_the_project_builds_without_a_deprecation(built: Built) -> None:
    assert "ERROR=0" in built.output
    assert "WARN=0" in built.output
    assert "eprecat" not in built.output


def test_the_headline_agrees_with_plain_python_on_every_day(built: Built) -> None:
    headline = {row["day"]: row for row in built.statistics.rows("daily_statistics")}
    for day in DAYS:
        calls, visits = of_day(built.rows["api_logs"], "created_at", day), of_day(built.rows["user_sessions"], "started_at", day)
        messages = of_day(built.rows["messages"], "created_at", day)
        latencies = [call["response_time_ms"] for call in calls]
        active = {row["clerk_user_id"] for row in [*calls, *visits]} - {None}
        found = headline[day]
        assert found["active_users"] == len(active)
        assert found["new_users"] == len(of_day(built.rows["users"], "created_at", day))
        assert found["sessions"] == len(visits)
        assert found["avg_session_minutes"] == pytest.approx(np.mean([minutes(visit) for visit in visits]))
        assert found["conversations"] == len(of_day(built.rows["conversations"], "created_at", day))
        assert found["messages"] == len(messages)
        assert found["tokens"] == sum(message["tokens"] for message in messages)
        assert found["cost_usd"] == pytest.approx(cost(messages), abs=Decimal("0.000001"))
        assert found["api_calls"] == len(calls)
        assert found["error_share"] == pytest.approx(sum(call["status_code"] >= 400 for call in calls) / len(calls))
        for name, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
            assert found[f"latency_{name}_ms"] == pytest.approx(np.percentile(latencies, percent))


def test_the_headline_has_a_row_for_each_day_from_the_first_sign_up_on(built: Built) -> None:
    first = min(as_utc(moment).date() for moment in built.rows["users"]["created_at"].to_pylist())
    days = [row["day"] for row in built.statistics.rows("daily_statistics")]
    assert days == [first + timedelta(days=n) for n in range((PLAN.until - first).days)]


def test_calls_by_endpoint_agree_with_plain_python(built: Built) -> None:
    expected: Counter[tuple[date, str, str]] = Counter()
    for call in built.rows["api_logs"].to_pylist():
        expected[as_utc(call["created_at"]).date(), call["endpoint"], call["method"]] += 1
    found = built.statistics.rows("daily_api_by_endpoint")
    assert {(row["day"], row["endpoint"], row["method"]): row["calls"] for row in found} == expected


def test_activity_of_a_user_agrees_with_plain_python(built: Built) -> None:
    day = DAYS[-1]
    calls, visits = of_day(built.rows["api_logs"], "created_at", day), of_day(built.rows["user_sessions"], "started_at", day)
    found = built.statistics.rows("daily_user_activity", f"day = '{day}'")
    assert Counter({row["clerk_user_id"]: row["api_calls"] for row in found if row["api_calls"]}) == Counter(
        call["clerk_user_id"] for call in calls if call["clerk_user_id"] is not None
    )
    assert Counter({row["clerk_user_id"]: row["sessions"] for row in found if row["sessions"]}) == Counter(
        visit["clerk_user_id"] for visit in visits
    )
    assert sum(row["session_minutes"] for row in found) == pytest.approx(sum(minutes(visit) for visit in visits))


def test_messages_by_model_agree_with_plain_python(built: Built) -> None:
    day = DAYS[1]
    expected: Counter[tuple[str, str, str]] = Counter()
    for message in of_day(built.rows["messages"], "created_at", day):
        kind = "output" if message["role"] == "assistant" else "input"
        expected[message["provider"] or "none", message["model"] or "none", kind] += message["tokens"]
    found: Counter[tuple[str, str, str]] = Counter()
    for row in built.statistics.rows("daily_messages_by_model", f"day = '{day}'"):
        for kind in ("input", "output"):
            found[row["provider"], row["model"], kind] += row[f"{kind}_tokens"]
    assert +found == +expected


def test_retention_agrees_with_plain_python(built: Built) -> None:
    def monday(moment: datetime) -> date:
        day = as_utc(moment).date()
        return day - timedelta(days=day.weekday())

    cohort = {user["clerk_user_id"]: monday(user["created_at"]) for user in built.rows["users"].to_pylist()}
    active = {(row["clerk_user_id"], monday(row["created_at"])) for row in built.rows["api_logs"].to_pylist()}
    active |= {(row["clerk_user_id"], monday(row["started_at"])) for row in built.rows["user_sessions"].to_pylist()}
    expected = Counter((cohort[who], (week - cohort[who]).days // 7) for who, week in active if who is not None)
    found = built.statistics.rows("weekly_retention")
    assert {(row["cohort_week"], row["week"]): row["active_users"] for row in found if row["active_users"]} == expected
    sizes = Counter(cohort.values())
    assert all(row["cohort_users"] == sizes[row["cohort_week"]] for row in found)


def test_every_model_and_column_is_described_where_people_query_it(built: Built) -> None:
    query = """select table || '.' || name as what from system.columns
        where database in ('staging', 'statistics') and comment = ''
        union all select name from system.tables
        where database in ('staging', 'statistics') and comment = ''"""
    assert open_warehouse(built.statistics.settings).query(query).to_pylist() == []


def test_a_days_variable_that_is_no_list_is_refused(built: Built) -> None:
    done = built.statistics.dbt("compile", "--vars", json.dumps({"days": "2026-03-08"}))
    assert done.returncode != 0
    assert "a list of ISO dates" in done.stdout


def test_rebuilding_some_days_changes_those_and_no_others(built: Built) -> None:
    statistics, rows = built.statistics, dict(built.rows)
    emptied, late, untouched = DAYS[1], DAYS[3], [DAYS[0], DAYS[2], DAYS[4]]
    before = {model: statistics.rows(model) for model in DAILY}
    one_more = rows["api_logs"].slice(0, 1)
    moment = pa.array([datetime(late.year, late.month, late.day, 23, 59, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    one_more = one_more.set_column(0, "id", pa.array(["00000000-0000-4000-8000-000000000000"]))
    one_more = one_more.set_column(one_more.num_columns - 1, "created_at", moment)
    rows["api_logs"] = pa.concat_tables([_without(rows["api_logs"], "created_at", emptied), one_more])
    rows["messages"] = _without(rows["messages"], "created_at", emptied)
    rows["user_sessions"] = _without(rows["user_sessions"], "started_at", emptied)
    rows["conversations"] = _without(rows["conversations"], "created_at", emptied)
    # A day that changed, too, but that nobody asked for.
    rows["users"] = _without(rows["users"], "created_at", untouched[0])
    statistics.publish({name: rows[name] for name in ("api_logs", "messages", "user_sessions", "conversations", "users")})

    future = PLAN.until + timedelta(days=3)
    statistics.build("--exclude", "test_type:data", days=[emptied, late, future])

    after = {model: statistics.rows(model) for model in DAILY}
    for model in DAILY:
        asked = {emptied, late, future}
        assert [row for row in after[model] if row["day"] not in asked] == [
            row for row in before[model] if row["day"] not in asked
        ]
    for model in ("daily_user_activity", "daily_api_by_endpoint", "daily_sessions", "daily_messages_by_model"):
        assert [row for row in after[model] if row["day"] in (emptied, future)] == []
    headline = {row["day"]: row for row in after["daily_statistics"]}
    for day in (emptied, future):
        assert [headline[day][name] for name in ("active_users", "sessions", "messages", "tokens", "cost_usd", "api_calls")] == [
            0
        ] * 6
        assert headline[day]["error_share"] is None
    calls = {row["day"]: row["api_calls"] for row in before["daily_statistics"]}
    assert headline[late]["api_calls"] == calls[late] + 1
    assert without_time([r for r in after["daily_sessions"] if r["day"] == late]) == without_time(
        [r for r in before["daily_sessions"] if r["day"] == late]
    )


def _without(table: pa.Table, column: str, day: date) -> pa.Table:
    moments = pc.floor_temporal(table[column], unit="day")
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return table.filter(pc.not_equal(moments, pa.scalar(midnight, moments.type)))


def test_an_application_in_which_nothing_happened_has_no_statistics(built: Built) -> None:
    built.statistics.publish({name: table.slice(0, 0) for name, table in built.rows.items()})
    built.statistics.build("--full-refresh")
    assert {model: built.statistics.rows(model) for model in (*DAILY, "weekly_retention")} == {
        model: [] for model in (*DAILY, "weekly_retention")
    }
