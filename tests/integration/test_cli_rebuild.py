"""`lakehouse rebuild` as a person types it, on a deployment whose declaration was changed."""

from __future__ import annotations

from tests.deployments import Project, another_folder


def redeclare(folder: Project, before: str, after: str) -> None:
    """Change the declaration of the users, which come first in their source."""
    declared = folder.folder / "assets" / "chronochat.py"
    text = declared.read_text()
    assert before in text
    declared.write_text(text.replace(before, after, 1))


def test_a_declaration_is_changed_and_one_command_makes_the_table_so(demo: Project) -> None:
    rows = demo.warehouse("select count() from lakehouse.chronochat__users")
    with another_folder(demo) as folder:
        redeclare(folder, 'partition=bucket("id", 4)', 'partition=bucket("id", 8), format="delta"')
        shown = folder.lakehouse("rebuild", "chronochat.users", "--dry-run")
        assert "format: iceberg to delta" in shown.out
        assert "partitions: bucket(id, 4) to bucket(id, 8)" in shown.out
        refused = folder.lakehouse("rebuild", "chronochat.users", ends=1)
        assert "Nothing was done. Give --yes to do it." in refused.err
        document = folder.lakehouse("rebuild", "chronochat.users", "--dry-run", "--json").json()
        assert document["plan"]["now"]["partitioning"] == "bucket(id, 4)"
        assert (document["done"], document["record"]) == ([], None)
        done = folder.lakehouse("rebuild", "chronochat.users", "--yes")
        assert "rows and checksum are those of a second reading of the log" in done.err
        assert "rebuilt. Record: " in done.err
        told = folder.lakehouse("show", "chronochat.users", "--json").json()
        assert len(told["rebuilds"]) == 1
        assert told["declaration"]["format"] == "delta"
        assert "Last rebuilds" in folder.lakehouse("show", "chronochat.users").out
        assert all(table["equal"] for table in folder.lakehouse("verify", "--deep", "--json").json()["tables"])
        assert demo.warehouse("select count() from lakehouse.chronochat__users") == rows
    assert demo.lakehouse("rebuild", "chronochat.users", "--json", "--yes").json()["done"]
    demo.verify()
    wrong = demo.lakehouse("rebuild", "chronochat", ends=2)
    assert "one table, as source.table" in wrong.err
