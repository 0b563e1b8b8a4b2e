"""A face's frames as an H.264 stream in memory: how training shards keep them.

The stream is RGB, without a change of colour space and with colour in full, and near lossless. Of five real faces at
160 x 160 it takes 8 to 11 kB a frame, an eighth of their bytes, and is off by 0.6 to 0.9 of 255 on average. Y'CbCr is
off by 1.5 (4:2:0) or 0.9 to 1.2 (4:4:4) even at crf 4, because rounding to its eight bits costs that. A frame takes
1 ms to decode. There is no container: Annex B units, a key frame a second, no timestamps.

Shapes: T frames, H = W = SIDE, C = 3 (RGB, uint8).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import av.error
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from numpy.typing import NDArray

from talklip_ray.errors import MediaError

SIDE = 160
CRF = 8
KEY_EVERY = 25
"""Frames from one key frame to the next: a second of them."""

_STORED = "gbrp"
_ROOM = 2 * SIDE * SIDE
"""Pixels of a frame that the decoder may make room for; it wants a little more than a frame has."""
_LARGEST = 3 * SIDE * SIDE + 4096
"""No frame takes more bytes than this: more than it has pixels."""


def encode(frames_THWC: NDArray[np.uint8], crf: int = CRF) -> bytes:
    """The stream of the frames; the same bytes for the same frames. b"" without any."""
    if frames_THWC.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"frames must be T x {SIDE} x {SIDE} x 3, found {frames_THWC.shape}")
    context = VideoCodecContext.create("libx264rgb", "w")
    context.width = context.height = SIDE
    context.pix_fmt, context.thread_count = "rgb24", 1
    context.time_base, context.framerate = Fraction(1, KEY_EVERY), Fraction(KEY_EVERY)
    # mbtree=0: at so small a size its sums read memory that nobody wrote, and no two streams would be the same.
    params = f"mbtree=0:keyint={KEY_EVERY}:min-keyint={KEY_EVERY}:scenecut=0:open-gop=0:threads=1"
    context.options = {"crf": str(crf), "preset": "veryfast", "x264-params": params}
    packets = []
    for at, frame_HWC in enumerate(frames_THWC):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        frame.pts, frame.pict_type = at, PictureType.NONE
        packets += context.encode(frame)
    packets += context.encode(None) if packets or len(frames_THWC) else []
    return b"".join(bytes(packet) for packet in packets)


def decode(data: bytes, num_frames: int, where: str) -> NDArray[np.uint8]:
    """The frames of a stream, T x H x W x C, T = ``num_frames``.

    Raises MediaError, without having decoded more than it should hold, unless it is whole and holds just these.
    """
    if len(data) > num_frames * _LARGEST:
        raise MediaError(where, _must(num_frames, f"{len(data)} bytes"))
    frames_THWC = np.zeros((num_frames, SIDE, SIDE, 3), np.uint8)
    count = 0
    try:
        for frame in _decoded(data):
            if count == num_frames:
                raise MediaError(where, _must(num_frames, "more"))
            if (frame.width, frame.height, frame.format.name) != (SIDE, SIDE, _STORED) or frame.is_corrupt:
                raise MediaError(where, _must(num_frames, f"one of {frame.width}x{frame.height} {frame.format.name}"))
            frames_THWC[count] = frame.to_ndarray()
            count += 1
    except av.error.FFmpegError as error:
        raise MediaError(where, _must(num_frames, f"damage ({error.strerror})")) from error
    if count < num_frames:
        raise MediaError(where, _must(num_frames, f"{count}"))
    return frames_THWC


def _decoded(data: bytes) -> Iterator[av.VideoFrame]:
    """The stream's frames as they come; all of a damaged one is refused, and so is one too large to be ours."""
    context = VideoCodecContext.create("h264", "r")
    context.thread_count = 1
    context.options = {"err_detect": "explode", "max_pixels": str(_ROOM)}
    for packet in (*context.parse(data), *context.parse(b""), None):
        yield from context.decode(packet)


def _must(num_frames: int, found: str) -> str:
    return (
        f"face video must be {num_frames} frames of {SIDE}x{SIDE} in H.264, whole, found {found}; "
        "run jobs/prepare.py again"
    )
