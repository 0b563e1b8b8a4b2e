"""One version of one S3 object as a seekable file.

fsspec keeps the blocks, boto3 fetches them. s3fs would do both, but through an event loop on a thread of its
own: a forked child that drops its copy of it unregisters the parent's connections in the epoll table the two
share, and the parent's next read hangs until it times out. It also repeats what botocore repeats already.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from talklip_ray.storage.address import bucket_and_key
from talklip_ray.storage.blocks import BLOCK_BYTES, NUM_BLOCKS, BlockReader
from talklip_ray.storage.s3_errors import s3_call
from talklip_ray.storage.store import Stat

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class S3Reader(BlockReader):
    """Every fetch asks for the version in ``stat``: bytes of two versions are never mixed."""

    def __init__(
        self, client: S3Client, stat: Stat, *, block_bytes: int = BLOCK_BYTES, num_blocks: int = NUM_BLOCKS
    ) -> None:
        super().__init__(stat, block_bytes=block_bytes, num_blocks=num_blocks)
        self._client = client

    def fetch(self, start: int, stop: int) -> bytes:
        bucket, key = bucket_and_key(self.stat.uri)
        with s3_call(self.stat.uri, "fetch"):
            reply = self._client.get_object(
                Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", IfMatch=f'"{self.stat.etag}"'
            )
            with contextlib.closing(reply["Body"]) as body:
                return body.read()
