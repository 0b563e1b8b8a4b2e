"""Storage as pyarrow sees it, for libraries that write through it (Ray Train's checkpoints)."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError
from talklip_ray.storage.address import CLOUDS, bucket_and_key, local_path, scheme
from talklip_ray.storage.filesystem import filesystem_of

_UNKNOWN = ("encryption", "kms_key", "sts_endpoint_url", "request_payer")
_INSTEAD = "a bucket can encrypt what it is given by default, and AWS_ENDPOINT_URL_STS names another STS"


def arrow_filesystem(config: StorageConfig, uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a folder, and the folder's path in it. Credentials are found where they are used, by the
    cloud's usual chain: none travel with it. Assumed roles and canned ACLs are followed.

    Raises ConfigError for settings that pyarrow cannot follow: objects are never written otherwise than asked for.
    """
    if scheme(uri) in CLOUDS:
        filesystem, path = filesystem_of(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path
    if scheme(uri) != "s3":
        return fs.LocalFileSystem(), str(local_path(uri).absolute())
    bucket, key = bucket_and_key(uri, folder=True)
    if unknown := [name for name in _UNKNOWN if getattr(config, name)]:
        raise ConfigError(
            uri,
            f"must be written by pyarrow here (checkpoints of training), which cannot follow {', '.join(unknown)}. "
            f"Leave {'these' if len(unknown) > 1 else 'it'} out of `storage`; {_INSTEAD}",
        )
    where: dict[str, Any] = {}
    # pyarrow does not look for an endpoint in the environment by itself
    if endpoint := config.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        parts = urlsplit(endpoint)
        where = {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    if region := config.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        where["region"] = region
    if config.role_arn:
        where |= {"role_arn": config.role_arn, "session_name": config.role_session_name}
        where |= {"external_id": config.external_id} if config.external_id else {}
    if config.acl:
        where["default_metadata"] = {"ACL": config.acl}
    return fs.S3FileSystem(**where), f"{bucket}/{key}".rstrip("/")
