"""Taking URIs apart. ``s3://bucket/key`` takes the key as it is written.

``file:///path`` is percent-encoded.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

from talklip_ray.errors import ConfigError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")


def scheme(uri: str) -> str:
    """``s3``, ``file``, ...; "" for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def bucket_and_key(uri: str, *, folder: bool = False) -> tuple[str, str]:
    """Bucket and key of an S3 URI. With ``folder`` the key is "" or ends in "/". Raises ConfigError."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    if scheme(uri) != "s3" or not _BUCKET.fullmatch(bucket):
        raise ConfigError(uri, "must be an `s3://bucket/key` URI with a bucket name of 3 letters or more")
    if folder:
        return bucket, key.rstrip("/") + "/" if key.strip("/") else ""
    if not key or key.endswith("/"):
        raise ConfigError(uri, "must name an object, found a bucket or folder. Add the object's key")
    return bucket, key


def local_path(uri: str) -> Path:
    """The file a plain path or ``file://`` URI names. Raises ConfigError for anything else."""
    kind = scheme(uri)
    if not uri or "\0" in uri or kind not in {"", "file"}:
        raise ConfigError(uri, "must be a path, a `file:///path` or an `s3://bucket/key` URI")
    if not kind:
        return Path(uri)
    host, slash, path = uri[len("file://") :].partition("/")
    if host not in {"", "localhost"} or not slash or "\0" in unquote(path):
        raise ConfigError(uri, "must be a file on this machine, written `file:///path`")
    return Path("/" + unquote(path))


def join(base: str, *names: str) -> str:
    """``base`` with names below it. A name may hold "/", but nothing that leads out of ``base``.

    ConfigError.
    """
    steps = [step for name in names for step in name.strip("/").split("/")]
    for step in steps:
        if step in {"", ".", ".."} or "\0" in step:
            raise ConfigError(f"{base}, {'/'.join(names)}", f"names below a folder must not hold {step!r}")
    if scheme(base) == "file":
        steps = [quote(step) for step in steps]
    if not base:
        raise ConfigError(base, "a folder to join names to must not be empty. Write `.` for the current one")
    root = base.rstrip("/")
    return "/".join([root, *steps])
