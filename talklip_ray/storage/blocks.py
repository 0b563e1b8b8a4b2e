"""One version of one remote object as a seekable file: blocks are fetched when they are read."""

from __future__ import annotations

import io

from fsspec.caching import BlockCache

from talklip_ray.errors import NotFoundError, SourceChangedError
from talklip_ray.storage.retries import TryAgainError, again_after
from talklip_ray.storage.store import PreconditionFailedError, Stat
from talklip_ray.telemetry import STORE_BYTES, record

BLOCK_BYTES = 2 << 20
"""Bytes fetched at once: large against a request's latency, small against a span of video."""
NUM_BLOCKS = 8
"""Blocks kept, so that a demuxer may hop between a container's index, sound and picture."""


class BlockReader(io.RawIOBase):
    """Every fetch asks for the version in ``stat``: bytes of two versions are never mixed."""

    def __init__(self, stat: Stat, *, block_bytes: int = BLOCK_BYTES, num_blocks: int = NUM_BLOCKS) -> None:
        self.stat = stat
        self._blocks = BlockCache(block_bytes, self._fetch, stat.size, num_blocks)
        self._at = 0

    def fetch(self, start: int, stop: int) -> bytes:
        """The bytes from ``start`` up to ``stop``, in one request.

        Raises NotFoundError or PreconditionFailedError when the version is there no more.
        """
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.stat.size}[whence]
        if start + offset < 0:
            raise ValueError(f"a file has no position before its first byte, asked for {start + offset}")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        data: bytes = self._blocks._fetch(self._at, self._at + len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    @again_after(TryAgainError)
    def _fetch(self, start: int, stop: int) -> bytes:
        uri, etag = self.stat.uri, self.stat.etag
        stop = min(stop, self.stat.size)  # the cache asks for whole blocks
        try:
            data = self.fetch(start, stop)
        except (NotFoundError, PreconditionFailedError) as error:
            raise SourceChangedError(
                uri, f"must stay version {etag} while it is read, found it replaced. Plan the title again"
            ) from error
        if len(data) != stop - start:
            raise TryAgainError(uri, f"must arrive whole, found {len(data)} of {stop - start} bytes. Try again")
        record(STORE_BYTES, len(data), direction="read")
        return data
