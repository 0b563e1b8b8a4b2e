"""What a video is, without decoding it: size, colours, orientation and the timestamp of every frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from talklip_ray.errors import MediaError, NoPictureError
from talklip_ray.media import color, geometry, timeline
from talklip_ray.media.color import ColorTags
from talklip_ray.media.container import File, Source, open_source
from talklip_ray.media.picture import color_tags, display_matrix, in_working_format

MAX_SIDE = 16384
MAX_PIXELS = 100_000_000

_STILLS = Disposition.attached_pic | Disposition.timed_thumbnails
_UNCERTAIN_CODECS = {"vp8", "msmpeg4v3", "wmv3", "vc1", "rv40"}
_UNCERTAIN_FORMATS = {"avi", "mpeg", "asf", "flv", "ivf"}
"""Where packets are not frames one to one, or carry no presentation timestamps: frames are counted by
decoding."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """A video's picture track. Timestamps are in ``time_base`` units."""

    width: int
    """As stored, not as shown."""
    height: int
    rotation: int
    """Degrees counter-clockwise that turn the stored picture upright: 0, 90, 180, 270."""
    mirrored: bool
    """Whether the upright picture is then shown flipped left to right."""
    pix_fmt: str
    """The working format its pictures have, see picture.working_format."""
    color: ColorTags
    sample_aspect_ratio: Fraction
    """Shape of a stored pixel, 1 when the file does not say."""
    time_base: Fraction
    origin: Fraction
    """Seconds at which the title's clock starts: the earliest picture or sound of the file."""
    pts_N: IntArray
    """Of all frames in presentation order, strictly increasing."""
    end_pts: int
    """Where the last frame ends."""
    keyframes_K: IntArray
    """Numbers of the frames that can be decoded without an earlier one, ascending, 0 first."""

    @property
    def num_frames(self) -> int:
        return len(self.pts_N)

    @property
    def display_width(self) -> int:
        return geometry.upright_size(self.width, self.height, self.rotation)[0]

    @property
    def display_height(self) -> int:
        return geometry.upright_size(self.width, self.height, self.rotation)[1]

    @property
    def duration(self) -> Fraction:
        """Seconds from the title's origin to the end of the last frame."""
        return self.end_pts * self.time_base - self.origin

    @property
    def rate(self) -> Fraction:
        """Mean frames a second."""
        return self.num_frames / ((self.end_pts - int(self.pts_N[0])) * self.time_base)


@dataclass(frozen=True, slots=True)
class _Entry:
    pts: int | None
    duration: int
    key: bool
    discard: bool
    cut_short: bool


def _entry(packet: Packet[VideoStream]) -> _Entry:
    return _Entry(packet.pts, packet.duration or 0, packet.is_keyframe, packet.is_discard, packet.is_corrupt)


def probe_video(file: File, where: str) -> VideoInfo:
    """Read a video's index by going through its packets; one frame is decoded, for what only a frame can say.

    Raises NoPictureError without a picture track or a frame in it, MediaError on anything else that is not a
    whole, usable video.
    """
    with open_source(file, where) as source:
        stream = picture_stream(source)
        _check_size(stream.codec_context.width, stream.codec_context.height, where)
        expected = len(stream.index_entries) if source.formats & {"mov", "avi"} else 0
        entries, first = _read_entries(source, stream)
        if first is None:
            raise NoPictureError(
                where, "a video must hold at least one decodable frame, found none; check that it plays"
            )
        _check_whole(source, stream, entries, expected)
        if counts_by_decoding(source, stream) or not _is_usable(entries):
            entries = _decoded_entries(file, where)
        return _info(source, stream, first, _presented(entries))


def picture_stream(source: Source) -> VideoStream:
    """The first video track that is not a cover picture."""
    for stream in source.container.streams.video:
        if stream.disposition & _STILLS:
            continue
        if stream.codec_context is None:
            raise MediaError(
                source.where, "a video's codec must be one FFmpeg decodes, found an unknown one; convert it"
            )
        stream.codec_context.thread_count = 1
        return stream
    kinds = ", ".join(sorted(stream.type for stream in source.container.streams)) or "no tracks"
    raise NoPictureError(
        source.where, f"a video must have a picture track, found {kinds}; pass the video, not its sound"
    )


