"""Object stores: S3 and its kin, and a folder. One contract suite runs over both."""

from lakehouse.stores.disk import disk_full, needing_room
from lakehouse.stores.elapsed import LONGEST_HOURS, refuse_late, started
from lakehouse.stores.objects import ObjectInfo, ObjectStore
from lakehouse.stores.opening import open_store

__all__ = [
    "LONGEST_HOURS",
    "ObjectInfo",
    "ObjectStore",
    "disk_full",
    "needing_room",
    "open_store",
    "refuse_late",
    "started",
]
