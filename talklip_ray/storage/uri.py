"""One Store for every URI: each call goes to the store its scheme names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from talklip_ray.config import StorageConfig
from talklip_ray.storage.address import CLOUDS, join, scheme
from talklip_ray.storage.filesystem import FsspecStore
from talklip_ray.storage.local import LocalStore
from talklip_ray.storage.s3 import S3Store
from talklip_ray.storage.store import Stat, Store

__all__ = ["join", "open_store"]


def open_store(config: StorageConfig | None = None) -> Store:
    """A store for plain paths and the URIs of ``file``, ``s3``, ``gs``, ``az``, ``abfs`` and ``abfss``.

    Connects to nothing until it is used.
    """
    return _Router(config or StorageConfig())


class _Router:
    def __init__(self, config: StorageConfig) -> None:
        self._local = LocalStore()
        self._s3 = S3Store(config)
        self._clouds = FsspecStore()

    def _of(self, uri: str) -> Store:
        kind = scheme(uri)
        return self._s3 if kind == "s3" else self._clouds if kind in CLOUDS else self._local

    def stat(self, uri: str) -> Stat:
        return self._of(uri).stat(uri)

    def read(self, uri: str, limit: int | None = None) -> bytes:
        return self._of(uri).read(uri, limit)

    def open(self, uri: str, *, etag: str = "") -> BinaryIO:
        return self._of(uri).open(uri, etag=etag)

    def write(self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str = "") -> Stat:
        return self._of(uri).write(uri, data, if_absent=if_absent, if_match=if_match)

    def upload(self, path: Path, uri: str) -> Stat:
        return self._of(uri).upload(path, uri)

    def download(self, uri: str, path: Path) -> Stat:
        return self._of(uri).download(uri, path)

    def delete(self, uri: str) -> None:
        self._of(uri).delete(uri)

    def delete_prefix(self, uri: str) -> int:
        return self._of(uri).delete_prefix(uri)

    def list(self, prefix: str) -> Iterator[Stat]:
        return self._of(prefix).list(prefix)

    def stats(self, folder: str, names: Sequence[str]) -> dict[str, Stat]:
        return self._of(folder).stats(folder, names)

    def sweep(self, prefix: str, older_seconds: float) -> int:
        return self._of(prefix).sweep(prefix, older_seconds)
