"""Back to a log that can be read, when a commit or a checkpoint of it is damaged."""

from __future__ import annotations

from lakehouse.errors import DamagedData
from lakehouse.faults import effect
from lakehouse.settings import StoreSettings
from lakehouse.stores import ObjectStore
from lakehouse.tables.delta.log import DeltaLog
from lakehouse.tables.delta.opening import open_table

ASIDE = "_damaged"
"""The folder beside the log that damaged files are kept in."""


def restore_log(settings: StoreSettings, store: ObjectStore, root: str, name: str) -> str | None:
    """See `LakeTables.restore`. First the checkpoints are set aside, then commits from the newest, until the rest can be read.

    A log whose first versions are expired begins with a checkpoint, which goes last of all. The marker in what is left says where
    the table stands then. Nobody can commit meanwhile: nobody can read the table.
    """
    log = DeltaLog(store, root)
    there = sorted(path for path in log.names() if path.endswith((".json", ".parquet", "_last_checkpoint")))
    if not there or _reads(settings, store, root):
        return None
    commits = [path for path in there if path.endswith(".json")]
    others = [path for path in there if path not in commits]
    first = [] if log.has(0) else others[:1]
    for path in (path for path in others if path not in first):
        _set_aside(store, root, path)
    while commits:
        if _reads(settings, store, root):
            return store.url_of(commits[-1])
        _set_aside(store, root, commits.pop())
    for path in first:
        _set_aside(store, root, path)
    raise DamagedData(
        f"restoring the log of lake table {name}",
        value=f"none of {len(there)} files under {store.url_of(log.folder)} can be read",
        allowed="one that can",
        remedy=f"The damaged files are under {store.url_of(root)}/{ASIDE}. Run `lakehouse run`: the table is built anew.",
    )


def _reads(settings: StoreSettings, store: ObjectStore, root: str) -> bool:
    """Whether delta-rs reads the table, and the newest commit can be parsed; delta-rs lets an empty one pass."""
    try:
        delta = open_table(root, settings)
        if delta is None:
            return False
        delta.get_add_actions()
        DeltaLog(store, root).actions(delta.version())
    except DamagedData:
        return False
    return True


def _set_aside(store: ObjectStore, root: str, path: str) -> None:
    """Keep a file of the log where no reader looks; the copy is there before the file is gone."""
    data = store.get(path)
    with effect("lake.restore"):
        store.put(f"{root}/{ASIDE}/{path.rpartition('/')[2]}", data)
        store.delete(path)
