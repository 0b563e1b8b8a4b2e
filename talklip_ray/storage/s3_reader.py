"""One version of one S3 object as a seekable file, by way of s3fs: blocks are fetched when they are read."""

from __future__ import annotations

import io
from typing import Any

from s3fs import S3FileSystem

from talklip_ray.errors import NotFoundError, SourceChangedError
from talklip_ray.storage.s3_errors import again, s3_call
from talklip_ray.storage.store import PreconditionFailedError
from talklip_ray.telemetry import STORE_BYTES, record

BLOCK_BYTES = 2 << 20
"""Bytes fetched at once: large against a request's latency, small against a span of video."""
NUM_BLOCKS = 8
"""Blocks kept, so that a demuxer may hop between a container's index, sound and picture."""


class S3Reader(io.RawIOBase):
    """Every ranged read carries the ETag seen at the start: bytes of two versions are never mixed."""

    def __init__(self, file: Any, uri: str) -> None:
        """``file`` is an s3fs file, see ``open_object``."""
        self._file = file
        self._uri = uri
        self.etag: str = file.details["ETag"].strip('"')

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

    @again
    def _read(self, size: int) -> bytes:
        try:
            with s3_call(self._uri, "read"):
                data: bytes = self._file.read(size)
        except (NotFoundError, PreconditionFailedError) as error:
            raise SourceChangedError(
                self._uri,
                f"must stay version {self.etag} while it is read, found it replaced. Plan the title again",
            ) from error
        record(STORE_BYTES, len(data), direction="read")
        return data


def open_object(
    files: S3FileSystem, uri: str, *, block_bytes: int = BLOCK_BYTES, num_blocks: int = NUM_BLOCKS
) -> S3Reader:
    """The version of the object that is there now. Raises NotFoundError."""
    with s3_call(uri, "head"):
        file = files.open(
            uri.partition("://")[2],
            "rb",
            block_size=block_bytes,
            cache_type="blockcache",
            cache_options={"maxblocks": num_blocks},
        )
    if file.details["type"] != "file":
        raise NotFoundError(uri, "must be an object, found a folder. Add the object's key")
    return S3Reader(file, uri)
