"""Blocks of free TCP ports for servers that need many, safe between processes that start at once.

Asking the kernel for free ports and closing them again hands the same port to two servers sooner or later. A
block here is held by a lock on a file for as long as its owner lives, and the blocks lie above Ray's worker
ports (10002 to 19999) and below the kernel's own range for outgoing connections (from 32768). Each port of a
block comes with the port ``GRPC`` above it, where some programs insist on speaking gRPC.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from types import TracebackType

from talklip_ray.errors import ConfigError

FIRST, LAST = 20_000, 22_400
BLOCK = 8
GRPC = 10_000


class PortBlock:
    """``BLOCK`` consecutive ports nobody listened on when they were taken. Close it to let them go."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        """Raises ConfigError when every block is taken."""
        starts = list(range(FIRST, LAST, BLOCK))
        random.shuffle(starts)
        for start in starts:
            lock = _lock(start)
            if lock is None:
                continue
            ports = range(start, start + BLOCK)
            if all(is_free(host, port) and is_free(host, port + GRPC) for port in ports):
                self._lock = lock
                self.ports = tuple(ports)
                return
            os.close(lock)
        raise ConfigError(
            f"{host}:{FIRST}-{LAST}",
            f"{BLOCK} consecutive free ports are needed, found none. Stop servers that are no longer wanted",
        )

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> PortBlock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        # As servers do: connections in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def _lock(start: int) -> int | None:
    folder = Path(tempfile.gettempdir()) / f"talklip-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder / str(start), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
