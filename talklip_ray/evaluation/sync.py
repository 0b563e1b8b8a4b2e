"""How well lips and sound fit: LSE-D and LSE-C, the lip-sync error of the literature, by SyncNet.

The protocol is the published one (Wav2Lip's, which the paper follows): the whole frame squashed to 224 x 224, no
face track; a window of five frames at 25 a second and 0.2 s of sound from each frame on; the sound shifted by up to
15 frames either way. LSE-D is the mean distance at the best shift, LSE-C how far the median shift is from it. Over
several clips both are averaged.

Shapes: T windows, D embedding, K = 2 x 15 + 1 shifts, P = T + 2 x 15 windows of sound; C = 13 cepstra, W = 20 steps;
frames H x W x 3, BGR.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, repeat

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from talklip_ray.errors import MediaError
from talklip_ray.media.audio import SPEECH_RATE, AudioInfo, probe_audio, read_speech, sound_stream
from talklip_ray.media.container import open_source
from talklip_ray.media.features import mfcc13
from talklip_ray.media.timeline import nearest_step
from talklip_ray.media.video import File, VideoInfo, probe_video, read_pictures
from talklip_ray.models.syncnet import FRAMES, STEPS, SyncNet, squashed

RATE = 25
"""Frames a second that SyncNet knows."""

SHIFT = 15
"""Frames by which the sound is shifted either way."""

MAX_SECONDS = 24 * 3600

_SAMPLES = SPEECH_RATE // RATE
_ROWS = 4
"""Rows of cepstra a frame."""

_FULL_SCALE = 32768
_BATCH = 32
"""Windows of video the network looks at together."""

_STRETCH = 2500
"""Windows of sound, 100 s, heard before their video is looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncScore:
    """The lip-sync error of one clip."""

    distance: float
    """LSE-D, less is better: mean distance of lips and sound at the best shift."""
    confidence: float
    """LSE-C, more is better: the median over all shifts, less ``distance``."""
    offset: int
    """Frames by which the best fitting sound comes early; late is negative."""
    num_windows: int
    """T."""
    distances_K: tuple[float, ...]
    """Mean distance at each shift, from sound taken 15 frames earlier to 15 frames later."""


class OffsetSearch:
    """Takes rows of a clip in order, a batch at a time, and holds no more of them than the shifts span."""

    def __init__(self, vshift: int = SHIFT) -> None:
        self._vshift = vshift
        self._totals_K = torch.zeros(2 * vshift + 1, dtype=torch.float64)
        self._count = 0
        self._lips_TD = self._audio_PD = torch.zeros(0)

    def add(self, lips_TD: Tensor, audio_TD: Tensor) -> None:
        """Rows of the next windows of the clip; as many of sound as of lips."""
        if lips_TD.shape != audio_TD.shape:
            raise ValueError(f"lips {tuple(lips_TD.shape)} and sound {tuple(audio_TD.shape)} must have one shape")
        if not len(self._audio_PD):
            self._lips_TD, self._audio_PD = lips_TD[:0], _silence(audio_TD, self._vshift)
        self._lips_TD = torch.cat((self._lips_TD, lips_TD))
        self._audio_PD = torch.cat((self._audio_PD, audio_TD))
        ready = len(self._audio_PD) - 2 * self._vshift
        if ready > 0:
            self._totals_K += _totals(shifted_distances(self._lips_TD[:ready], self._audio_PD))
            self._lips_TD, self._audio_PD = self._lips_TD[ready:], self._audio_PD[ready:]
            self._count += ready

    def score(self) -> SyncScore:
        """The score of all windows so far; past the clip's ends the rows of sound are zeros."""
        count = self._count + len(self._lips_TD)
        if not count:
            raise ValueError("there must be a window to score, found none; add rows first")
        totals_K = self._totals_K
        if len(self._lips_TD):
            padded_PD = torch.cat((self._audio_PD, _silence(self._audio_PD, self._vshift)))
            padded_PD = padded_PD[: len(self._lips_TD) + 2 * self._vshift]
            totals_K = totals_K + _totals(shifted_distances(self._lips_TD, padded_PD))
        means_K = totals_K / count
        best = int(means_K.argmin())
        distance = float(means_K[best])
        return SyncScore(
            distance=distance,
            confidence=float(means_K.median()) - distance,
            offset=self._vshift - best,
            num_windows=count,
            distances_K=tuple(means_K.tolist()),
        )


def offsets(lips_TD: Tensor, audio_TD: Tensor, vshift: int = SHIFT) -> SyncScore:
    """The score of a whole clip's rows."""
    search = OffsetSearch(vshift)
    search.add(lips_TD, audio_TD)
    return search.score()


def shifted_distances(lips_TD: Tensor, padded_PD: Tensor) -> Tensor:
    """Distances K x T of each row of lips to the rows of sound that any shift puts beside it.

    Row 0 of ``padded_PD`` is the one beside lip row 0 at the earliest shift; P = T + K - 1.
    """
    count = len(lips_TD)
    shifts = range(len(padded_PD) - count + 1)
    return torch.stack([F.pairwise_distance(lips_TD, padded_PD[at : at + count]) for at in shifts])


