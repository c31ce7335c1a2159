"""What a person meets in Dagster: the graph in a browser, backfills, the schedule, the sensor, the logs of the steps."""

from __future__ import annotations

import json
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from lakehouse.services.processes import poll
from tests.deployments import CHECKOUT, PATIENCE, Project, demo_project

CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
ARTIFACTS = CHECKOUT / "tests" / ".artifacts"
LAND = """
from lakehouse.cli.session import deployment
from lakehouse.pipeline.extract import extract_source
here = deployment()
for source in here.sources:
    for result in extract_source(here, source, source.tables):
        assert result.error is None, result.error
"""
"""Another process that lands batches and applies nothing."""


class Dagster:
    """A running web server and daemon, asked as the browser asks them."""

    def __init__(self, project: Project, address: str) -> None:
        self.project = project
        self.address = address

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """A GraphQL query's data."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", data=body, headers={"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            document: dict[str, Any] = json.loads(answer.read())
        assert "errors" not in document, document["errors"]
        data: dict[str, Any] = document["data"]
        return data

    def days(self) -> list[str]:
        """The days of the demo, as the warehouse has them."""
        rows = self.project.query(
            "select distinct toString(toDate(created_at)) as day from chronochat__api_logs order by 1", "warehouse"
        )
        return [row["day"] for row in rows]

    def asset(self, *path: str) -> dict[str, Any]:
        """An asset with its last materialization."""
        query = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
          groupName description kinds isPartitioned owners { ... on TeamAssetOwner { team } ... on UserAssetOwner { email } }
          assetChecksOrError { ... on AssetChecks { checks { name } } }
          dependencyKeys { path }
          assetMaterializations(limit: 1) { partition metadataEntries { label ... on IntMetadataEntry { intValue }
            ... on MarkdownMetadataEntry { mdStr } ... on TextMetadataEntry { text } } } } } }"""
        found: dict[str, Any] = self.ask(query, key={"path": list(path)})["assetNodeOrError"]
        return found


@pytest.fixture(scope="module")
def dagster() -> Iterator[Dagster]:
    with demo_project() as project:
        yield Dagster(project, project.lakehouse("ui").out.strip())


def test_the_graph_and_a_green_run_are_seen_in_the_browser(dagster: Dagster) -> None:
    chromium = shutil.which("chromium")
    assert chromium is not None, "chromium is missing: apt-get install chromium"
    from playwright.sync_api import expect, sync_playwright

    ARTIFACTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, args=CHROMIUM, viewport={"width": 1800, "height": 1100}
        )
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(f"{dagster.address}/locations/lakehouse/asset-groups/chronochat")
        for name in ("api_logs", "users", "user_sessions", "user_preferences", "user_usage_stats"):
            expect(page.get_by_text(name, exact=True)).to_have_count(4, timeout=PATIENCE * 1000)
        expect(page.get_by_text("1 / 1 Passed").first).to_be_visible(timeout=PATIENCE * 1000)
        page.screenshot(path=ARTIFACTS / "assets.png")
        page.goto(f"{dagster.address}/runs")
        expect(page.get_by_text("Success").filter(visible=True).first).to_be_visible(timeout=PATIENCE * 1000)
        page.screenshot(path=ARTIFACTS / "runs.png")
        browser.close()
    assert (ARTIFACTS / "assets.png").stat().st_size > 20_000


def test_a_table_is_one_graph_from_its_source_to_the_statistics(dagster: Dagster) -> None:
    graph = {layer: dagster.asset(layer, "chronochat", "api_logs") for layer in ("raw", "lake", "warehouse")}
    assert graph["raw"]["dependencyKeys"] == [{"path": ["source", "chronochat", "api_logs"]}]
    assert graph["lake"]["dependencyKeys"] == [{"path": ["raw", "chronochat", "api_logs"]}]
    assert graph["warehouse"]["dependencyKeys"] == [{"path": ["lake", "chronochat", "api_logs"]}]
    assert dagster.asset("staging", "stg_api_logs")["dependencyKeys"] == [{"path": ["warehouse", "chronochat", "api_logs"]}]
    for asset in graph.values():
        assert asset["groupName"] == "chronochat"
        assert asset["description"]
        assert asset["owners"]
        assert asset["kinds"]
        assert asset["isPartitioned"]
        assert asset["assetChecksOrError"]["checks"]
    assert not dagster.asset("lake", "chronochat", "users")["isPartitioned"]
    assert dagster.asset("statistics", "daily_statistics")["assetChecksOrError"]["checks"]


def test_a_materialization_tells_rows_bytes_sequence_and_a_sample_without_personal_data(dagster: Dagster) -> None:
    for layer in ("raw", "lake", "warehouse"):
        (last,) = dagster.asset(layer, "chronochat", "users")["assetMaterializations"]
        entries = {entry["label"]: entry for entry in last["metadataEntries"]}
        assert {"dagster/row_count", "bytes", "sequence", "sample"} <= set(entries)
        assert entries["dagster/row_count"]["intValue"] > 0
        assert "clerk_user_id" in entries["sample"]["mdStr"]
        assert "@" not in entries["sample"]["mdStr"]


