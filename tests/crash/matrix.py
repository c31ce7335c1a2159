"""Every fault point, killed or failed just before and just after, then run again and compared.

A case is one table (one of each mode and kind of source), the state that it is in, and one fault. The process that takes the
table's way, or that repairs it, verifies it, rolls it back, looks after it, removes its orphans, dies of it or fails; what
readers see then must be whole. One more run without a fault must make every copy equal, row by row, to what the source committed.
Nothing else is done: a repair or a rollback that died is begun again by whoever wanted it.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.maintain import maintain_table
from lakehouse.pipeline.verify import verify_source_tables
from lakehouse.rows.checksum import checksum_of
from lakehouse.services.processes import poll
from lakehouse.settings import Settings
from lakehouse.spec import Source, Table
from lakehouse.tables.delta import tables as delta_tables
from lakehouse.tables.delta.tables import CHECKPOINT_EVERY
from tests.conftest import fresh_name
from tests.crash.passage import FAILED, MISSED, WORK, Passed, go_on, points_in, start, stopped, take
from tests.crash.tally import Tally
from tests.shop import FIRST, SHOP_IN_DELTA, Shop
from tests.wear import wear

TABLES = (
    "shop.orders",
    "shop.customers",
    "shop.prices",
    "shop_delta.orders",
    "shop_delta.customers",
    "shop_delta.prices",
    "clicks.clicks",
)
ONE_OF_EACH_FORMAT = ("shop.orders", "shop_delta.customers")
Engine = Literal["embedded", "spark"]
PATIENCE = 120
BROKEN = b"{"
"""No JSON document."""
METADATA = {"iceberg": ".metadata.json", "delta": ".json"}
"""How the files end that say where a table stands."""
FRESH, LATER, DUE, NAMELESS, WORN = "fresh", "later", "due", "nameless", "worn"
STATES = {
    FRESH: "take",
    LATER: "take",
    DUE: "take",
    "foreign": "repair",
    "unreadable": "repair",
    "whole": "verify",
    "advanced": "rollback",
    "littered": "orphans",
    "uncounted": "statistics",
    NAMELESS: "tag",
    WORN: "maintain",
}
"""The states of a table, and what is done to it in each. due: its log is checkpointed after its next commit; foreign: somebody
put a table of his own in the place of the published one; unreadable: its metadata does not parse; advanced: its newest version is
to be taken back; nameless: its newest version is to have a name; worn: it is in many small files, and has old versions."""
ONLY = {DUE: "delta", NAMELESS: "iceberg"}
"""States of tables of one format: a Delta log has checkpoints, and Iceberg's versions can have names."""


@dataclass(frozen=True)
class Case:
    """A table, the state that it is in, and a fault in what is done to it."""

    table: str
    state: str
    passed: Passed
    action: str
    engine: Engine = "embedded"

    def __str__(self) -> str:
        folded = " by Spark" if self.engine == "spark" else ""
        return f"{self.table} ({self.state}{folded}) {self.passed.fault(self.action)}"

    @property
    def work(self) -> str:
        """What is done to it."""
        return STATES[self.state]


@dataclass(frozen=True)
class Row:
    """The cases of one table in one state, and who folds."""

    table: str
    state: str
    engine: Engine = "embedded"


SPARK_ROWS = (Row("shop.customers", LATER, "spark"), Row("shop_delta.orders", LATER, "spark"))
"""Spark's driver dies or fails: for one table of each format."""


