"""Storage as pyarrow sees it, for libraries that write through it (Ray Train's checkpoints)."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from talklip_ray.config import StorageConfig
from talklip_ray.storage.address import bucket_and_key, local_path, scheme


def arrow_filesystem(config: StorageConfig, uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder, and the folder's path in it. Credentials are found where they are used, by the
    usual AWS chain: none travel with it.
    """
    if scheme(uri) != "s3":
        return fs.LocalFileSystem(), str(local_path(uri).absolute())
    bucket, key = bucket_and_key(uri, folder=True)
    where: dict[str, Any] = {}
    # pyarrow does not look for an endpoint in the environment by itself
    if endpoint := config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        parts = urlsplit(endpoint)
        where = {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    if region := config.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        where["region"] = region
    return fs.S3FileSystem(**where), f"{bucket}/{key}".rstrip("/")
