"""Decoding a span of a video, by frame number."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from itertools import chain

import av
import av.error
from av.packet import Packet
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from talklip_ray.errors import MediaError
from talklip_ray.media import geometry
from talklip_ray.media.container import File, Source, open_source
from talklip_ray.media.picture import Picture, display_matrix, in_working_format
from talklip_ray.media.probing import counts_by_decoding, from_first_keyframe, picture_stream

BACKWARDS_CHUNK = 32
"""Frames held at once when reading backwards."""

_BACK_OFF = (Fraction(0), Fraction(1), Fraction(4), Fraction(16))
"""Seconds before the wanted frame at which to look for a keyframe to start from, before going to the file's
start."""


def read_pictures(
    file: File, *, pts: Sequence[int], first: int, start: int, stop: int, where: str, thread_count: int = 1
) -> Iterator[Picture]:
    """Frames numbered ``start`` to ``stop`` (exclusive) in presentation order.

    ``pts[i]`` is the timestamp of frame ``first + i``, as probing gave it; every decoded frame is checked
    against it. Decoding starts at a keyframe before ``start`` and ends with the last wanted frame.

    Raises MediaError, naming frame and time, where a frame is missing or another than expected.
    """
    if stop <= start:
        return
    if start < first or stop > first + len(pts):
        raise ValueError(f"frames {start} to {stop} must lie within the known {first} to {first + len(pts)}")
    wanted = [int(value) for value in pts[start - first : stop - first]]
    for from_start in [False, True] if start else [True]:
        with open_source(file, where) as source:
            stream = picture_stream(source)
            stream.codec_context.thread_count = thread_count
            if thread_count != 1:
                stream.codec_context.thread_type = "AUTO"
            opening = None if from_start else _packets_before(source, stream, wanted[0])
            packets = from_first_keyframe(source, stream) if from_start else opening
            if packets is not None:
                done = yield from _numbered(source, stream, packets, wanted, start, last_try=from_start)
                if done:
                    return


def read_pictures_backwards(
    file: File, *, pts: Sequence[int], first: int, start: int, stop: int, where: str, thread_count: int = 1
) -> Iterator[Picture]:
    """The same frames, last to first, holding at most BACKWARDS_CHUNK of them."""
    for end in range(stop, start, -BACKWARDS_CHUNK):
        begin = max(start, end - BACKWARDS_CHUNK)
        chunk = list(
            read_pictures(file, pts=pts, first=first, start=begin, stop=end, where=where, thread_count=thread_count)
        )
        while chunk:
            yield chunk.pop()


def _packets_before(source: Source, stream: VideoStream, pts: int) -> Iterator[Packet[VideoStream]] | None:
    """Packets from a keyframe on that is shown at or before ``pts``; None where only the file's start will
    do.

    A seek may land late (demuxers seek by decoding time) or between keyframes (MPEG-TS): what precedes the
    first keyframe is dropped, and a keyframe that is shown too late makes us look further back.
    """
    if counts_by_decoding(source, stream):
        return None
    for seconds in _BACK_OFF:
        packets = _packets_at(source, stream, pts - int(seconds / (stream.time_base or 1)))
        opening = next((packet for packet in packets if packet.is_keyframe), None)
        if opening is not None and opening.pts is not None and opening.pts <= pts:
            return chain([opening], packets)
    return None


def _packets_at(source: Source, stream: VideoStream, pts: int) -> Iterator[Packet[VideoStream]]:
    try:
        source.container.seek(pts, stream=stream)
    except av.error.FFmpegError:
        source.check()
        return iter(())
    return source.packets(stream)


def _numbered(
    source: Source,
    stream: VideoStream,
    packets: Iterator[Packet[VideoStream]],
    wanted: list[int],
    start: int,
    *,
    last_try: bool,
) -> Generator[Picture, None, bool]:
    """The wanted frames; False where decoding began too late for the first of them, which a keyframe in name
    only (a stream refreshed bit by bit) can do."""
    reformatter = VideoReformatter()
    size: tuple[int, int] | None = None
    found = rotation = 0
    for packet in packets:
        for frame in stream.decode(packet if packet.size else None):
            if frame.pts is None or frame.pts < wanted[0]:
                continue
            if frame.pts != wanted[found]:
                if not found and not last_try:
                    return False
                raise _missing(source, stream, start + found, wanted[found], frame)
            size = size or (frame.width, frame.height)
            if size != (frame.width, frame.height):
                raise MediaError(
                    source.where,
                    f"all frames must have one size, found {frame.width}x{frame.height} after "
                    f"{size[0]}x{size[1]} at frame {start + found}; convert the video to one size",
                )
            if not found:
                # Once a span, as probing does once a title. A frame whose side data was looked at is a reference
                # cycle: it and its picture would stay until the garbage collector happens to come by.
                rotation, _ = geometry.orientation(display_matrix(frame))
            yield Picture(in_working_format(frame, reformatter), index=start + found, rotation=rotation)
            found += 1
            if found == len(wanted):
                return True
    source.check()
    if not found and not last_try:
        return False
    raise _missing(source, stream, start + found, wanted[found], None)


def _missing(source: Source, stream: VideoStream, number: int, pts: int, found: av.VideoFrame | None) -> MediaError:
    time_base = stream.time_base or Fraction(1)
    instead = "the end of the file" if found is None else f"one at {float((found.pts or 0) * time_base):.3f} s"
    return MediaError(
        source.where,
        f"frame {number} must be decodable at {float(pts * time_base):.3f} s, found {instead}; "
        "the file is damaged or was truncated: copy or upload it again",
    )
