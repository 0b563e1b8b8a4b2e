"""Files on this machine as a Store. Folders are made as needed.

An ETag is a file's size and time of change.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat as modes
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from talklip_ray.errors import ConfigError, NotFoundError, SourceChangedError
from talklip_ray.storage.address import join, local_path
from talklip_ray.storage.atomic import LEFTOVER, etag_of, staged, translated
from talklip_ray.storage.store import PreconditionFailedError, Stat

CHUNK = 1 << 20


class LocalStore:
    """A Store over plain paths and ``file://`` URIs."""

    def stat(self, uri: str) -> Stat:
        with translated(uri):
            status = local_path(uri).stat()
        if not modes.S_ISREG(status.st_mode):
            found = "a folder" if modes.S_ISDIR(status.st_mode) else "a device, pipe or socket"
            raise NotFoundError(uri, f"must be a file, found {found}. Check the path")
        return Stat(uri, status.st_size, etag_of(status))

    def read(self, uri: str, limit: int | None = None) -> bytes:
        with self.open(uri) as file, translated(uri):
            return file.read() if limit is None else file.read(limit)

    def open(self, uri: str, *, etag: str = "") -> BinaryIO:
        self.stat(uri)  # a pipe would block in open()
        with translated(uri):
            file = _PinnedFile(local_path(uri), uri)
        if etag and file.etag != etag:
            file.close()
            raise SourceChangedError(uri, f"must still be version {etag}, found {file.etag}. Plan the title again")
        return io.BufferedReader(file, CHUNK // 4)

    def write(self, uri: str, data: bytes, *, if_absent: bool = False, if_match: str = "") -> Stat:
        path = local_path(uri)
        try:
            with translated(uri), staged(path, if_absent=if_absent, if_match=if_match) as new:
                new.file.write(data)
        except PreconditionFailedError as error:
            raise PreconditionFailedError(uri, error.detail) from error
        return Stat(uri, len(data), new.etag, hashlib.sha256(data).hexdigest())

    def upload(self, path: Path, uri: str) -> Stat:
        return _copy(path, local_path(uri), str(path), uri)

    def download(self, uri: str, path: Path) -> Stat:
        self.stat(uri)
        copied = _copy(local_path(uri), path, uri, str(path))
        return Stat(uri, copied.size, self.stat(uri).etag, copied.sha256)

    def delete(self, uri: str) -> None:
        with translated(uri):
            local_path(uri).unlink(missing_ok=True)

    def delete_prefix(self, uri: str) -> int:
        folder = local_path(uri)
        if folder.resolve().parent == folder.resolve():
            raise ConfigError(uri, "a folder to delete must not be the whole file system. Name one below it")
        count = sum(1 for _ in self.list(uri))
        with translated(uri):
            if folder.is_dir():
                shutil.rmtree(folder)
        return count

    def list(self, prefix: str) -> Iterator[Stat]:
        yield from _walk(prefix)

    def stats(self, folder: str, names: Sequence[str]) -> dict[str, Stat]:
        found = {}
        for name in names:
            with suppress(NotFoundError):
                found[name] = self.stat(join(folder, name))
        return found

    def sweep(self, prefix: str, older_seconds: float) -> int:
        swept = 0
        with translated(prefix):
            for folder, _, names in os.walk(local_path(prefix)):
                for path in (Path(folder, name) for name in names if name.startswith(LEFTOVER)):
                    with suppress(FileNotFoundError):
                        if time.time() - path.stat().st_mtime >= older_seconds:
                            path.unlink()
                            swept += 1
        return swept


class _PinnedFile(io.FileIO):
    """A file that must stay as it was when it was opened.

    One replaced by another stays readable to its end.
    """

    def __init__(self, path: Path, uri: str) -> None:
        super().__init__(path, "rb")
        self.uri = uri
        self.etag = etag_of(os.fstat(self.fileno()))

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:  # type: ignore[override]
        count = super().readinto(buffer)
        self._check()
        return count

    def readall(self) -> bytes:
        data = super().readall()
        self._check()
        return data

    def _check(self) -> None:
        found = etag_of(os.fstat(self.fileno()))
        if found != self.etag:
            raise SourceChangedError(
                self.uri,
                f"must stay version {self.etag} while it is read, found {found}. Plan the title again",
            )


def _copy(source: Path, target: Path, source_where: str, target_where: str) -> Stat:
    digest, size = hashlib.sha256(), 0
    with translated(source_where):
        reader = source.open("rb")
    with reader, translated(target_where), staged(target) as new:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            new.file.write(chunk)
    return Stat(target_where, size, new.etag, digest.hexdigest())


def _walk(folder_uri: str) -> Iterator[Stat]:
    try:
        entries = sorted(os.scandir(local_path(folder_uri)), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        with translated(folder_uri):
            raise
    for entry in entries:
        name = entry.name
        if name.startswith(LEFTOVER):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(join(folder_uri, name))
            continue
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue  # deleted meanwhile, or a link that leads nowhere
        if modes.S_ISREG(status.st_mode):
            yield Stat(join(folder_uri, name), status.st_size, etag_of(status))
