"""A user that the application marks as deleted: the statistics of his day are built anew without him, by commands alone."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.deployments import Project, demo_project

DELETED = "update users set deleted_at = now(), updated_at = now() where id = %s"


@pytest.fixture
def project() -> Iterator[Project]:
    with demo_project(run=False) as found:
        yield found


def sql(project: Project, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Run a statement on the application's database."""
    with psycopg.connect(project.env()["CHRONOCHAT_URL"], autocommit=True) as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def new_users(project: Project) -> dict[str, int]:
    """By day, as the headline has them."""
    rows = project.warehouse("select toString(day), new_users from statistics.daily_statistics")
    return {str(day): int(count) for day, count in rows}


def test_the_statistics_follow_a_row_that_becomes_marked(project: Project) -> None:
    sql(project, "alter table users add deleted_at timestamptz")
    declarations = project.folder / "assets" / "chronochat.py"
    text = declarations.read_text()
    declarations.write_text(text.replace('name="users",\n', 'name="users",\n            soft_delete="deleted_at",\n'))
    assert "readers of the warehouse do not see rows that deleted_at marks" in project.lakehouse("plan", "chronochat.users").out
    project.lakehouse("run", "--no-show")
    before, built = new_users(project), project.built_at()
    [(user, day)] = sql(project, "select id, (created_at at time zone 'utc')::date::text from users order by id limit 1")
    sql(project, DELETED, user)
    project.lakehouse("run", "--no-show")
    expected = {**before, str(day): before[str(day)] - 1}
    assert new_users(project) == expected
    assert {day for day, at in project.built_at().items() if built[day] != at} == {day}
    shown = project.lakehouse("show", "chronochat.users").out
    assert "1 of 60 published rows are marked as deleted by deleted_at; readers of the warehouse do not see them" in shown
    assert "rows marked as deleted: 1" in project.lakehouse("tables").err
    [lake] = project.query("select count(*) as n, count(deleted_at) as gone from chronochat.users", "lake")
    assert (lake["n"], lake["gone"]) == (60, 1)
    assert project.warehouse("select count() from lakehouse.chronochat__users__with_deleted") == [(60,)]
    project.verify()
    assert "no run was needed" in project.lakehouse("run", "--no-show").err
    declarations.write_text(text)
    assert "readers of the warehouse see all rows from then on" in project.lakehouse("plan", "chronochat.users").out
    project.lakehouse("run", "--no-show")
    assert new_users(project) == before
    project.verify()
