"""Writes a whole small video from arrays: for synthetic clips and tests. The dubbing pipeline uses ``writing``."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from talklip_ray.errors import MediaError
from talklip_ray.media.container import written

_REPEATABLE = {"x264-params": "mbtree=0:threads=1"}
"""mbtree=0: see facevideo.py."""


def write_video(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    *,
    rate: Fraction,
    size: tuple[int, int],
    sound: tuple[NDArray[np.float32], int] | None = None,
    crf: int = 18,
    preset: str = "veryfast",
    repeatable: bool = False,
) -> int:
    """H.264 with AAC in mp4 from RGB frames [H,W,3] of ``size`` (even width and height); returns how many.

    ``sound`` is mono samples from -1 to 1 and their rate. BT.709 colours, said so in the file. ``repeatable``: the same
    bytes on machines with any number of cores.
    """
    if size[0] % 2 or size[1] % 2:
        raise MediaError(str(path), f"width and height must be even for 4:2:0, found {size[0]}x{size[1]}")
    count = 0
    with written(path), av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        options = {"crf": str(crf), "preset": preset} | (_REPEATABLE if repeatable else {})
        video = container.add_stream("libx264", rate=rate, options=options)
        video.codec_context.thread_count = 1 if repeatable else 0
        video.width, video.height, video.pix_fmt = size[0], size[1], "yuv420p"
        video.codec_context.time_base = 1 / rate
        video.codec_context.colorspace = video.codec_context.color_primaries = video.codec_context.color_trc = 1
        video.codec_context.color_range = 1
        voice = container.add_stream("aac", rate=sound[1], layout="mono") if sound else None
        for count, rgb in enumerate(frames, start=1):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            frame.pts, frame.time_base = count - 1, 1 / rate
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound and voice:
            for at in range(0, len(sound[0]), 1024):
                block = av.AudioFrame.from_ndarray(sound[0][None, at : at + 1024], format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = sound[1], at, Fraction(1, sound[1])
                container.mux(voice.encode(block))
            container.mux(voice.encode(None))
    return count


def write_wav(path: Path, samples: NDArray[np.float32], rate: int) -> None:
    """Mono 16-bit PCM."""
    with written(path), av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        whole = np.rint(np.clip(samples, -1, 1 - 2**-15) * 32768).astype(np.int16)
        for at in range(0, len(whole), 1 << 16):
            frame = av.AudioFrame.from_ndarray(whole[None, at : at + (1 << 16)], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
