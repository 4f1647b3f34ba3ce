"""A real S3 server on loopback, and fsspec told where it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import boto3
import fsspec
import s3fs
from moto.server import ThreadedMotoServer

from curate.storage import places


@contextmanager
def object_store() -> Iterator[str]:
    """The URL of an empty bucket."""
    name = f"bucket-{uuid4().hex}"  # the servers of a process share what they hold
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    secrets = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **secrets).create_bucket(
        Bucket=name
    )
    before = fsspec.config.conf.get("s3")
    fsspec.config.conf["s3"] = {"endpoint_url": endpoint, "key": "test", "secret": "test"}
    try:
        places._file_system.cache_clear()
        yield f"s3://{name}"
    finally:
        places._file_system.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()
        if before is None:
            del fsspec.config.conf["s3"]
        else:
            fsspec.config.conf["s3"] = before
        server.stop()
