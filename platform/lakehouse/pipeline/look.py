"""Whether a run would find anything to do, found out without doing it.

It follows the code of the run itself, over the same windows and checksums. A source's look ends at the first thing that is new,
those of the other sources after the table that they are at. So an hour in which nothing happened costs a few queries and no run.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.deployment import Deployment, with_quarantines
from lakehouse.pipeline.extract import has_news
from lakehouse.pipeline.statistics import stale_statistics
from lakehouse.spec import Source, Table, declared_tables
from lakehouse.warehouse.publisher import Published


def is_up_to_date(deployment: Deployment, chosen: Sequence[tuple[Source, Table]]) -> bool:
    """Whether the chosen tables hold everything that their sources show, at every hop, and no day of the statistics is stale.

    What cannot be read is not up to date: the run will say why, and go on with the other tables.
    """
    sources = {source.name: source for source, _ in chosen}
    enough = threading.Event()
    with ThreadPoolExecutor(len(sources)) as pool:
        # A source answers while we compare the copies, and while the lake's library is imported.
        asked = [
            pool.submit(
                has_news, deployment, source, declared_tables(table for of, table in chosen if of.name == name), enough.is_set
            )
            for name, source in sources.items()
        ]
        try:
            published = _published(deployment, chosen)
            kept = [(s, t) for s, t in with_quarantines(chosen) if (s, t) not in chosen and deployment.log(s, t).head()]
            whole = published | _published(deployment, kept)
            level = all(_is_level(deployment, source, table, whole[_name(source, table)]) for source, table in [*chosen, *kept])
            if not level or stale_statistics(deployment, published).is_stale:
                return False
            return not any(news.result() for news in as_completed(asked))
        except LakehouseError:
            return False
        finally:
            enough.set()


def _published(deployment: Deployment, chosen: Sequence[tuple[Source, Table]]) -> dict[str, Published | None]:
    return {_name(source, table): deployment.warehouse.state(source.name, table) for source, table in chosen}


def _name(source: Source, table: Table) -> str:
    return f"{source.name}.{table.name}"


def _is_level(deployment: Deployment, source: Source, table: Table, published: Published | None) -> bool:
    """Whether lake and warehouse hold the whole raw log."""
    head = deployment.log(source, table).head()
    if not head:
        return True
    state = deployment.lake.state(source.name, table)
    if state is None or published is None:
        return False
    if deployment.lake.has_old_names(source.name, table):
        return False
    return (published.marker.sequence, published.reading) == (head, table.reading) and state.current.marker == published.marker
