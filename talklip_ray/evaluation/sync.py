"""How well lips and sound fit: LSE-D and LSE-C, the lip-sync error of the literature, by SyncNet.

The protocol is the published one (Wav2Lip's, which the paper follows): the whole frame squashed to 224 x 224, no
face track; a window of five frames at 25 a second and 0.2 s of sound from each frame on; the sound shifted by up to
15 frames either way. LSE-D is the mean distance at the best shift, LSE-C how far the median shift is from it. Over
several clips both are averaged. The search over shifts is models/offsets.py's.

Shapes: T windows, D embedding; C = 13 cepstra, W = 20 steps; frames H x W x 3, BGR.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice, repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talklip_ray.errors import MediaError
from talklip_ray.media.audio import SPEECH_RATE, AudioInfo, probe_audio, read_speech, sound_stream
from talklip_ray.media.container import open_source
from talklip_ray.media.features import mfcc13
from talklip_ray.media.timeline import nearest_step
from talklip_ray.media.video import File, VideoInfo, probe_video, read_pictures
from talklip_ray.models.offsets import RATE, SHIFT, OffsetSearch, SyncScore
from talklip_ray.models.syncnet import FRAMES, STEPS, SyncNet, squashed

MAX_SECONDS = 24 * 3600

_SAMPLES = SPEECH_RATE // RATE
_ROWS = 4
"""Rows of cepstra a frame."""

_FULL_SCALE = 32768
_BATCH = 32
"""Windows of video the network looks at together."""

_STRETCH = 2500
"""Windows of sound, 100 s, heard before their video is looked at."""


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
    info, sound, zero = _begun(video, audio, where, audio_where)
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


def speech_under(
    video: File, audio: File | None, count: int, *, where: str, audio_where: str = ""
) -> NDArray[np.int16]:
    """What is heard with ``count`` frames of 1/25 s from the first on, 16 kHz: of a video's own sound (``audio`` None)
    or of a dub that starts when the title does. Shorter where the sound is.

    Raises NoSoundError where there is none at all.
    """
    heard, audio_where = (video, where) if audio is None else (audio, audio_where or where)
    _, sound, zero = _begun(video, audio, where, audio_where)
    stop = min(zero + count * _SAMPLES, sound.num_speech_samples)
    speech_N = read_speech(heard, sound, zero, max(zero, stop), audio_where)
    return np.clip(np.rint(speech_N * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def _begun(video: File, audio: File | None, where: str, audio_where: str) -> tuple[VideoInfo, AudioInfo, int]:
    """Both probed, and the sample of 16 kHz that sounds with the first frame."""
    info, sound = probe_video(video, where), probe_audio(video if audio is None else audio, audio_where)
    begins = _own_start(video, where) if audio is None else info.origin
    return info, sound, nearest_step(int(info.pts_N[0]) * info.time_base - begins, SPEECH_RATE)


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
