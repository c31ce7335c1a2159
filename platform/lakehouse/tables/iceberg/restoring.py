"""Back to metadata that can be read, when what the catalog names is gone or damaged."""

from __future__ import annotations

from lakehouse.errors import CommitConflict, DamagedData
from lakehouse.stores import ObjectStore
from lakehouse.tables.iceberg.catalog import LakeCatalog

METADATA_SUFFIX = ".metadata.json"


def restore_metadata(catalog: LakeCatalog, store: ObjectStore, source: str, table: str) -> str | None:
    """See `LakeTables.restore`. The catalog knows what was committed before; older metadata is found by its name.

    A file found so may be of a commit that lost, with data files that are gone: whoever restores reads the table afterwards.
    """
    name = f"{source}.{table}"
    pointers = catalog.pointers(source, table)
    if pointers is None or catalog.loads(pointers[0]):
        return None
    current, previous = pointers
    folder = f"lake/{source}/{table}/metadata"
    addresses = [store.url_of(info.path) for info in store.list(folder) if info.path.endswith(METADATA_SUFFIX)]
    for address in [*([previous] if previous else []), *sorted(addresses, reverse=True)]:
        if address != current and catalog.loads(address):
            if catalog.repoint(source, table, current, address):
                return address
            raise CommitConflict(
                f"restoring the metadata of lake table {name}",
                value="another process moved the table meanwhile",
                allowed=f"a table that is still led to {current}",
                remedy="Run it again.",
            )
    raise DamagedData(
        f"restoring the metadata of lake table {name}",
        value=f"none of {len(addresses)} metadata files under {store.url_of(folder)} can be read",
        allowed="one that can",
        remedy="Restore one from a copy of the store.",
    )
