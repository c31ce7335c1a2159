"""Whether a run would find anything to do, found out without doing it.

It follows the code of the run itself, over the same windows and checksums, and stops at the first thing that is new. So an hour
in which nothing happened costs a few queries and no run, and an hour in which something did costs little more than a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from lakehouse.errors import LakehouseError
from lakehouse.pipeline.deployment import Deployment
from lakehouse.pipeline.extract import has_news
from lakehouse.pipeline.statistics import stale_statistics
from lakehouse.spec import Source, Table


def is_up_to_date(deployment: Deployment, chosen: Sequence[tuple[Source, Table]]) -> bool:
    """Whether the chosen tables hold everything that their sources show, at every hop, and no day of the statistics is stale.

    What cannot be read is not up to date: the run will say why, and go on with the other tables.
    """
    try:
        return _is_all_level(deployment, chosen) and not _is_anything_new(deployment, chosen)
    except LakehouseError:
        return False


def _is_all_level(deployment: Deployment, chosen: Sequence[tuple[Source, Table]]) -> bool:
    """Whether lake, warehouse and statistics hold what the raw logs do."""
    level = all(_is_level(deployment, source, table) for source, table in chosen)
    return level and not stale_statistics(deployment).is_stale


def _is_anything_new(deployment: Deployment, chosen: Sequence[tuple[Source, Table]]) -> bool:
    """Whether any source shows something that its logs do not hold; the sources are asked at the same time."""
    sources = {source.name: source for source, _ in chosen}.values()
    tables = {source.name: [table for of, table in chosen if of.name == source.name] for source in sources}
    with ThreadPoolExecutor(len(tables)) as pool:
        news = pool.map(lambda source: has_news(deployment, source, tables[source.name]), sources)
        return any(list(news))


def _is_level(deployment: Deployment, source: Source, table: Table) -> bool:
    head = deployment.log(source, table).head()
    if not head:
        return True
    state, published = deployment.lake.state(source.name, table), deployment.warehouse.state(source.name, table)
    if state is None or published is None:
        return False
    return state.current.marker.sequence == published.marker.sequence == head and state.current.marker == published.marker
