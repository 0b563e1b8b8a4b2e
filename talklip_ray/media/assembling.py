"""Parts and a dub to one mp4, without encoding a picture again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from math import floor, lcm
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from talklip_ray.errors import MediaError
from talklip_ray.media import timeline
from talklip_ray.media.container import open_source, written
from talklip_ray.media.sound import Sound, SoundTrack
from talklip_ray.media.writing import PTS_SHIFT

ARBITRARY_CLOCK = Fraction(1)
"""A title's clock that starts this many seconds late, or before zero, is a broadcast's: the product's starts
at 0."""

_LARGEST_SCALE = 2**31 - 1

IntArray = npt.NDArray[np.int64]


def assemble(
    parts: Sequence[Path],
    out: Path,
    *,
    time_base: Fraction,
    end_pts: int,
    where: str,
    origin: Fraction = Fraction(0),
    rotation: int = 0,
    mirrored: bool = False,
    sound: Sound | None = None,
) -> int:
    """Write the product and return its number of frames.

    Timestamps are those the parts were written with, on ``time_base``; the last frame lasts until
    ``end_pts``. Only a title whose clock starts a second or more away from 0 (``origin``) is moved to start
    at 0, by whole ticks. ``where`` names the product in errors. Raises MediaError where a part is missing,
    empty, out of order or encoded with other settings than the first; FullError and AccessError where the
    product cannot be written. A product that failed is removed.
    """
    coded_N = _coded_pts(parts, time_base, where)
    if end_pts <= int(coded_N.max()):
        raise ValueError(f"the product must end after its last frame at {int(coded_N.max())}, got end {end_pts}")
    shift = 0 if 0 <= origin < ARBITRARY_CLOCK else floor(origin / time_base)
    start, end = origin - shift * time_base, (end_pts - shift) * time_base
    try:
        with ExitStack() as stack:
            template = stack.enter_context(open_source(parts[0], str(parts[0])))
            dub = stack.enter_context(open_source(sound.file, sound.where)) if sound else None
            with written(out):
                container = av.open(str(out), "w", format="mp4", container_options={"movflags": "+faststart"})
            stack.callback(_close_quietly, container)
            model = template.container.streams.video[0]
            picture = _picture_stream(container, model, time_base, rotation, mirrored)
            track = None
            if sound is not None and dub is not None:
                track = SoundTrack(sound, dub, container, lead=start + sound.offset, end=end)
            _set_scales(container, time_base, track.rate if track else 1)
            _mux(container, out, _pictures(parts, coded_N, picture, time_base, end_pts, shift), track)
            with written(out):
                container.close()
    except BaseException:
        out.unlink(missing_ok=True)
        raise
    return len(coded_N)


def _close_quietly(container: OutputContainer) -> None:
    """Let go of a file that is done or given up; whatever is wrong with it has been said already."""
    with suppress(av.error.FFmpegError, OSError):
        container.close()


def _coded_pts(parts: Sequence[Path], time_base: Fraction, where: str) -> IntArray:
    """Go through all parts once: the decoding order of a whole title fixes its decoding times."""
    headers: tuple[str, bytes | None] | None = None
    collected: list[IntArray] = []
    for path in parts:
        if not path.is_file() or not path.stat().st_size:
            raise MediaError(where, f"every part must be there, {path} is missing or empty; compose it again")
        with open_source(path, str(path)) as source:
            stream = source.container.streams.video[0]
            found = (stream.codec_context.name, stream.codec_context.extradata)
            headers = headers or found
            if found != headers:
                raise MediaError(where, f"parts must share one encoding, {path} differs; compose the title again")
            pts = np.array([_pts(packet, time_base) for packet in source.packets(stream) if packet.size], np.int64)
        if not len(pts) or (collected and pts.min() <= collected[-1].max()):
            raise MediaError(where, f"parts must follow one another, {path} does not; compose it again")
        collected.append(pts)
    if headers is None:
        raise MediaError(where, "a product must have at least one part, got none; compose the title again")
    return np.concatenate(collected)


def _pts(packet: Packet[Any], time_base: Fraction) -> int:
    return int((packet.pts or 0) * packet.time_base / time_base) - PTS_SHIFT


def _picture_stream(
    container: OutputContainer, template: VideoStream, time_base: Fraction, rotation: int, mirrored: bool
) -> VideoStream:
    stream = container.add_stream_from_template(template)
    if stream.codec_context.name in ("hevc", "libx265"):
        # Apple's players refuse HEVC under any other tag.
        stream.codec_context.codec_tag = "hvc1"
    stream.time_base = Fraction(1, time_base.denominator)
    if rotation or mirrored:
        stream.set_display_rotation(rotation, hflip=mirrored)
    return stream


def _set_scales(container: OutputContainer, time_base: Fraction, rate: int) -> None:
    """mp4 keeps time in three scales; choose those in which nothing has to be rounded."""
    scale = time_base.denominator
    both = lcm(scale, rate)
    container.container_options["video_track_timescale"] = str(scale)
    container.container_options["movie_timescale"] = str(both if both <= _LARGEST_SCALE else scale)


def _pictures(
    parts: Sequence[Path],
    coded_N: IntArray,
    stream: VideoStream,
    time_base: Fraction,
    end_pts: int,
    shift: int,
) -> Iterator[Packet[Any]]:
    """Packets of all parts in order, with the title's decoding times and true durations."""
    ordered = np.sort(coded_N)
    ends = np.append(ordered[1:], end_pts)
    dts = timeline.dts_from_pts(coded_N)
    # mp4 takes a track to last as long as its decoding does. Where frames are reordered the last to be decoded is
    # not the last shown: begin early enough, and let it last long enough, that both end together.
    first, last = int(ordered[0]), len(coded_N) - 1
    dts[0] = min(dts[0], first - (coded_N[last] - dts[last])) if last else dts[0]
    closing = end_pts - first - int(dts[last] - dts[0])
    at = 0
    for path in parts:
        with open_source(path, str(path)) as source:
            for packet in source.packets(source.container.streams.video[0]):
                if not packet.size:
                    continue
                pts = int(coded_N[at])
                packet.time_base = time_base
                packet.pts, packet.dts = pts - shift, int(dts[at]) - shift
                shown = int(ends[np.searchsorted(ordered, pts)]) - pts
                packet.duration = closing if at == last else shown
                packet.stream = stream
                at += 1
                yield packet


def _mux(container: OutputContainer, out: Path, pictures: Iterator[Packet[Any]], track: SoundTrack | None) -> None:
    """Write both tracks side by side, so that neither waits in memory for the other."""
    sound = track.packets() if track else iter(())
    waiting = next(sound, None)
    for packet in pictures:
        while waiting is not None and _time(waiting) <= _time(packet):
            with written(out):
                container.mux_one(waiting)
            waiting = next(sound, None)
        with written(out):
            container.mux_one(packet)
    while waiting is not None:
        with written(out):
            container.mux_one(waiting)
        waiting = next(sound, None)


def _time(packet: Packet[Any]) -> Fraction:
    return (packet.dts or 0) * packet.time_base