def test_the_schedules_of_the_day_and_the_sensor_are_on(dagster: Dagster) -> None:
    where = {"repositoryName": "__repository__", "repositoryLocationName": "lakehouse"}
    query = """query($where: RepositorySelector!) {
      schedulesOrError(repositorySelector: $where) { ... on Schedules { results { name cronSchedule executionTimezone
        scheduleState { status } } } }
      sensorsOrError(repositorySelector: $where) { ... on Sensors { results { name sensorState { status } } } } }"""
    found = dagster.ask(query, where=where)
    on = {"executionTimezone": "UTC", "scheduleState": {"status": "RUNNING"}}
    assert sorted(found["schedulesOrError"]["results"], key=lambda schedule: schedule["name"]) == [
        {"name": "daily", "cronSchedule": "0 1 * * *", **on},
        {"name": "daily_verification", "cronSchedule": "0 3 * * *", **on},
        {"name": "weekly_maintenance", "cronSchedule": "0 4 * * 0", **on},
    ]
    assert found["sensorsOrError"]["results"] == [{"name": "raw_log", "sensorState": {"status": "RUNNING"}}]


def test_a_backfill_over_a_range_of_days_is_one_run(dagster: Dagster) -> None:
    days = dagster.days()
    assert len(days) >= 3
    assets = [["raw", "chronochat", "api_logs"], ["lake", "chronochat", "api_logs"], ["warehouse", "chronochat", "api_logs"]]
    assets.append(["statistics", "daily_statistics"])
    launched = dagster.ask(
        """mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) {
          ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
        p={"assetSelection": [{"path": path} for path in assets], "partitionNames": days},
    )["launchPartitionBackfill"]
    query = """query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
      status runs { status tags { key value } } } } }"""

    def backfill() -> dict[str, Any]:
        found: dict[str, Any] = dagster.ask(query, id=launched["backfillId"])["partitionBackfillOrError"]
        return found

    assert poll(lambda: backfill()["status"] not in ("REQUESTED", "FAILING"), seconds=PATIENCE, every=2)
    assert backfill()["status"] == "COMPLETED_SUCCESS"
    (run,) = backfill()["runs"]
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    assert run["status"] == "SUCCESS"
    assert tags["dagster/asset_partition_range_start"] == days[0]
    assert tags["dagster/asset_partition_range_end"] == days[-1]


def test_batches_that_another_process_landed_are_applied_and_their_days_rebuilt_without_anyone_asking(dagster: Dagster) -> None:
    project = dagster.project
    built = project.built_at()
    touched = project.lakehouse("demo", "tick")
    assert touched.code == 0
    project.program("python", "-c", LAND)
    assert any(raw > lake for raw, lake, _ in project.sequences().values())

    def caught_up() -> bool:
        up_to_date = all(raw == lake == warehouse for raw, lake, warehouse in project.sequences().values())
        return up_to_date and project.built_at() != built

    assert poll(caught_up, seconds=PATIENCE, every=5), project.sequences()
    project.verify()


def test_maintenance_is_an_asset_that_tells_before_and_after(dagster: Dagster) -> None:
    selector = {
        "repositoryName": "__repository__",
        "repositoryLocationName": "lakehouse",
        "jobName": "maintain",
    }
    launched = dagster.ask(
        """mutation($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) {
          ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
        p={"selector": selector, "runConfigData": {}, "mode": "default"},
    )["launchPipelineExecution"]
    query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

    def ended() -> bool:
        return dagster.ask(query, id=launched["run"]["runId"])["runOrError"]["status"] in ("SUCCESS", "FAILURE")

    assert poll(ended, seconds=PATIENCE)
    assert dagster.ask(query, id=launched["run"]["runId"])["runOrError"] == {"status": "SUCCESS"}
    (last,) = dagster.asset("maintenance", "chronochat")["assetMaterializations"]
    entries = {entry["label"]: entry for entry in last["metadataEntries"]}
    assert entries["versions expired"]["intValue"] == 0
    assert entries["stored bytes"]["intValue"] == entries["stored bytes before"]["intValue"] > 0
    assert "chronochat.api_logs" in entries["tables"]["mdStr"]


def test_the_logs_of_the_steps_are_in_the_bucket(dagster: Dagster) -> None:
    values = dagster.project.env()
    client = boto3.client(
        "s3",
        endpoint_url=values["AWS_ENDPOINT_URL"],
        aws_access_key_id=values["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
        region_name=values["AWS_DEFAULT_REGION"],
    )
    found = client.list_objects_v2(Bucket="lakehouse", Prefix="logs/")
    names = [Path(item["Key"]).suffix for item in found.get("Contents", [])]
    assert ".out" in names
    assert ".err" in names
