"""The raw log: every batch of a table as it came, in order, for ever."""

from lakehouse.raw.current import CurrentRows, duckdb_types
from lakehouse.raw.kept import KeptManifests
from lakehouse.raw.log import RawLog
from lakehouse.raw.manifest import decode_manifest, encode_manifest, fields_of, fingerprint, schema_of, seal_of
from lakehouse.raw.renaming import as_stored, under_todays_names
from lakehouse.raw.windows import standing
from lakehouse.raw.writer import Written, sha256_of

__all__ = [
    "CurrentRows",
    "KeptManifests",
    "RawLog",
    "Written",
    "as_stored",
    "decode_manifest",
    "duckdb_types",
    "encode_manifest",
    "fields_of",
    "fingerprint",
    "schema_of",
    "seal_of",
    "sha256_of",
    "standing",
    "under_todays_names",
]
