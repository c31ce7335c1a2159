"""What the applications' databases say is committed, against every copy of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
import pymongo

from lakehouse.settings import Settings, load_settings
from tests.crash.tally import Tally
from tests.deployments import Project


def compare(project: Project, settings: Settings, tally: Tally) -> None:
    """Count the rows of all copies, those that were committed and are not published, and those that are published twice."""
    verified = project.lakehouse("verify", "--deep", "--json", ends=None).json()
    for table in verified["tables"]:
        tally.rows_checked += sum(copy["rows"] for copy in table["copies"])
        if not table["equal"]:
            tally.problems.append(f"verify: {table}")
    for name, committed in committed_keys(settings).items():
        source, _, table = name.partition(".")
        key = "_id" if source == "chronochat_mongo" else "id"
        published = Counter(str(row[0]) for row in project.warehouse(f"select {key} from lakehouse.{source}__{table}"))
        tally.lost += sum((committed - published).values())
        tally.doubled += sum((published - committed).values())


def settings_of(project: Project) -> Settings:
    """The settings that lead to the project's servers."""
    return load_settings(home=project.home)


def committed_keys(settings: Settings) -> dict[str, Counter[str]]:
    """By table: the keys that the databases themselves say are committed; nothing of the platform is in between."""
    found: dict[str, Counter[str]] = {}
    with psycopg.connect(settings.source_url("chronochat")) as connection:
        for table in ("users", "user_sessions", "api_logs", "user_preferences", "user_usage_stats"):
            rows = connection.execute(f"select id::text from {table}").fetchall()
            found[f"chronochat.{table}"] = Counter(str(row[0]) for row in rows)
    with pymongo.MongoClient[dict[str, Any]](settings.source_url("chronochat_mongo")) as client:
        database = client.get_default_database()
        for name in ("conversations", "messages"):
            ids = (str(document["_id"]) for document in database[name].find({}, {"_id": 1}))
            found[f"chronochat_mongo.{name}"] = Counter(ids)
    return found
