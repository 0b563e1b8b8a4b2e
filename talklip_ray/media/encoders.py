"""What the FFmpeg inside PyAV can encode on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import av
import av.error
import av.logging
from av.video.codeccontext import VideoCodecContext

NEEDED = ("libx264", "libx265", "aac")
"""Encoders the product is made with: 8-bit pictures, 10-bit pictures, sound."""
OPTIONAL = ("h264_nvenc",)


def library_versions() -> dict[str, str]:
    """Versions of the libraries PyAV brings, such as {"libavcodec": "62.28.102"}."""
    return {name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())}


def usable_encoders(names: Iterable[str] = NEEDED + OPTIONAL) -> dict[str, bool]:
    """Which of these encoders open here. Being in the build is not enough: NVENC also needs its driver."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.PANIC)
    try:
        return {name: _opens(name) for name in names}
    finally:
        av.logging.set_level(level)


def _opens(name: str) -> bool:
    if name not in av.codecs_available:
        return False
    try:
        context = av.CodecContext.create(name, "w")
        if isinstance(context, VideoCodecContext):
            context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
            context.time_base = Fraction(1, 25)
            if name == "libx265":
                context.options = {"x265-params": "log-level=none:pools=none"}
        else:
            context.sample_rate, context.layout, context.format = 48_000, "stereo", "fltp"  # type: ignore[attr-defined]
        context.open()
    except (av.error.FFmpegError, ValueError):
        return False
    return True
