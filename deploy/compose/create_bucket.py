"""Make the bucket that the settings name, unless it is there."""

import os
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError

bucket = urlsplit(os.environ["LAKEHOUSE_STORE__URL"]).netloc
client = boto3.client("s3", endpoint_url=os.environ["LAKEHOUSE_STORE__ENDPOINT"])
try:
    client.head_bucket(Bucket=bucket)
except ClientError:
    client.create_bucket(Bucket=bucket)
