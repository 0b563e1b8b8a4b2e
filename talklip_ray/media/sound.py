"""The product's sound track: the dub, copied where the container takes it as it is, else encoded to AAC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet

from talklip_ray.media import timeline
from talklip_ray.media.audio import sound_stream
from talklip_ray.media.container import File, Source

_COPIED = {"aac", "mp3", "ac3", "eac3", "flac"}
"""Codecs that mp4 and the players of mp4 take; AAC only out of mp4, where it comes without ADTS headers."""

_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_AAC_LAYOUTS = {name: name for name in ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1")} | {
    "5.0(side)": "5.0",
    "5.1(side)": "5.1",
}
"""Layouts AAC has, by the names a dub may have for them; others become stereo."""
_FRAME = 1024

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A dub to be laid under a picture."""

    file: File
    where: str
    offset: Fraction = Fraction(0)
    """Title second at which the dub's first sample sounds; what would sound before the title starts is
    cut."""
    pad: bool = False
    """Continue with silence to the end of the picture; otherwise the sound ends with the dub. Either way it
    never outlasts the picture."""
    bitrate_per_channel: int = 96_000


class SoundTrack:
    """Packets of a dub for one output container, from ``lead`` seconds of its clock on, none past ``end``."""

    def __init__(
        self, sound: Sound, source: Source, container: OutputContainer, *, lead: Fraction, end: Fraction
    ) -> None:
        self._sound, self._source = sound, source
        self._lead, self._end = lead, end
        self._input = sound_stream(source)
        self.copied = _can_copy(sound, source, self._input, lead)
        if self.copied:
            self._output: AudioStream = container.add_stream_from_template(self._input)
        else:
            self._output = _aac_stream(container, self._input, sound.bitrate_per_channel)

    @property
    def rate(self) -> int:
        """Samples a second of the track."""
        return int(self._output.rate)

    def packets(self) -> Iterator[Packet[Any]]:
        """Packets in order, timed on the container's clock."""
        return self._copied_packets() if self.copied else self._encoded_packets()

    def _copied_packets(self) -> Iterator[Packet[Any]]:
        tick = self._input.time_base or Fraction(1, self.rate)
        shift = timeline.to_ticks(self._lead, tick) - (self._input.start_time or 0)
        stop = timeline.to_ticks(self._end, tick)
        for packet in self._source.packets(self._input):
            if not packet.size or packet.pts is None:
                continue
            packet.pts = packet.dts = packet.pts + shift
            if packet.pts >= stop:
                return
            packet.duration = min(packet.duration or 0, stop - packet.pts)
            packet.stream = self._output
            yield packet

    def _encoded_packets(self) -> Iterator[Packet[Any]]:
        at = 0
        for block in _blocks(self._timed_samples()):
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self._output.layout.name)
            frame.sample_rate = self.rate
            frame.pts, frame.time_base = at, Fraction(1, self.rate)
            at += block.shape[1]
            yield from self._output.encode(frame)
        yield from self._output.encode(None)

    def _timed_samples(self) -> Iterator[Samples]:
        """The dub from the container's second zero on: silence before it, and after it if asked."""
        channels = int(self._output.codec_context.channels)
        stop = timeline.to_ticks(self._end, Fraction(1, self.rate))
        at = timeline.to_ticks(self._lead, Fraction(1, self.rate))
        if at > 0:
            yield from _silence(channels, min(at, stop))
        for samples_CN in _decoded(self._source, self._input, self._output):
            begin, at = at, at + samples_CN.shape[1]
            cut_CN = samples_CN[:, max(0, -begin) : max(0, stop - begin)]
            if cut_CN.size:
                yield cut_CN
            if at >= stop:
                return
        if self._sound.pad:
            yield from _silence(channels, stop - max(at, 0))


def _can_copy(sound: Sound, source: Source, stream: AudioStream, lead: Fraction) -> bool:
    codec = stream.codec_context.name.removesuffix("float")
    if sound.pad or lead < 0 or codec not in _COPIED:
        return False
    return codec != "aac" or "mov" in source.formats


def _aac_stream(container: OutputContainer, source: AudioStream, bitrate_per_channel: int) -> AudioStream:
    rate = next((rate for rate in _AAC_RATES if rate <= source.rate), _AAC_RATES[-1])
    layout = _AAC_LAYOUTS.get(source.layout.name, "mono" if source.channels == 1 else "stereo")
    stream: AudioStream = container.add_stream("aac", rate=rate, layout=layout)
    # An AAC frame holds at most 6144 bits a channel; stay well below, or the encoder complains at low rates.
    stream.bit_rate = min(bitrate_per_channel, 4 * rate) * stream.codec_context.channels
    return stream


def _decoded(source: Source, stream: AudioStream, output: AudioStream) -> Iterator[Samples]:
    """All samples of the dub as float [C,N], in the output's rate and layout."""
    resampler = av.AudioResampler(format="fltp", layout=output.layout.name, rate=output.rate)
    for packet in source.packets(stream):
        for frame in stream.decode(packet if packet.size else None):
            frame.pts = None
            for ready in resampler.resample(frame):
                yield np.asarray(ready.to_ndarray(), np.float32)
    for ready in resampler.resample(None):
        yield np.asarray(ready.to_ndarray(), np.float32)


def _silence(channels: int, length: int) -> Iterator[Samples]:
    for start in range(0, length, 1 << 16):
        yield np.zeros((channels, min(1 << 16, length - start)), np.float32)


def _blocks(pieces: Iterator[Samples]) -> Iterator[Samples]:
    """The same samples in blocks of one codec frame each; the last may be shorter."""
    held: list[Samples] = []
    length = 0
    for piece in pieces:
        held.append(piece)
        length += piece.shape[1]
        if length < _FRAME:
            continue
        whole = np.concatenate(held, axis=1)
        full = length // _FRAME * _FRAME
        for start in range(0, full, _FRAME):
            yield np.ascontiguousarray(whole[:, start : start + _FRAME])
        held, length = [whole[:, full:]], length - full
    if length:
        yield np.ascontiguousarray(np.concatenate(held, axis=1))
