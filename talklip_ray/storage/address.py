"""Taking URIs apart. ``s3://bucket/key`` and those of other clouds take the key as it is written.

``file:///path`` is percent-encoded.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

from talklip_ray.errors import ConfigError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
CLOUDS = frozenset({"gs", "az", "abfs", "abfss", "memory"})
"""Schemes that are reached through fsspec. The last one is this process's memory, for tests."""
SERVED = "`file:///path`, `s3://bucket/key`, `gs://bucket/key` or `az://container/key` (also abfs, abfss)"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")

_CONTAINER = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9.-]*)?")


def scheme(uri: str) -> str:
    """``s3``, ``file``, ...; "" for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def absolute(uri: str) -> str:
    """The same place, by a name that processes with another working directory can use."""
    return uri if scheme(uri) or not uri else str(Path(uri).absolute())


def bucket_and_key(uri: str, *, folder: bool = False) -> tuple[str, str]:
    """Bucket and key of an S3 URI. With ``folder`` the key is "" or ends in "/". Raises ConfigError."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    if scheme(uri) != "s3" or not _BUCKET.fullmatch(bucket):
        raise ConfigError(uri, "must be an `s3://bucket/key` URI with a bucket name of 3 letters or more")
    return bucket, _key(uri, key, folder)


def container_and_key(uri: str, *, folder: bool = False) -> tuple[str, str]:
    """Bucket or container, with its account where the URI names one (``container@account``), and key of a URI in a
    cloud other than S3. With ``folder`` the key is "" or ends in "/". Raises ConfigError.
    """
    container, _, key = uri.partition("://")[2].partition("/")
    if scheme(uri) not in CLOUDS or not _CONTAINER.fullmatch(container):
        raise ConfigError(uri, "must be `gs://bucket/key`, `az://container/key` or `abfs://container@account/key`")
    return container, _key(uri, key, folder)


def _key(uri: str, key: str, folder: bool) -> str:
    if folder:
        return key.rstrip("/") + "/" if key.strip("/") else ""
    if not key or key.endswith("/"):
        raise ConfigError(uri, "must name an object, found a bucket or folder. Add the object's key")
    return key


def local_path(uri: str) -> Path:
    """The file a plain path or ``file://`` URI names. Raises ConfigError for anything else."""
    kind = scheme(uri)
    if not uri or "\0" in uri or kind not in {"", "file"}:
        raise ConfigError(uri, f"must be a path, {SERVED}")
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
