"""Files that appear whole or not at all, and the one place that translates the system's errors.

A file is written beside its place under a ``.part-`` name, synced, and renamed. What a killed writer leaves
behind has that prefix, is never listed, and can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from talklip_ray.errors import AccessError, FullError, NotFoundError, StoreError, TransientStoreError
from talklip_ray.storage.store import PreconditionFailedError

LEFTOVER = ".part-"

_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PASSING = {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE}


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """OSError becomes the StoreError whose branch says who must act."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if error.errno in _MISSING:
            raise NotFoundError(where, f"must be a file, found: {reason}. Check the path") from error
        if error.errno in _FORBIDDEN:
            raise AccessError(where, f"must be accessible, found: {reason}. Check owner and mode") from error
        if error.errno in _FULL:
            raise FullError(where, f"needs room to be written, found: {reason}. Free some space") from error
        if error.errno in _PASSING:
            raise TransientStoreError(where, f"must answer, found: {reason}. Try again") from error
        raise StoreError(where, f"must be usable, found: {reason}") from error


def etag_of(status: os.stat_result) -> str:
    """A file's version: its size and the time of its last change."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"


@dataclass(slots=True)
class Staged:
    """A file on its way to its place."""

    file: IO[bytes]
    etag: str = ""
    """Of this very file, once it is in place: another writer may have replaced it since."""


@contextlib.contextmanager
def staged(path: Path, *, if_absent: bool = False, if_match: str = "") -> Iterator[Staged]:
    """A new file to write to that takes its place at ``path`` at the end of the block, unless it raises.

    Raises PreconditionFailedError when a condition is lost; OSError untranslated.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(LEFTOVER + secrets.token_hex(12))
    try:
        with open(temporary, "xb") as file:
            new = Staged(file)
            yield new
            file.flush()
            os.fsync(file.fileno())
            with _only_writer(path.parent) as folder:
                _land(temporary, path, if_absent=if_absent, if_match=if_match)
                os.fsync(folder)
            new.etag = etag_of(os.fstat(file.fileno()))
    finally:
        temporary.unlink(missing_ok=True)


def _land(temporary: Path, path: Path, *, if_absent: bool, if_match: str) -> None:
    try:
        before = path.stat()
    except FileNotFoundError:
        before = None
    if if_absent and before is not None:
        raise PreconditionFailedError(str(path), "must not exist yet, found it written by another writer")
    if if_match and (before is None or etag_of(before) != if_match):
        found = etag_of(before) if before else "nothing"
        raise PreconditionFailedError(str(path), f"must still be version {if_match}, found {found}")
    # The clock behind mtime ticks every few milliseconds: without this, two versions could share an ETag.
    now = max(time.time_ns(), before.st_mtime_ns + 1 if before else 0)
    os.utime(temporary, ns=(now, now))
    if if_absent:
        try:
            os.link(temporary, path)  # refuses what a writer who takes no lock has put there meanwhile
        except FileExistsError as error:
            raise PreconditionFailedError(str(path), "must not exist yet, found it just written") from error
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
                raise
        else:
            return
    os.replace(temporary, path)


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[int]:
    """Holds off other writers into this folder, in this process or another. File systems without locks.

    No lock.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in {errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}:
                raise
        yield handle
    finally:
        os.close(handle)
