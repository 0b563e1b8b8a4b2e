"""Reading a dub: how long it is, and any stretch of it as 16 kHz mono speech."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import gcd
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.packet import Packet
from scipy import signal

from talklip_ray.errors import MediaError, NoSoundError
from talklip_ray.media import timeline
from talklip_ray.media.container import File, Source, open_source

SPEECH_RATE = 16_000
MAX_RATE = 768_000

BLOCK_SECONDS = 10
"""A seekable file is decoded in blocks of this length on its own clock, each from a fresh start. A decoder
whose output depends on what it decoded before (AAC's noise substitution) so gives the same samples for every
slice."""

_PREROLL = Fraction(1, 2)
"""Seconds decoded and dropped before a block: what overlaps into it."""

_SEEKABLE = {"wav", "w64", "flac", "mov"}
"""Formats in which a seek lands on a known sample."""

_COUNTED = _SEEKABLE | {"mp3", "aiff", "caf", "au"}
"""Formats whose packets say to the sample how long they are."""

_HALF_WIDTH = 32
"""Zero crossings of the low-pass filter to either side."""

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """A dub's sound. Sample 0 is the first that sounds."""

    rate: int
    channels: int
    codec: str
    num_samples: int
    """At its own rate, a channel."""

    @property
    def duration(self) -> Fraction:
        """Seconds."""
        return Fraction(self.num_samples, self.rate)

    @property
    def num_speech_samples(self) -> int:
        """Samples at 16 kHz whose time lies within the dub."""
        return timeline.ceil_step(self.duration, SPEECH_RATE)


def probe_audio(file: File, where: str) -> AudioInfo:
    """A dub's rate, channels, codec and exact length; decoded only where the container does not tell.

    Raises NoSoundError where there is no audio track or no sample in it, MediaError where the file is not
    media.
    """
    with open_source(file, where) as source:
        stream = sound_stream(source)
        context = stream.codec_context
        exact = bool(source.formats & _COUNTED)
        count = _packet_samples(source, stream) if exact else sum(f.samples for f in _frames(source, stream))
        if count <= 0:
            raise NoSoundError(where, "a dub must hold at least one sample, found none; export it again")
        return AudioInfo(
            rate=context.sample_rate,
            channels=context.channels,
            codec=context.name,
            num_samples=count,
        )


def read_speech(file: File, info: AudioInfo, first: int, stop: int, where: str) -> npt.NDArray[np.float32]:
    """Samples ``first`` to ``stop`` (exclusive) of the dub at 16 kHz mono, float32 [stop-first], full scale
    1.

    Sample numbers count from the dub's first sample; outside the dub there is silence. Channels are averaged.
    The result for a sample does not depend on the slice it is read in, bit for bit.
    """
    speech = np.zeros(max(0, stop - first), np.float32)
    low, high = max(first, 0), min(stop, info.num_speech_samples)
    if low < high:
        speech[low - first : high - first] = _resampled(file, info, low, high, where)
    return speech


def _resampled(file: File, info: AudioInfo, first: int, stop: int, where: str) -> npt.NDArray[np.float32]:
    common = gcd(SPEECH_RATE, info.rate)
    up, down = SPEECH_RATE // common, info.rate // common
    if up == down:
        return _native(file, info, first, stop, where).astype(np.float32)
    taps = _low_pass(up, down)
    half = len(taps) // 2
    # Begin where both clocks tick together, so that the filter's phase is that of the whole dub.
    begin = (first * down - half) // (up * down) * down
    end = ((stop - 1) * down + half) // up + 1
    filtered = signal.upfirdn(taps, _native(file, info, begin, end, where), up, down)
    # upfirdn's output m lies at tick m * down of the upsampled input, half a filter late.
    late = half // down - begin * up // down
    return np.asarray(filtered[first + late : stop + late], np.float32)


def sound_stream(source: Source) -> AudioStream:
    """The first audio track."""
    for stream in source.container.streams.audio:
        if stream.codec_context is None:
            raise MediaError(source.where, f"a dub's codec must be one FFmpeg decodes, found {stream}; convert it")
        if not 0 < stream.codec_context.sample_rate <= MAX_RATE or not stream.codec_context.channels:
            found = f"{stream.codec_context.sample_rate} Hz, {stream.codec_context.channels} channels"
            raise NoSoundError(source.where, f"a dub must have a rate and channels, found {found}; export it again")
        stream.codec_context.thread_count = 1
        return stream
    kinds = ", ".join(sorted(stream.type for stream in source.container.streams)) or "no tracks"
    raise NoSoundError(source.where, f"a dub must have an audio track, found {kinds}; pass a file with sound")


def _packet_samples(source: Source, stream: AudioStream) -> int:
    ticks, skipped = 0, 0
    for packet in source.packets(stream):
        if packet.size and not packet.is_discard:
            skipped += _skipped(packet)
            ticks += packet.duration or 0
    seconds = ticks * (stream.time_base or Fraction(0))
    return timeline.nearest_step(seconds, stream.codec_context.sample_rate) - skipped


def _skipped(packet: Packet[Any]) -> int:
    """Samples that the decoder will drop from a packet: the encoder's priming and padding."""
    if not packet.has_sidedata("skip_samples"):
        return 0
    start, end = struct.unpack_from("<II", bytes(packet.get_sidedata("skip_samples")))
    return int(start + end)


@lru_cache
def _low_pass(up: int, down: int) -> Samples:
    """Odd, symmetric taps at ``up`` times the dub's rate; half of them a whole number of output steps."""
    half = down * -(-_HALF_WIDTH * max(up, down) // down)
    taps = signal.firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 8.0))
    return np.asarray(taps * up, np.float64)


