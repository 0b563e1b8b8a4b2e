"""Temporary folders on a worker's disk, and the end of those whose process was killed.

A process holds a lock in its folder for as long as it lives, in whatever container: a folder whose lock can be had is
nobody's any more.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "talklip-scratch-"
_LOCK = ".lock"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of one's own, gone at the end of the block."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as made:
        folder = Path(made)
        with open(folder / f"{_LOCK}.new", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / f"{_LOCK}.new").rename(folder / _LOCK)  # never there without being held
            yield folder


def sweep_scratch() -> int:
    """Remove what processes that were killed have left on this machine; returns how many folders."""
    swept = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with open(folder / _LOCK, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                swept += 1
        except OSError:  # held, of another user, or gone
            continue
    return swept
