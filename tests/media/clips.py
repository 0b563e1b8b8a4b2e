"""Videos and sounds whose content says where it is, written with PyAV itself."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from talklip_ray.media.video import Picture

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "media"
"""Real clips, which some machines have beside the repository."""

BITS = 8
BLOCK = 16


def picture_planes(number: int, width: int, height: int, pix_fmt: str = "yuv420p") -> list[np.ndarray]:
    """Planes of frame ``number``: luma has its bits as blocks on top, below a pattern that moves; chroma a slope."""
    known = av.VideoFormat(pix_fmt, width, height)
    scale = 4 if known.components[0].bits == 10 else 1
    kind = np.uint16 if scale == 4 else np.uint8
    y, x = np.mgrid[:height, :width]
    luma = 60 + (3 * x + 5 * y + 4 * number) % 120
    for bit in range(BITS):
        luma[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 190 if number >> bit & 1 else 60
    planes = [luma * scale]
    for i, part in enumerate(known.components[1:]):
        v, u = np.mgrid[: part.height, : part.width]
        planes.append((90 + (u + 2 * v + 3 * number + 40 * i) % 70) * scale)
    return [np.ascontiguousarray(plane.astype(kind)) for plane in planes]


def frame_of(planes: Sequence[np.ndarray], width: int, height: int, pix_fmt: str) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pix_fmt)
    for target, plane in zip(frame.planes, planes, strict=True):
        rows = np.frombuffer(target, np.uint8).reshape(target.height, -1).view(plane.dtype)
        rows[:, : plane.shape[1]] = plane
    return frame


def number_in(picture: Picture) -> int:
    """The number written into a frame, after any encoding."""
    luma = picture.planes()[0]
    middle = 500 if luma.dtype == np.uint16 else 125
    blocks = [luma[4 : BLOCK - 4, bit * BLOCK + 4 : (bit + 1) * BLOCK - 4].mean() for bit in range(BITS)]
    return sum(1 << bit for bit, mean in enumerate(blocks) if mean > middle)


def even_pts(count: int, step: int = 512, first: int = 0) -> list[int]:
    return [first + step * i for i in range(count)]


def uneven_pts(count: int, step: int = 512) -> list[int]:
    """Variable frame rate: every third frame lasts twice as long, every seventh a little more."""
    gaps = [step * (2 if i % 3 == 0 else 1) + (37 if i % 7 == 0 else 0) for i in range(count)]
    return [0, *np.cumsum(gaps[:-1]).tolist()]


def write_video(
    path: Path,
    pts: Sequence[int],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (192, 128),
    time_base: Fraction = Fraction(1, 12800),
    options: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    color: tuple[int, int, int, int] = (2, 2, 2, 0),
    sar: Fraction = Fraction(1),
    sound: bool = False,
) -> Path:
    """One video, a frame per timestamp, x264 lossless unless told otherwise."""
    if options is None:
        options = {"crf": "0", "preset": "ultrafast", "bf": "2", "g": "12"} if codec == "libx264" else {}
    rate = 1 / ((pts[1] - pts[0]) * time_base) if len(pts) > 1 else Fraction(25)
    with av.open(str(path), "w", format=container, container_options=container_options or {}) as out:
        stream: Any = out.add_stream(
            codec,
            rate=rate.limit_denominator(100_000),
            options=options,
            width=size[0],
            height=size[1],
            time_base=time_base,
        )
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.thread_count, context.sample_aspect_ratio = 1, sar
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = color
        if codec == "mpeg4":
            context.gop_size, context.max_b_frames, context.bit_rate = 12, int(options.get("bf", 0)), 2_000_000
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        voice: Any = out.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number, at in enumerate(pts):
            frame = frame_of(picture_planes(number, *size, pix_fmt), *size, pix_fmt)
            frame.pts, frame.time_base = at, time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if voice is not None:
            _tone(out, voice, seconds=float((pts[-1] - pts[0]) * time_base))
    return path


def _tone(out: Any, voice: Any, seconds: float) -> None:
    samples = np.sin(np.arange(int(seconds * 16000)) * 0.1).astype(np.float32)[None] * 0.3
    for start in range(0, samples.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(samples[:, start : start + 1024], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        out.mux(voice.encode(frame))
    out.mux(voice.encode(None))


def chirp(num_samples: int, rate: int, channels: int = 1) -> np.ndarray:
    """Sound [C,N] from -1 to 1 in which every place sounds different: rising tones, and clicks each tenth second."""
    t = np.arange(num_samples) / rate
    sound = 0.4 * np.sin(2 * np.pi * (150 + 300 * t) * t)
    sound[:: max(1, rate // 10)] = 0.9
    return np.stack([sound * (1 - 0.3 * c) for c in range(channels)])


def write_wav(path: Path, samples_CN: np.ndarray, rate: int, width: int = 2) -> Path:
    """PCM of 16 or 24 bits."""
    whole = np.rint(samples_CN.T * (2 ** (8 * width - 1) - 1)).astype("<i4")
    raw = whole.reshape(-1).view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples_CN.shape[0])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)
    return path


def write_sound(path: Path, samples_CN: np.ndarray, rate: int, codec: str, **options: Any) -> Path:
    """Sound through one of PyAV's encoders, in the container the path's name asks for."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples_CN.shape[0]]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=rate, layout=layout, **options)
        step = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate, frame_size=step)
        frame = av.AudioFrame.from_ndarray(samples_CN.astype(np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for ready in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return path


class Recorded(io.BytesIO):
    """A file in memory that counts the bytes read of it, and fails with ``error`` after ``limit`` of them."""

    def __init__(self, data: bytes, error: Exception | None = None, limit: int = 0) -> None:
        super().__init__(data)
        self.error, self.limit, self.taken = error, limit, 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self.error is not None and self.taken >= self.limit:
            raise self.error
        data = super().read(size)
        self.taken += len(data)
        return data
