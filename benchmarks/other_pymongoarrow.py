"""pymongoarrow with an explicit schema, by an interpreter that has it: `python other_pymongoarrow.py URL`.

Imports nothing of ours.
"""

import json
import sys
import tempfile
import time
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pymongo
from bson import ObjectId
from pymongoarrow.api import Schema, find_arrow_all  # type: ignore[import-not-found]

began, cpu = time.monotonic(), time.process_time()
schema = Schema(
    {
        "_id": ObjectId,
        "created_at": datetime,
        "user": pa.string(),
        "kind": pa.string(),
        "count": pa.int64(),
        "score": pa.float64(),
        "active": pa.bool_(),
        "profile": pa.struct([("city", pa.string())]),
    }
)
with pymongo.MongoClient[dict[str, Any]](sys.argv[1]) as client, tempfile.NamedTemporaryFile() as file:
    found = find_arrow_all(client.get_default_database()["documents"], {}, schema=schema)
    ids = found.column("_id").cast(pa.binary(12))
    found = found.set_column(0, "_id", ids)
    pq.write_table(found, file.name, compression="zstd", compression_level=1)
print(json.dumps({"rows": found.num_rows, "seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}))