@dataclass
class Matrix:
    """Crash cases over one shop. scratch: a folder for notes of the processes."""

    shop: Shop
    scratch: Path
    tally: Tally = field(default_factory=lambda: Tally("fault points"))
    _changes: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self._settings = self.shop.deployment.settings

    def rows(self, states: Collection[str] = STATES, tables: Sequence[str] = TABLES) -> list[Row]:
        """A table's way, for all tables; what else is done to one is the same in every mode, and taken for one of each format."""
        pairs = itertools.product(tables, sorted(states))
        return [Row(table, state) for table, state in pairs if self._has(table, state)]

    def cases(self, row: Row, actions: Sequence[str] = ("kill", "error")) -> list[Case]:
        """All cases of a row, from what an undisturbed passage of its table goes by.

        When a checkpoint is due, only it and the commit before it are ones that a table does not come by otherwise.
        Of Spark's driver, those of the lake: the others know nothing of engines.
        """
        deployment = self._prepared(row.table, row.state)
        seen = self.scratch / f"{row.table}-{row.state}-{row.engine}"
        passage = start(_folding(deployment, row.engine), row.table, work=STATES[row.state], seen=seen)
        passage.join(PATIENCE)
        assert passage.exitcode == 0, (row, passage.exitcode)
        self._end(deployment, row.state)
        points = [passed for passed in points_in(seen) if row.engine != "spark" or passed.point.startswith("lake.")]
        if row.state == DUE:
            points = [passed for passed in points if passed.point in ("lake.commit", "lake.checkpoint")]
        return [Case(row.table, row.state, passed, action, row.engine) for passed in points for action in actions]

    def renew(self) -> None:
        """Go on in an empty deployment of the same sources: a history that only grows makes every case slower than the last."""
        before = self.shop.deployment
        self.shop.deployment = self._fresh()
        self.shop.run()
        if before.settings is not self._settings:
            before.warehouse.query(f"drop database `{before.settings.warehouse.database}`")

    def run(self, case: Case) -> None:
        """One case; what is wrong is written into the tally."""
        deployment = self._prepared(case.table, case.state)
        fault = case.passed.fault(case.action)
        passage = start(_folding(deployment, case.engine), case.table, work=case.work, fault=fault)
        passage.join(PATIENCE)
        expected = {-signal.SIGKILL} if case.action == "kill" else {0, FAILED}
        if passage.exitcode == MISSED and case.passed.nth > 1:
            expected.add(MISSED)
        else:
            self.tally.points.add(case.passed.point)
            self.tally.kills += case.action == "kill"
            self.tally.failures += case.action != "kill"
        if passage.exitcode not in expected:
            self.tally.problems.append(f"{case}: the process ended with {passage.exitcode}, not {expected}")
            passage.kill()
        if case.work != "repair":
            self._look(deployment, case)
        began = time.perf_counter()
        if case.work != "rollback":
            WORK[case.work](deployment, case.table)
        take(deployment, case.table)
        self.tally.recovery.append(time.perf_counter() - began)
        self._compare(deployment, case)
        self._end(deployment, case.state)

    def overlap(self, case: Case, meanwhile: Callable[[Deployment, Case], None]) -> None:
        """One process stops at a point, others do something, then it goes on: the result is as if they had come one by one.

        Publishers take turns under a lock: while one of them is stopped, the others can do all but publish.
        """
        deployment = self._prepared(case.table, case.state)
        self.tally.points.add(case.passed.point)
        passage = start(deployment.settings, case.table, work=case.work, fault=case.passed.fault("hang"))
        assert poll(lambda: stopped(passage), seconds=PATIENCE), case
        self._look(deployment, case)
        meanwhile(deployment, case)
        log = deployment.log(*deployment.select([case.table])[0])
        claimed = log.entries()
        go_on(passage)
        passage.join(PATIENCE)
        if passage.exitcode not in ((0, MISSED) if case.passed.nth > 1 else (0,)):
            self.tally.problems.append(f"{case}: the process that was stopped ended with {passage.exitcode}")
            passage.kill()
        self._look(deployment, case)
        if log.entries()[: len(claimed)] != claimed:
            self.tally.problems.append(f"{case}: an entry of the log is not the one that was claimed")
        take(deployment, case.table)
        self._compare(deployment, case)

    def another(self, deployment: Deployment, case: Case) -> None:
        """Let something more happen, and take the table's whole way."""
        self._change(case.table)
        take(deployment, case.table, upto=_free(case))

    def rollback(self, deployment: Deployment, case: Case) -> None:
        """Roll the lake's table back to the version before."""
        source, table = deployment.select([case.table])[0]
        history = deployment.lake.history(source.name, table)
        deployment.lake.rollback(source.name, table, history[-2].version)

    def maintain(self, deployment: Deployment, case: Case) -> None:
        """Compact the lake's table; nothing that a process may be writing is old enough to be removed."""
        source, table = deployment.select([case.table])[0]
        if deployment.lake.state(source.name, table) is not None:
            wear(deployment.settings, deployment.store, source.name, table)
            done = deployment.lake.compact(source.name, table, list(deployment.lake.partitions(source.name, table)))
            assert done.after < done.before
        maintain_table(deployment, source, table)

    def _prepared(self, table: str, state: str) -> Deployment:
        """A deployment in which the table has something new, and a history or none."""
        deployment = self.shop.deployment
        source, declared = deployment.select([table])[0]
        if state == FRESH:
            return self._fresh()
        if state in (LATER, DUE, WORN, "advanced", "unreadable"):
            self._change(table)
        if state == DUE:
            take(deployment, table)
            self._change(table)
            _go_to_a_checkpoint(deployment, source, declared)
        if state in (WORN, "advanced", "unreadable"):
            take(deployment, table)
        if state == WORN:
            with patch.object(delta_tables, "CHECKPOINT_EVERY", 1):  # a Delta log can be cut there
                wear(deployment.settings, deployment.store, source.name, declared)
        if STATES[state] == "repair":
            WORK["statistics"](deployment, table)  # so that the repair has something to forget
        if state == "foreign":
            name = f"`{deployment.settings.warehouse.database}`.`{source.name}__{declared.name}`"
            deployment.warehouse.query(f"drop table {name} sync")
            deployment.warehouse.query(f"create table {name} (mine UInt8) engine = MergeTree order by mine")
            deployment.warehouse.query(f"insert into {name} values (7)")
        elif state == "unreadable":
            whole = [
                info
                for info in deployment.store.list(deployment.lake.root(source.name, declared))
                if info.path.endswith(METADATA[declared.format]) and info.size > len(BROKEN) and "/_damaged/" not in info.path
            ]
            deployment.store.put(max(whole, key=lambda info: (info.modified, info.path)).path, BROKEN)
        elif state == "littered":
            deployment.store.put(f"{deployment.log(source, declared).folder}/dead-0.parquet", b"12345")
        return deployment

    def _has(self, table: str, state: str) -> bool:
        """Whether a table can be in a state, and tells something there that others do not."""
        declared = self.shop.deployment.select([table])[0][1]
        if state not in (FRESH, LATER) and table not in ONE_OF_EACH_FORMAT:
            return False
        return ONLY.get(state, declared.format) == declared.format

    def _end(self, deployment: Deployment, state: str) -> None:
        """Remove what only this case needed. A table that somebody had put there must still be somewhere."""
        database = deployment.settings.warehouse.database
        if state == FRESH:
            deployment.warehouse.query(f"drop database `{database}`")
        if state == "foreign":
            like = f"select name from system.tables where database = '{database}' and startsWith(name, '__kept__')"
            kept = deployment.warehouse.query(like)["name"].to_pylist()
            rows = [deployment.warehouse.query(f"select * from `{database}`.`{name}`").to_pylist() for name in kept]
            if rows != [[{"mine": 7}]]:
                self.tally.problems.append(f"{state}: the table that was there before is not kept: {kept}, {rows}")
            for name in kept:
                deployment.warehouse.query(f"drop table `{database}`.`{name}` sync")

    def _fresh(self) -> Deployment:
        """The same sources, with an empty store, lake and warehouse."""
        settings, name = self._settings, fresh_name()
        own = settings.model_copy(
            update={
                "store": settings.store.model_copy(update={"url": f"{settings.store.url}/{name}"}),
                "catalog": settings.catalog.model_copy(update={"name": name}),
                "warehouse": settings.warehouse.model_copy(update={"database": f"{settings.warehouse.database}_{name}"}),
            }
        )
        return Deployment(own, self.shop.deployment.sources)

    def _change(self, table: str) -> None:
        number = next(self._changes)
        late, now = FIRST + timedelta(days=2, hours=4), FIRST + timedelta(days=2, hours=8, seconds=number)
        table = table.rpartition(".")[2]
        if table == "orders":
            self.shop.order(10_000 + 2 * number, 2, late)
        elif table == "clicks":
            self.shop.click(2, FIRST + timedelta(days=1, hours=3, seconds=number))
        elif table == "prices":
            self.shop.sql(
                f"update prices set price = price + {number} where item = 'tea'", f"insert into prices values ('t{number}', 1)"
            )
        else:
            self.shop.sql(
                f"update customers set tier = 'tier {number}', changed_at = '{now.isoformat()}' where id in ('c1', 'c7')",
                f"insert into customers values ('n{number}', null, 'free', '{now.isoformat()}', '{now.isoformat()}')",
                f"delete from customers where id = 'n{number - 2}'",
            )

    def _look(self, deployment: Deployment, case: Case) -> None:
        """What a reader sees right after the fault: a whole version, or no table yet."""
        source, table = deployment.select([case.table])[0]
        state = deployment.lake.state(source.name, table)
        published = deployment.warehouse.state(source.name, table)
        if state is not None:
            found = checksum_of(deployment.lake.scan(source.name, table), state.schema)
            if (found.rows, found.hex) != (state.current.marker.rows, state.current.marker.checksum):
                self.tally.problems.append(f"{case}: the lake showed {found.rows} rows that no version has")
        if published is not None and state is not None:
            schema = state.schema
            found = checksum_of(deployment.warehouse.scan(source.name, table, schema), schema)
            if (found.rows, found.hex) != (published.marker.rows, published.marker.checksum):
                self.tally.problems.append(f"{case}: the warehouse showed {found.rows} rows that no version has")

    def _compare(self, deployment: Deployment, case: Case) -> None:
        source, table = deployment.select([case.table])[0]
        (report,) = verify_source_tables(deployment, source, [table], deep=True)
        copies = {copy.copy: copy for copy in report.copies}
        right = copies["source"].rows
        for copy in report.copies:
            self.tally.rows_checked += copy.rows
            self.tally.lost += max(0, right - copy.rows)
        name = f"`{deployment.settings.warehouse.database}`.`{source.name}__{table.name}`"
        key = ", ".join(f"`{column}`" for column in table.key)
        (counted,) = deployment.warehouse.query(f"select count() - uniqExact({key}) as doubled from {name}").to_pylist()
        self.tally.doubled += int(counted["doubled"])
        if len({(copy.rows, copy.checksum, copy.sequence) for copy in report.copies}) != 1 or not report.equal:
            self.tally.problems.append(
                f"{case}: {[(c.copy, c.sequence, c.rows, c.checksum, c.differs, c.problem) for c in report.copies]}"
            )