def score_file(
    video: File, audio: File | None, network: SyncNet, *, where: str, audio_where: str = "", vshift: int = SHIFT
) -> SyncScore:
    """The score of a video with its own sound (``audio`` None) or with a dub that starts when the title does.

    Frames are taken 25 times a second: every one of a 25 fps video; of any other, the one shown at that time, so
    some are left out or seen twice, and scores of videos of different frame rates do not compare. Memory does not
    grow with the length of the clip but for its timestamps.

    Raises MediaError for a clip of less than six frames or 0.24 s of sound, NoSoundError and NoPictureError where
    there is none at all, ValueError for a network in training mode.
    """
    if network.training:
        raise ValueError("a network must be in eval mode to judge, found it in training mode; call eval() on it")
    heard, audio_where = (video, where) if audio is None else (audio, audio_where or where)
    info, sound = probe_video(video, where), probe_audio(heard, audio_where)
    begins = _own_start(video, where) if audio is None else info.origin
    zero = nearest_step(int(info.pts_N[0]) * info.time_base - begins, SPEECH_RATE)
    frames = nearest_step((info.end_pts - int(info.pts_N[0])) * info.time_base, RATE)
    count = _num_windows(frames, sound.num_speech_samples - zero, where)
    picks_N = shown_at(info, count + FRAMES - 1)
    search = OffsetSearch(vshift)
    with torch.inference_mode():
        for first in range(0, count, _STRETCH):
            stop = min(first + _STRETCH, count)
            mfcc_T1CW = _cepstra(heard, sound, zero + first * _SAMPLES, stop - first, audio_where)
            audio_TD = torch.cat([network.audio(part) for part in torch.split(_on(network, mfcc_T1CW), 8 * _BATCH)])
            pictures = _frames(video, info, picks_N[first : stop + FRAMES - 1], where)
            for lips_TD in _lips(pictures, network):
                search.add(lips_TD, audio_TD[: len(lips_TD)])
                audio_TD = audio_TD[len(lips_TD) :]
    return search.score()


def shown_at(info: VideoInfo, count: int) -> NDArray[np.int64]:
    """Numbers of the frames shown at the first ``count`` ticks of 1/25 s from the first frame on.

    A frame counts as shown from half a tick before its timestamp on, so that timestamps rounded by a container
    neither drop a frame nor repeat one.
    """
    tick = 2 * RATE * info.time_base
    halves_N = 2 * np.arange(count, dtype=np.int64) + 1
    limits_N = info.pts_N[0] - (-halves_N * tick.denominator // tick.numerator)
    return np.asarray(np.searchsorted(info.pts_N, limits_N, side="left") - 1, np.int64)


def _num_windows(frames: int, samples: int, where: str) -> int:
    """One less than would fit: published scores leave the last window out."""
    both = min(frames, samples // _SAMPLES)
    if not FRAMES < both <= MAX_SECONDS * RATE:
        raise MediaError(
            where,
            f"a clip to be scored must have {FRAMES + 1} frames at {RATE} a second or more, and at most "
            f"{MAX_SECONDS // 3600} h, all with sound under them, found {max(0, frames)} frames and "
            f"{max(0, samples) / SPEECH_RATE:.2f} s of sound; pass a clip of that length",
        )
    return both - FRAMES


def _own_start(video: File, where: str) -> Fraction:
    """Second at which a video's own first sample sounds. Priming samples before zero are not sound."""
    with open_source(video, where) as source:
        stream = sound_stream(source)
        return max(Fraction(0), (stream.start_time or 0) * (stream.time_base or Fraction(0)))


def _cepstra(file: File, sound: AudioInfo, first: int, count: int, where: str) -> NDArray[np.float32]:
    """T x 1 x C x W of windows of sound, one a frame, from sample ``first`` on."""
    speech = read_speech(file, sound, first - 1, first + _SAMPLES * (count + FRAMES), where)
    scaled = np.clip(np.rint(speech * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1)
    rows_NC = mfcc13(scaled[1:], before=float(scaled[0]))
    windows_TCW = np.lib.stride_tricks.sliding_window_view(rows_NC, STEPS, axis=0)[::_ROWS][:count]
    return np.ascontiguousarray(windows_TCW[:, None])


def _frames(file: File, info: VideoInfo, picks_N: NDArray[np.int64], where: str) -> Iterator[NDArray[np.uint8]]:
    """Whole upright frames, BGR, squashed: those picked, as often as picked."""
    first, last = int(picks_N[0]), int(picks_N[-1])
    times_N = np.bincount(picks_N - first).tolist()
    pictures = read_pictures(file, pts=info.pts_N.tolist(), first=0, start=first, stop=last + 1, where=where)
    for picture, times in zip(pictures, times_N, strict=True):
        if times:
            yield from repeat(squashed(picture.crop((0, 0, *picture.size))), times)


def _lips(frames: Iterator[NDArray[np.uint8]], network: SyncNet) -> Iterator[Tensor]:
    """Rows of the windows that start at every frame but the last four, a batch at a time."""
    held = list(islice(frames, FRAMES - 1))
    while fresh := list(islice(frames, _BATCH)):
        held += fresh
        clip_THWC = _on(network, np.stack(held))
        yield network.lips(clip_THWC.permute(3, 0, 1, 2)[None])
        held = held[1 - FRAMES :]


def _on(network: SyncNet, values: NDArray[np.float32] | NDArray[np.uint8]) -> Tensor:
    parameter = next(network.parameters())
    return torch.from_numpy(values).to(parameter.device).to(parameter.dtype)


def _silence(rows_TD: Tensor, count: int) -> Tensor:
    return rows_TD.new_zeros((count, rows_TD.shape[1]))


def _totals(distances_KT: Tensor) -> Tensor:
    return distances_KT.double().sum(dim=1).cpu()
