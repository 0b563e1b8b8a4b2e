"""Encoding one span of a video: a part.

A part is a NUT file, which keeps any time base and any timestamp exactly. All parts of a title are encoded
with the same settings, begin with a keyframe that refers to nothing before it and end their last group, so
that ``assembling`` can string their packets together.
"""

from __future__ import annotations

import re
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error
from av.video.stream import VideoStream

from talklip_ray.errors import MediaError, TalklipError
from talklip_ray.media.color import ColorTags
from talklip_ray.media.container import written
from talklip_ray.media.picture import Picture

PTS_SHIFT = 1 << 40
"""NUT cannot say a negative timestamp; parts are written this many ticks late and read back as many early."""

KEYFRAME_EVERY = 250


class PartWriter:
    """Encodes pictures to a part; a context manager. libx264 for 8 bits, libx265 for 10; crf 0 is lossless.

    ``rate_hint`` is the title's mean frame rate. It steers the encoder's bit allocation and must be the same
    for all parts of a title. Raises FullError or MediaError when the part cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        pix_fmt: str,
        color: ColorTags,
        sar: Fraction,
        time_base: Fraction,
        crf: int,
        preset: str,
        rate_hint: Fraction,
        thread_count: int = 1,
    ) -> None:
        self._path = path
        self._time_base = time_base
        self._pix_fmt = pix_fmt
        self._last: int | None = None
        self.num_frames = 0
        with written(path):
            self._container = av.open(str(path), "w", format="nut")
            ten = pix_fmt.endswith("10le")
            options = {"preset": preset} | (_x265(crf, thread_count) if ten else _x264(crf, thread_count))
            stream: VideoStream = self._container.add_stream(
                "libx265" if ten else "libx264",
                rate=rate_hint.limit_denominator(100_000),
                options=options,
                width=width,
                height=height,
                time_base=time_base,
            )
            stream.pix_fmt = pix_fmt
            context = stream.codec_context
            context.sample_aspect_ratio = sar
            context.thread_count = thread_count
            context.color_primaries, context.color_trc = color.primaries, color.trc
            context.colorspace, context.color_range = color.space, color.range
            self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def write(self, picture: Picture, pts: int | None = None) -> None:
        """Encode one picture, at its own timestamp or another; timestamps must increase."""
        at = picture.pts if pts is None else int(pts)
        if picture.pix_fmt != self._pix_fmt:
            raise ValueError(f"a part of {self._pix_fmt} must get pictures in it, got {picture.pix_fmt}")
        if self._last is not None and at <= self._last:
            raise ValueError(f"timestamps must increase, got {at} after {self._last}")
        self._last = at
        self.num_frames += 1
        with written(self._path):
            self._mux(picture.frame_for_encoder(at, self._time_base))

    def close(self) -> None:
        """Finish the file. A part without a picture is an error."""
        if not self.num_frames:
            self.abandon()
            raise MediaError(str(self._path), "a part must get at least one picture, got none; write before closing")
        try:
            with written(self._path):
                self._mux(None)
                self._container.close()
        except TalklipError:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Give up and remove what was written."""
        with suppress(av.error.FFmpegError, OSError):
            self._container.close()
        self._path.unlink(missing_ok=True)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            # x265 makes up decoding times when it got fewer frames than it reorders; so few are in order.
            if self.num_frames <= 2 or packet.dts is None:
                packet.dts = packet.pts
            packet.pts, packet.dts = (packet.pts or 0) + PTS_SHIFT, (packet.dts or 0) + PTS_SHIFT
            self._container.mux(packet)


@cache
def repeatable_code(processor: Path = Path("/proc/cpuinfo")) -> str:
    """What x264 must be told on this processor so that equal pictures make equal bytes; "" where it needs nothing.

    Its AVX-512 code for macroblock trees (x264 of 2025, in PyAV 18) adds memory that nobody wrote where a row of
    macroblocks is no multiple of eight, as at 854, 720 or, upright, 1080 pixels: quantizers then differ from run to
    run. Other code is as fast.
    """
    try:
        known = processor.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return ":asm=avx2" if re.search(r"\bavx512", known) else ""


def _x264(crf: int, thread_count: int) -> dict[str, str]:
    # stitchable: nothing in the headers may depend on the content, or parts could not share them.
    params = f"stitchable=1:open-gop=0:keyint={KEYFRAME_EVERY}:threads={thread_count}{repeatable_code()}"
    return {"crf": str(crf), "x264-params": params}


def _x265(crf: int, thread_count: int) -> dict[str, str]:
    pools = "pools=none:frame-threads=1" if thread_count == 1 else f"pools={thread_count}"
    params = f"log-level=none:open-gop=0:keyint={KEYFRAME_EVERY}:info=0:{pools}"
    return {"crf": str(crf), "x265-params": f"{params}:lossless=1" if crf == 0 else params}