def both_formats(deployment: Deployment) -> Deployment:
    """A deployment of the shop, whose tables are there once more as Delta tables."""
    url = deployment.settings.sources["shop"]
    sources = {**deployment.settings.sources, SHOP_IN_DELTA.name: url}
    shop, *others = deployment.sources
    return Deployment(deployment.settings.model_copy(update={"sources": sources}), (shop, SHOP_IN_DELTA, *others))


def _go_to_a_checkpoint(deployment: Deployment, source: Source, table: Table) -> None:
    """Roll the table back and forth until its next commit is one after which its log is checkpointed."""
    lake = deployment.lake
    while (state := lake.state(source.name, table)) and state.current.version % CHECKPOINT_EVERY != CHECKPOINT_EVERY - 1:
        lake.rollback(source.name, table, state.current.version - 1)


def _folding(deployment: Deployment, engine: Engine) -> Settings:
    """The deployment's settings with this engine."""
    return deployment.settings.model_copy(update={"engine": engine})


def _free(case: Case) -> str:
    """The last hop that others can do while a process is stopped there."""
    return "lake" if case.passed.point.startswith("warehouse.") else "warehouse"


def distinct(cases: Sequence[Case]) -> list[Case]:
    """Those that differ in more than a number: of the times that a table's way comes by a point, the first and the last.

    An error before an effect is left out: nothing has happened then, as when the process is killed there.
    """
    last = {(case.table, case.state, case.passed.point, case.passed.moment): case.passed.nth for case in cases}
    return [
        case
        for case in cases
        if case.passed.nth in (1, last[case.table, case.state, case.passed.point, case.passed.moment])
        and (case.passed.moment, case.action) != ("before", "error")
    ]


