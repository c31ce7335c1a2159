"""The embedded servers: start, repair, stop."""

from __future__ import annotations

import boto3
import psycopg
import pymongo

from lakehouse.settings import StoreSettings


def test_a_fresh_postgres_database_takes_rows(postgres_database: str) -> None:
    with psycopg.connect(postgres_database) as connection:
        connection.execute("create table t as select 1 as a")
        assert connection.execute("show wal_level").fetchone() == ("logical",)


def test_a_fresh_mongo_database_takes_documents(mongo_database: str) -> None:
    with pymongo.MongoClient[dict[str, int]](mongo_database) as client:
        client.get_default_database()["c"].insert_one({"a": 1})
        assert client.get_default_database()["c"].count_documents({}) == 1


def test_a_fresh_prefix_takes_objects(s3_store: StoreSettings) -> None:
    assert s3_store.access_key is not None
    assert s3_store.secret_key is not None
    client = boto3.client(
        "s3",
        endpoint_url=s3_store.endpoint,
        region_name=s3_store.region,
        aws_access_key_id=s3_store.access_key.get_secret_value(),
        aws_secret_access_key=s3_store.secret_key.get_secret_value(),
    )
    bucket, _, prefix = s3_store.url.removeprefix("s3://").partition("/")
    client.put_object(Bucket=bucket, Key=f"{prefix}/a", Body=b"1")
    assert client.get_object(Bucket=bucket, Key=f"{prefix}/a")["Body"].read() == b"1"