def _native(file: File, info: AudioInfo, first: int, stop: int, where: str) -> Samples:
    """Samples of the dub at its own rate, mono, silence outside it."""
    out = np.zeros(stop - first, np.float64)
    low, high = max(first, 0), min(stop, info.num_samples)
    if low >= high:
        return out
    size = BLOCK_SECONDS * info.rate
    for block in range(low // size, -(-high // size)):
        begin, end = max(low, block * size), min(high, (block + 1) * size)
        pieces = _decoded_from(file, info, block * size, end, where)
        if pieces is None:
            _place(out, first, _decoded(file, low, high, where), low, high)
            return out
        _place(out, first, pieces, begin, end)
    return out


Piece = tuple[int, Samples]


def _place(out: Samples, first: int, pieces: Iterator[Piece] | list[Piece], begin: int, end: int) -> None:
    """Write the part of the pieces that lies between two sample numbers into ``out``, which starts at
    ``first``."""
    for at, piece in pieces:
        low, high = max(at, begin), min(at + len(piece), end)
        if low < high:
            out[low - first : high - first] = piece[low - at : high - at]


def _decoded(file: File, first: int, stop: int, where: str) -> Iterator[Piece]:
    """Decoded pieces with their sample numbers, counted from the file's start."""
    with open_source(file, where) as source:
        stream = sound_stream(source)
        at = 0
        for frame in _frames(source, stream):
            if at + frame.samples > first:
                yield at, _mono(frame, where)
            at += frame.samples
            if at >= stop:
                return


def _decoded_from(file: File, info: AudioInfo, begin: int, stop: int, where: str) -> list[Piece] | None:
    """Decoded pieces from a block's beginning on, after a seek; None where the file cannot be sought
    exactly."""
    with open_source(file, where) as source:
        stream = sound_stream(source)
        time_base = stream.time_base or Fraction(0)
        step = info.rate * time_base
        if not source.formats & _SEEKABLE or step.denominator != 1 or step == 0:
            return None
        zero = stream.start_time or 0
        if begin:
            source.container.seek(zero + int((begin / Fraction(info.rate) - _PREROLL) / time_base), stream=stream)
        pieces: list[Piece] = []
        for frame in _frames(source, stream):
            if frame.pts is None:
                return None
            at = (frame.pts - zero) * int(step)
            if not pieces and at > begin:
                return None
            if at + frame.samples > begin:
                pieces.append((at, _mono(frame, where)))
            if at + frame.samples >= stop:
                break
        return pieces


def _frames(source: Source, stream: AudioStream) -> Iterator[av.AudioFrame]:
    for packet in source.packets(stream):
        yield from stream.decode(packet if packet.size else None)


def _mono(frame: av.AudioFrame, where: str) -> Samples:
    """Mean of the channels, full scale 1."""
    name = frame.format.name.removesuffix("p")
    raw = frame.to_ndarray()
    channels = raw if frame.format.is_planar else raw.reshape(frame.samples, -1).T
    mean = channels.astype(np.float64).mean(axis=0)
    if name in ("flt", "dbl"):
        return np.asarray(mean, np.float64)
    if name == "u8":
        return np.asarray((mean - 128) / 128, np.float64)
    bits = {"s16": 15, "s32": 31}.get(name)
    if bits is None:
        raise MediaError(where, f"samples must be 8 to 32 bits or float, found {name}; convert it to wav")
    return np.asarray(mean / 2**bits, np.float64)
