"""What verifications found is kept: since when each copy is equal, or is not; and the check of Dagster says the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg

from lakehouse.orchestration import build_definitions
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.verify_results import keep_results
from lakehouse.services.ports import free_port
from tests.shop import Shop

README = Path(__file__).resolve().parents[2] / "README.md"
DAMAGE = "alter table `{}`.`shop__orders` update amount = 0 where id = 105 settings mutations_sync = 2"


def verdicts(shop: Shop, statement: str) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in shop.deployment.warehouse.query(statement).to_pylist():
        found.setdefault((row["table"], row["copy"]), []).append(row)
    return found


def test_the_results_say_since_when_a_copy_is_equal_or_is_not(shop: Shop) -> None:
    shop.run()
    assert keep_results(shop.deployment, list(shop.verify().values()))
    assert keep_results(shop.deployment, list(shop.verify().values()))
    shop.deployment.warehouse.query(DAMAGE.format(shop.deployment.settings.warehouse.database))
    for _ in range(2):
        assert keep_results(shop.deployment, list(shop.verify().values()), run="by hand")
    statement = re.search(r'lakehouse sql "(.*lakehouse_verified.*)" --on warehouse', README.read_text())
    assert statement is not None
    found = verdicts(shop, statement[1])
    assert {len(rows) for rows in found.values()} == {1, 2}
    assert [row["equal"] for row in found["orders", "lake"]] == [True]
    rows = sorted(found["orders", "warehouse"], key=lambda row: row["since"])
    assert [row["equal"] for row in rows] == [True, False]
    assert rows[0]["since"] < rows[0]["until"] < rows[1]["since"] < rows[1]["until"]
    kept = verdicts(shop, "select * from lakehouse_verifications order by verified_at")
    assert {name: len(rows) for name, rows in kept.items()} == dict.fromkeys(kept, 4)
    first, second, third, _ = kept["orders", "warehouse"]
    assert (first["rows"], first["rows_read"], first["rows_taken"], first["taken_since"]) == (150, 150, 0, None)
    assert (second["rows_read"], second["rows_taken"]) == (0, 150)
    assert first["verified_at"] >= second["taken_since"]
    assert (third["differs"], third["run"], third["deep"]) == (["at_day=2026-01-02"], "by hand", False)


def test_a_warehouse_that_is_down_is_said_and_does_not_fail_the_verification(shop: Shop) -> None:
    shop.run()
    settings = shop.deployment.settings
    gone = settings.model_copy(update={"warehouse": settings.warehouse.model_copy(update={"port": free_port()})})
    shop.deployment = Deployment(gone, shop.deployment.sources)
    reports = shop.verify()
    assert [copy.copy for copy in reports["shop.orders"].copies if not copy.equal] == ["warehouse"]
    said: list[str] = []
    assert not keep_results(shop.deployment, list(reports.values()), on_event=said.append)
    assert "the results could not be kept in the warehouse" in said[0]


def test_the_check_of_every_table_passes_and_fails_with_its_copies(shop: Shop) -> None:
    shop.run()
    definitions = build_definitions(shop.deployment.sources, settings=shop.deployment.settings)
    job = definitions.resolve_job_def("verify")
    with dg.DagsterInstance.ephemeral() as instance:
        first = job.execute_in_process(instance=instance)
        checks = {check.asset_key.path[-1]: check for check in first.get_asset_check_evaluations()}
        assert {name: check.passed for name, check in checks.items()} == dict.fromkeys(
            ("orders", "customers", "prices", "clicks"), True
        )
        shop.deployment.warehouse.query(DAMAGE.format(shop.deployment.settings.warehouse.database))
        second = job.execute_in_process(instance=instance, raise_on_error=False, tags={"lakehouse/deep": "true"})
        failed = [check for check in second.get_asset_check_evaluations() if not check.passed]
    assert [check.asset_key.path for check in failed] == [["warehouse", "shop", "orders"]]
    assert failed[0].metadata["error"].value == "warehouse: differs in at_day=2026-01-02"
    kept = shop.deployment.warehouse.query("select run, any(deep) as deep from lakehouse_verifications group by run")
    assert {row["run"]: row["deep"] for row in kept.to_pylist()} == {first.run_id: False, second.run_id: True}


def test_no_other_job_verifies(shop: Shop) -> None:
    """Nor does any other look after tables."""
    definitions = build_definitions(shop.deployment.sources, settings=shop.deployment.settings)
    for name in ("lakehouse", "catch_up", "verify", "maintain"):
        steps = {node.name for node in definitions.resolve_job_def(name).graph.node_defs}
        assert bool(steps & {"shop__verify", "clicks__verify"}) is (name == "verify")
        assert bool(steps & {"maintenance__shop", "maintenance__clicks"}) is (name == "maintain")
        assert steps
