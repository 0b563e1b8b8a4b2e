"""Objects in Google Cloud Storage and Azure, through fsspec, as a Store.

What is promised is what S3 is held to, and as there conditions are decided by the server. Requests are repeated
by the clouds' own libraries, with pauses of their own. Every object carries the SHA-256 of its content and a
random mark of the write that made it, so that a write whose acknowledgement got lost is known for our own.

``memory://`` is this process's memory: for tests.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from talklip_ray.errors import ConfigError, NotFoundError, SourceChangedError, TransientStoreError
from talklip_ray.storage.address import container_and_key, scheme
from talklip_ray.storage.blocks import BlockReader
from talklip_ray.storage.cloud_errors import cloud_call
from talklip_ray.storage.clouds import Cloud, Found, connect
from talklip_ray.storage.retries import DamagedError, TryAgainError, again_after
from talklip_ray.storage.store import PreconditionFailedError, Stat
from talklip_ray.storage.transfer import DOWNLOAD_BYTES, asked_for, check_digest, fetch_file, send_file
from talklip_ray.telemetry import STORE_BYTES, record

SHA256, WRITE = "talklip_sha256", "talklip_write"
"""Keys of an object's metadata, as Azure wants them: identifiers."""
NUM_DELETERS = 16
"""Neither library deletes many objects in one request, without reading "*" in a name as any name."""
_MAKING = threading.Lock()
_OPENED: dict[tuple[int, str, str], Cloud] = {}
"""By process, scheme and account. A forked child must not use its parent's connections, nor may it drop them: to close
them would take them from the parent. So they stay.
"""


class FsspecStore:
    """A Store over ``gs://bucket/key``, ``az://container/key`` and its other spellings, and ``memory://any/key``.

    The account of ``az://`` is the environment's; ``abfs://container@account.dfs.core.windows.net/key`` names one.
    """

    def stat(self, uri: str) -> Stat:
        return _stat(uri, self._found(uri))

    @again_after(TryAgainError, DamagedError)
    def read(self, uri: str, limit: int | None = None) -> bytes:
        cloud, path = _place(uri)
        found = self._found(uri)
        size = found.size if limit is None else min(limit, found.size)
        try:
            with cloud_call(uri, "read", cloud.errors):
                data = cloud.fetch(path, 0, size, found.etag) if size else b""
        except (NotFoundError, PreconditionFailedError) as error:
            raise TryAgainError(uri, "must stay while it is read, found it replaced. Try again") from error
        if len(data) != size:
            raise TryAgainError(uri, f"must arrive whole, found {len(data)} of {size} bytes. Try again")
        if size == found.size:
            check_digest(uri, found.labels.get(SHA256, ""), hashlib.sha256(data).hexdigest())
        record(STORE_BYTES, len(data), direction="read")
        return data

    def open(self, uri: str, *, etag: str = "") -> BinaryIO:
        stat = self.stat(uri)
        if etag and stat.etag != etag:
            raise SourceChangedError(uri, f"must still be version {etag}, found {stat.etag}. Plan the title again")
        return io.BufferedReader(_Reader(stat), 128 << 10)

    def write(self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str = "") -> Stat:
        digest, mark = hashlib.sha256(data).hexdigest(), secrets.token_hex(16)
        labels = {SHA256: digest, WRITE: mark}
        try:
            etag = _put(uri, data, labels, if_absent=if_absent, if_match=if_match)
        except (PreconditionFailedError, TransientStoreError):
            landed = self._landed(uri, mark) if if_absent or if_match else None
            if landed is None:
                raise
            return landed
        record(STORE_BYTES, len(data), direction="written")
        return Stat(uri, len(data), etag, digest)

    def upload(self, path: Path, uri: str) -> Stat:
        return send_file(path, uri, partial(_put_file, path, uri), partial(self._landed, uri))

    @again_after(DamagedError)
    def download(self, uri: str, path: Path) -> Stat:
        return fetch_file(_Reader(self.stat(uri), block_bytes=DOWNLOAD_BYTES, num_blocks=1), path)

    def delete(self, uri: str) -> None:
        cloud, path = _place(uri)
        with suppress(NotFoundError), cloud_call(uri, "delete", cloud.errors):
            cloud.delete(path)

    def delete_prefix(self, uri: str) -> int:
        if not container_and_key(uri, folder=True)[1]:
            raise ConfigError(uri, "a folder to delete must not be a whole bucket or container. Name a folder in it")
        with ThreadPoolExecutor(NUM_DELETERS) as pool:
            return sum(1 for _ in pool.map(lambda stat: self.delete(stat.uri), self.list(uri)))

    def list(self, prefix: str) -> Iterator[Stat]:
        cloud, folder = _place(prefix, folder=True)
        container, _ = container_and_key(prefix, folder=True)
        with cloud_call(prefix, "list", cloud.errors):
            found = list(cloud.list(folder))
        for one in found:
            if not one.path.endswith("/"):
                _, _, key = one.path.partition("/")
                yield _stat(f"{scheme(prefix)}://{container}/{key}", one)

    def stats(self, folder: str, names: Sequence[str]) -> dict[str, Stat]:
        return asked_for(self.stat, folder, names)

    def sweep(self, prefix: str, older_seconds: float) -> int:
        """Nothing: what was never completed is not to be found here, and both clouds let go of it after a week."""
        container_and_key(prefix, folder=True)
        return 0

    def _found(self, uri: str) -> Found:
        cloud, path = _place(uri)
        with cloud_call(uri, "head", cloud.errors):
            return cloud.stat(path)

    def _landed(self, uri: str, mark: str) -> Stat | None:
        """The object, if it is the one the write with this mark made."""
        try:
            found = self._found(uri)
        except NotFoundError:
            return None
        return _stat(uri, found) if found.labels.get(WRITE) == mark else None


def filesystem_of(uri: str) -> tuple[Any, str]:
    """fsspec's file system for a folder, and the folder's path in it, for libraries that write through one."""
    cloud, path = _place(uri, folder=True)
    return cloud.filesystem, cloud.filesystem.root_marker + path.rstrip("/")


class _Reader(BlockReader):
    def fetch(self, start: int, stop: int) -> bytes:
        cloud, path = _place(self.stat.uri)
        with cloud_call(self.stat.uri, "fetch", cloud.errors):
            return cloud.fetch(path, start, stop, self.stat.etag)


def _place(uri: str, *, folder: bool = False) -> tuple[Cloud, str]:
    """The cloud that a URI is in, and the path there."""
    where, key = container_and_key(uri, folder=folder)
    container, _, account = where.partition("@")
    kind = scheme(uri)
    with _MAKING:
        opened = (os.getpid(), kind, account)
        if opened not in _OPENED:
            with cloud_call(uri, "connect", (Exception,)):
                _OPENED[opened] = connect(kind, account)
        return _OPENED[opened], f"{container}/{key}"


@again_after(TryAgainError)
def _put(uri: str, data: bytes, labels: dict[str, str], **conditions: Any) -> str:
    cloud, path = _place(uri)
    with cloud_call(uri, "write", cloud.errors):
        return cloud.put(path, data, labels, **conditions)


def _put_file(path: Path, uri: str, digest: str, mark: str) -> None:
    cloud, target = _place(uri)
    with cloud_call(uri, "write", cloud.errors):
        cloud.put_file(target, path, {SHA256: digest, WRITE: mark})


def _stat(uri: str, found: Found) -> Stat:
    return Stat(uri, found.size, found.etag, found.labels.get(SHA256, ""))
