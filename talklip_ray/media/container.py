"""Opening media files: the one seam at which FFmpeg's errors become ours.

A file is hostile until read. FFmpeg gets the bytes of our own file object and no name, may only use the
demuxers listed here, and is refused every further file or address that the content may point it to.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Stream

from talklip_ray.errors import AccessError, FullError, MediaError, NotFoundError

File = Path | BinaryIO

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mxf,flv,asf,ogg,nut,ivf,obu,"
    "wav,w64,aiff,caf,flac,mp3,aac,ac3,eac3,amr,amrnb,amrwb,au,tta,wv,ape,voc"
)
"""Demuxers that a source may ask for. None of them is made of other files."""

BUFFER = 1 << 18


class _Guarded:
    """The file object that FFmpeg reads. Remembers what went wrong, since C code may forget it.

    After an error it reports the end of the file, so that FFmpeg comes back to us soon.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: Exception | None = None

    def _try(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except Exception as error:
            self.error = error
            raise

    def read(self, size: int) -> bytes:
        return b"" if self.error else self._try(self._file.read, size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return 0 if self.error else int(self._try(self._file.seek, offset, whence))

    def tell(self) -> int:
        return 0 if self.error else int(self._try(self._file.tell))

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class Source:
    """An open media file."""

    def __init__(self, container: InputContainer, guard: _Guarded, where: str) -> None:
        self.container = container
        self.where = where
        self._guard = guard

    @property
    def formats(self) -> frozenset[str]:
        """Short names of the container format, such as ``mov`` and ``mp4``."""
        return frozenset(self.container.format.name.split(","))

    def check(self) -> None:
        """Raise what the file object raised, if FFmpeg went on without a word."""
        if self._guard.error is not None:
            raise self._guard.error

    def packets(self, stream: Stream) -> Iterator[Packet[Any]]:
        """Packets of one stream from the current place on, the last one empty (it drains the decoder)."""
        for other in self.container.streams:
            other.discard = Discard.default if other is stream else Discard.all
        ended = False
        while not ended:
            try:
                for packet in self.container.demux(stream):
                    self.check()
                    ended = ended or not packet.size
                    yield packet
                return
            except IndexError:  # how PyAV meets a stream that began after the file did; ours goes on behind it
                self.check()


@contextmanager
def open_source(file: File, where: str) -> Iterator[Source]:
    """Open a media file for reading. FFmpeg's errors within the block become MediaError; errors of the file
    object itself (a source that changed, a store that refuses) pass as they are.
    """
    if isinstance(file, Path):
        with _opened(file, where) as handle, open_source(handle, where) as source:
            yield source
        return
    guard = _Guarded(file)
    try:
        guard.seek(0)
        with _container(guard) as container:
            yield Source(container, guard, where)
        if guard.error is not None:
            raise guard.error
    except Exception as error:
        if guard.error is not None and guard.error is not error:
            raise guard.error from None
        if isinstance(error, av.error.FFmpegError) and guard.error is None:
            raise MediaError(where, _sentence(error)) from error
        raise


def _container(guard: _Guarded) -> InputContainer:
    return av.open(
        guard,
        "r",
        container_options={"format_whitelist": FORMATS, "protocol_whitelist": "none"},
        metadata_errors="replace",
        buffer_size=BUFFER,
        io_open=_refuse,
    )


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise MediaError("", f"a media file must not refer to other files, found a reference to {url!r}; inline it")


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Errors of writing a file: FullError where the disk is, AccessError where it is not allowed, else
    MediaError."""
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        where, number = str(path), getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise FullError(where, f"there must be room to write, found: {error}; free some space") from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AccessError(where, f"the directory must be writable, found: {error}; check permissions") from error
        raise MediaError(where, f"encoding must succeed, found: {error}; check settings and free space") from error


@contextmanager
def _opened(path: Path, where: str) -> Iterator[BinaryIO]:
    try:
        handle = path.open("rb")
    except FileNotFoundError as error:
        raise NotFoundError(where, f"a media file must exist, found nothing at {path}; check the path") from error
    except PermissionError as error:
        raise AccessError(where, f"a media file must be readable: {error}; check permissions") from error
    except OSError as error:
        raise MediaError(where, f"a media file must be readable: {error}; check path and permissions") from error
    with handle:
        yield handle


def _sentence(error: av.error.FFmpegError) -> str:
    found = error.strerror or type(error).__name__
    return f"must be a whole, readable media file, found: {found}; check that it plays and upload it again"