def chosen(cases: Sequence[Case], seed: int) -> list[Case]:
    """A bounded choice: each point, the first time, killed after it and with its answer lost, at one of its tables and states.

    Those of the lake for each format; in the states in which a table's way is not taken, only points that it does not come by.
    To die before an effect is to die after the one before it: that this is so, and later times, are left to the whole matrix.
    """
    on_the_way = {case.passed.point for case in cases if case.work == "take"}
    dice = random.Random(seed)
    groups: dict[tuple[str, str, str, str], list[Case]] = {}
    for case in distinct(cases):
        first_after = (case.passed.moment, case.passed.nth) == ("after", 1)
        if not first_after or (case.work != "take" and case.passed.point in on_the_way):
            continue
        format_ = case.table.partition(".")[0].partition("_")[2] if case.passed.point.startswith("lake.") else ""
        groups.setdefault((format_, case.passed.point, case.passed.moment, case.action), []).append(case)
    return [dice.choice(group) for group in groups.values()]


def run_cases(matrix: Matrix, cases: Iterable[Case], say: Callable[[str], None]) -> Tally:
    """Run cases one after the other."""
    for number, case in enumerate(cases, start=1):
        told = len(matrix.tally.problems)
        say(f"{number}: {case}")
        matrix.run(case)
        for problem in matrix.tally.problems[told:]:
            say(problem)
    return matrix.tally