def from_first_keyframe(source: Source, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Packets from the first keyframe of the file on; those before it refer to pictures the file does not have."""
    return dropwhile(lambda packet: packet.size and not packet.is_keyframe, source.packets(stream))


def counts_by_decoding(source: Source, stream: VideoStream) -> bool:
    """Whether frames of this kind of file are numbered by decoding from its start, for want of reliable
    timestamps."""
    return bool(source.formats & _UNCERTAIN_FORMATS) or stream.codec_context.name in _UNCERTAIN_CODECS


def _check_size(width: int, height: int, where: str) -> None:
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise MediaError(
            where,
            f"a picture must have at most {MAX_SIDE} pixels a side and {MAX_PIXELS // 10**6} million in all, "
            f"found {width}x{height}; scale it down",
        )


def _read_entries(source: Source, stream: VideoStream) -> tuple[list[_Entry], av.VideoFrame | None]:
    entries: list[_Entry] = []
    first: av.VideoFrame | None = None
    decodable = False
    for packet in source.packets(stream):
        decodable = decodable or packet.is_keyframe or not packet.size
        if packet.size:
            entries.append(_entry(packet))
        if first is None and decodable:
            first = next(iter(stream.decode(packet if packet.size else None)), None)
    return entries, first


def _check_whole(source: Source, stream: VideoStream, entries: list[_Entry], expected: int) -> None:
    """A file cut off in the middle has fewer packets than its index promises."""
    found = len(entries)
    # In MPEG-TS the same mark says that a packet was lost on the way, which a recording may well begin with.
    cut_short = bool(entries) and entries[-1].cut_short and "mpegts" not in source.formats
    if found < expected or cut_short:
        expected = max(expected, found)
        raise MediaError(
            source.where,
            f"a video must hold all {expected} frames of its index, found {found} readable; "
            "the file is truncated: copy or upload it again",
        )
    text = stream.metadata.get("DURATION", "")
    match = re.fullmatch(r"(\d+):(\d+):(\d+)\.(\d+)", text)
    times = [entry.pts for entry in entries if entry.pts is not None]
    if match is None or not times or stream.time_base is None:
        return
    promised = int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])
    readable = max(times) * stream.time_base
    if readable < promised - 1 - promised * Fraction(2, 100):
        raise MediaError(
            source.where,
            f"a video must hold the {promised} s its header promises, found {float(readable):.1f} s; "
            "the file is truncated: copy or upload it again",
        )


def _is_usable(entries: list[_Entry]) -> bool:
    times = [entry.pts for entry in entries if not entry.discard]
    return None not in times and len(set(times)) == len(times)


def _decoded_entries(file: File, where: str) -> list[_Entry]:
    """The same from decoded frames, for files whose packets do not tell."""
    with open_source(file, where) as source:
        frames = enumerate(_all_frames(source))
        entries = [_Entry(f.pts, f.duration, f.key_frame or not i, False, False) for i, f in frames]
    if not _is_usable(entries):
        raise MediaError(
            where,
            "every frame must have a timestamp of its own, found frames without one; "
            "rewrite the file's timestamps, for instance by converting it to mp4",
        )
    return entries


def _all_frames(source: Source) -> Iterator[av.VideoFrame]:
    stream = picture_stream(source)
    for packet in from_first_keyframe(source, stream):
        yield from stream.decode(packet if packet.size else None)


def _presented(entries: list[_Entry]) -> list[_Entry]:
    """Entries of frames that are shown, in presentation order; none from before the first keyframe."""
    start = next((i for i, entry in enumerate(entries) if entry.key), 0)
    first_pts = entries[start].pts or 0 if entries else 0
    shown = [e for e in entries[start:] if not e.discard and e.pts is not None and e.pts >= first_pts]
    return sorted(shown, key=lambda entry: entry.pts or 0)


def _info(source: Source, stream: VideoStream, first: av.VideoFrame, entries: list[_Entry]) -> VideoInfo:
    time_base = stream.time_base
    if not entries or time_base is None:
        raise NoPictureError(source.where, "a video must show at least one frame, found none; check its edit list")
    frame = in_working_format(first, VideoReformatter())
    rotation, mirrored = geometry.orientation(display_matrix(first))
    pts = np.array([entry.pts for entry in entries], np.int64)
    keys = {0, *(i for i, entry in enumerate(entries) if entry.key)}
    context = stream.codec_context
    return VideoInfo(
        width=first.width,
        height=first.height,
        rotation=rotation,
        mirrored=mirrored,
        pix_fmt=frame.format.name,
        color=_with_fallback(color_tags(frame), context),
        sample_aspect_ratio=stream.sample_aspect_ratio or context.sample_aspect_ratio or Fraction(1),
        time_base=time_base,
        origin=_origin(source, int(pts[0]) * time_base),
        pts_N=pts,
        end_pts=_end(source, stream, entries),
        keyframes_K=np.array(sorted(keys), np.int64),
    )


def _with_fallback(tags: ColorTags, context: Any) -> ColorTags:
    """What the frame leaves unsaid, as the container says it."""

    def pick(said: int, unsaid: int, other: int) -> int:
        return int(other) if said == unsaid else said

    return ColorTags(
        primaries=pick(tags.primaries, 2, context.color_primaries),
        trc=pick(tags.trc, 2, context.color_trc),
        space=pick(tags.space, 2, context.colorspace),
        range=color.FULL_RANGE if context.color_range == color.FULL_RANGE else tags.range,
    )


def _origin(source: Source, picture_start: Fraction) -> Fraction:
    """Priming samples before zero are not sound; a picture before zero is a picture."""
    starts = [
        max(Fraction(0), stream.start_time * stream.time_base)
        for stream in source.container.streams.audio
        if stream.start_time is not None and stream.time_base is not None
    ]
    return min([picture_start, *starts])


def _end(source: Source, stream: VideoStream, entries: list[_Entry]) -> int:
    """mp4 gives a track's length, which is exact; its packets' durations are decoding steps, which are
    not."""
    last, before = entries[-1].pts or 0, entries[-2].pts or 0 if len(entries) > 1 else None
    if "mov" in source.formats and stream.duration:
        end = (entries[0].pts or 0) + stream.duration
        if end > last:
            return end
    if entries[-1].duration > 0:
        return last + entries[-1].duration
    if before is not None:
        return last + (last - before)
    rate = stream.guessed_rate or stream.average_rate or Fraction(25)
    return last + max(1, timeline.to_ticks(1 / rate, stream.time_base or Fraction(1, 1000)))
