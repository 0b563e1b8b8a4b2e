"""Whether mouth and sound move together, measured without a network.

A mouth is two numbers a frame: how much of it is dark (it is open) and how much it changes. Sound is its loudness in
four bands. What drifts slowly is taken out of both; then the sound is shifted against the mouth, and the sum of squared
canonical correlations says how well they fit at each shift. The confidence is how far the best shift of at most
``SHIFT`` frames stands out among all the longer ones, in their standard deviations: the same sound at another time is
what chance looks like, so the number means the same for a clip of any length, light or loudness.

It knows loudness, not speech. Of 8 real clips of 5 to 10 s, the sound of 6 stood within two frames with a confidence
of 3.5 or more, that of one was seven frames late (9), and one, a microphone before the mouth, fitted nowhere (1); with
the sound of other clips, 14 of 288 passed a confidence of 3 within two frames. Of 20 rendered clips of 3 to 4 s, 19
passed, none of them with the sound eight frames late, and 5 of 60 with another's. SyncNet (models/crop_sync.py) is the
better judge where there are weights of one.

Shapes: T frames at 25 a second, S crop side, Q bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from talklip_ray.models.offsets import RATE, SHIFT
from talklip_ray.training.shards import FACE_SIDE, FULL_SCALE, SAMPLE_RATE

MOUTH = (slice(54, 94), slice(22, 74))
"""Rows and columns of a face of 96 x 96 that have the mouth in them, open or shut."""
BROW = (slice(10, 50), slice(16, 80))
"""Those that have the eyes."""
SHORTEST = 2 * RATE
"""Frames below which there are too few longer shifts to compare with."""

_DRIFT = 12
"""Frames to either side over which slow changes are averaged away."""
_BANDS = np.geomspace(4, 500, 5).astype(int)
"""Edges in steps of 15.6 Hz: 62 Hz to 7.8 kHz."""
_WINDOW = 1024
_QUIETEST = -30.0
"""dB below which a band is silent; a sine at full scale has 48."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How sound and mouth go together."""

    confidence: float
    offset: int
    """Frames by which the best fitting sound comes early; late is negative."""


def fit(crops_TSSC: NDArray[np.uint8], usable_T: NDArray[np.bool_], sound_N: NDArray[np.int16]) -> Fit:
    """Of crops 25 times a second, SHORTEST or more, and the 16 kHz sound that begins with the first of them."""
    assert len(crops_TSSC) >= SHORTEST, "too short to tell"
    mouth_T2, voice_TQ = _orthogonal(mouth(crops_TSSC, usable_T)), _orthogonal(voice(sound_N, len(crops_TSSC)))
    fits_T = _fits(mouth_T2, voice_TQ)
    shifts_T = np.fft.fftfreq(len(fits_T), 1 / len(fits_T)).round().astype(int)
    near, far = np.flatnonzero(abs(shifts_T) <= SHIFT), np.flatnonzero(abs(shifts_T) > SHIFT)
    best, spread = near[fits_T[near].argmax()], float(fits_T[far].std())
    confidence = float(fits_T[best] - fits_T[far].mean()) / spread if spread > 0 else 0.0
    return Fit(confidence=confidence, offset=-int(shifts_T[best]))


def mouth(crops_TSSC: NDArray[np.uint8], usable_T: NDArray[np.bool_]) -> Floats:
    """[T,2] openness and motion, without their drift; a frame without a face is as the last one that had one."""
    gray_Tyx = grays(crops_TSSC, usable_T)[:, *MOUTH]
    dark_T = (gray_Tyx < 0.5 * np.median(gray_Tyx)).mean((1, 2))
    moved_T = np.abs(np.diff(gray_Tyx, axis=0, prepend=gray_Tyx[:1])).mean((1, 2))
    spread = float(dark_T.std()) or 1.0
    return _steadied(np.stack([dark_T / spread, np.log(moved_T + 0.5)], axis=1))


def voice(sound_N: NDArray[np.int16], num_frames: int) -> Floats:
    """[T,Q] loudness of each band in dB around the middle of each frame, without its drift."""
    samples = SAMPLE_RATE // RATE
    margin = (_WINDOW - samples) // 2
    heard_N = np.zeros(num_frames * samples + 2 * margin)
    taken = min(len(sound_N), num_frames * samples + margin)
    heard_N[margin : margin + taken] = sound_N[:taken] / FULL_SCALE
    windows_TN = np.lib.stride_tricks.sliding_window_view(heard_N, _WINDOW)[::samples][:num_frames]
    power_TF = np.abs(np.fft.rfft(windows_TN * np.hanning(_WINDOW), axis=1)) ** 2
    bands = [power_TF[:, low:high].mean(axis=1) for low, high in pairwise(_BANDS)]
    decibels_TQ = 10 * np.log10(np.stack(bands, axis=1) + 1e-5)
    return _steadied(np.maximum(decibels_TQ, _QUIETEST))


def grays(crops_TSSC: NDArray[np.uint8], usable_T: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[T,S,S]; a frame without a face is as the last one that had one."""
    gray_TSS = np.zeros((len(crops_TSSC), FACE_SIDE, FACE_SIDE), np.float32)
    last = int(np.argmax(usable_T))
    for at, crop_SSC in enumerate(crops_TSSC):
        last = at if usable_T[at] else last
        shown_SSC = crop_SSC if last == at else crops_TSSC[last]
        gray_TSS[at] = cv2.cvtColor(np.ascontiguousarray(shown_SSC), cv2.COLOR_RGB2GRAY)
    return gray_TSS


def _steadied(values_TQ: Floats) -> Floats:
    weights = np.hanning(2 * _DRIFT + 3)[1:-1]
    padded = np.pad(values_TQ, ((_DRIFT, _DRIFT), (0, 0)), mode="reflect")
    slow_TQ = [np.convolve(column, weights / weights.sum(), "valid") for column in padded.T]
    return np.asarray(values_TQ - np.stack(slow_TQ, axis=1), np.float64)


def _orthogonal(values_TQ: Floats) -> Floats:
    """The same space from columns that do not depend on each other, each of length 1; zeros where nothing changes."""
    columns_TQ, sizes_Q, _ = np.linalg.svd(values_TQ - values_TQ.mean(axis=0), full_matrices=False)
    return np.asarray(columns_TQ * (sizes_Q > 1e-6 * max(1.0, sizes_Q[0])), np.float64)


def _fits(mouth_T2: Floats, voice_TQ: Floats) -> Floats:
    """Sum of squared canonical correlations with the sound taken 0, 1, ... T-1 frames later, around its end."""
    seen, heard = np.fft.rfft(mouth_T2, axis=0), np.fft.rfft(voice_TQ, axis=0)
    both_T2Q = np.fft.irfft(np.conj(seen)[:, :, None] * heard[:, None], n=len(mouth_T2), axis=0)
    return np.asarray((both_T2Q**2).sum(axis=(1, 2)), np.float64)
