"""Reading a published table to verify it: what tells a partition's stored rows from others, and its rows at the least cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from lakehouse.warehouse.clickhouse.client import ClickHouseClient
from lakehouse.warehouse.clickhouse.layout import literal, quoted
from lakehouse.warehouse.clickhouse.rows import encoded_from_clickhouse, select_list

_ID = "_partition_id"
_LOOKED_AT = 65_536
"""Rows that tell which texts repeat."""
_STREAM = "SETTINGS output_format_arrow_low_cardinality_as_dictionary = 1, preferred_block_size_bytes = 16777216"
"""Few large blocks instead of many of a megabyte: each costs its turn through every column here."""
_NAMES = 500
"""Partitions that one statement names at most."""


def partition_contents(client: ClickHouseClient, database: str, name: str) -> dict[str, str] | None:
    """For each partition a hash of its active parts, and of what says how they are read.

    A part's `hash_of_all_files` is over the checksums of its files, which the server proves when it reads them: two parts with
    the same one hold the same bytes. A clone shares it; an insert, a merge, an ALTER or a lightweight delete makes new parts.
    Columns and engine are in the hash too: a default that was altered shows in old parts without changing them.
    None while a mutation has not ended, or where patch parts lie over the others.
    """
    where = f"database = {literal(database)} AND table = {literal(name)}"
    told = client.rows(
        "SELECT 'column' AS kind, name, type, default_kind, default_expression, toUInt64(position) AS place "
        f"FROM system.columns WHERE {where} "
        "UNION ALL SELECT 'engine', engine_full, '', '', '', 0 FROM system.tables "
        f"WHERE database = {literal(database)} AND name = {literal(name)} "
        f"UNION ALL SELECT 'mutation', mutation_id, '', '', '', 0 FROM system.mutations WHERE {where} AND NOT is_done "
        "UNION ALL SELECT 'part', partition_id, hash_of_all_files, '', '', rows FROM system.parts "
        f"WHERE active AND {where}",
        f"looking at the parts of {database}.{name} in the warehouse",
    )
    parts = sorted((str(partition), int(rows), str(sum_)) for kind, partition, sum_, *_, rows in told if kind == "part")
    patched = any(partition.startswith("patch-") or not sum_ for partition, _, sum_ in parts)
    if patched or any(kind == "mutation" for kind, *_ in told):
        return None
    found: dict[str, list[list[str]]] = {}
    for partition, rows, sum_ in parts:
        found.setdefault(partition, []).append([str(rows), sum_])
    columns = [row for _, *row in sorted((place, *row) for kind, *row, place in told if kind == "column")]
    shape = [[str(value) for value in row] for row in (*columns, *([row[1]] for row in told if row[0] == "engine"))]
    return {partition: _hash([shape, own]) for partition, own in found.items()}


def scan_partitions(
    client: ClickHouseClient, relation: str, schema: pa.Schema, partitions: Collection[str] | None, tried: str
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of the partitions of these ids, or of all, each batch with the id of the partition that it is from."""
    repeated = _repeated(client, relation, schema, tried)
    chosen = f"{select_list(schema, repeated)}, {_ID}"
    wanted = [None] if partitions is None else _cut(sorted(partitions))
    for ids in wanted:
        condition = "" if ids is None else f" WHERE {_ID} IN ({', '.join(literal(name) for name in ids)})"
        for batch in client.stream(f"SELECT {chosen} FROM {relation}{condition} {_STREAM}", tried):
            yield from _by_partition(batch, schema)


def _by_partition(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of one partition after the other; a block of the server's is nearly always of one."""
    ids = batch.column(_ID)
    encoded = ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()
    rows, found = encoded_from_clickhouse(batch, schema), encoded.indices.unique()
    for code in found:
        name = encoded.dictionary[code.as_py()].as_py()
        own = rows if len(found) == 1 else rows.filter(pc.equal(encoded.indices, code))
        yield name.decode() if isinstance(name, bytes) else str(name), own


def _repeated(client: ClickHouseClient, relation: str, schema: pa.Schema, tried: str) -> frozenset[str]:
    """The columns of texts that have few values, by a look at some rows; they cost less as dictionaries."""
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    if not texts:
        return frozenset()
    counts = ", ".join(f"uniq({quoted(name)})" for name in texts)
    names = ", ".join(quoted(name) for name in texts)
    [found] = client.rows(f"SELECT count(), {counts} FROM (SELECT {names} FROM {relation} LIMIT {_LOOKED_AT})", tried)
    rows, *distinct = found
    return frozenset(name for name, count in zip(texts, distinct, strict=True) if count * 8 <= rows)


def _cut(names: list[str]) -> list[list[str]]:
    return [names[start : start + _NAMES] for start in range(0, len(names), _NAMES)]


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
