"""What a network hears: speech at 16 kHz turned into rows on the dub's own clock.

Two voices, one per kind of listener:

    LOCAL    80 steps a second, 80 values: log-mel magnitudes in -4 .. 4, as Wav2Lip makes them
    GLOBAL   25 steps a second, 104 values: 4 rows of 26 log filter-bank energies, each step
             normalised, as AV-HuBERT takes them

And what SyncNet hears when it judges a dub: ``mfcc13``, 100 rows a second of 13 cepstra.

Any slice equals the same rows of the whole file bit for bit: outside the file there are zeros, every row
is computed from its own samples alone, and matrix products run over blocks of one fixed shape.

Shapes: N samples, T frames of 10 ms, A steps, K frequency bins, M mel filters, F values a step.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache

import librosa
import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Voice(StrEnum):
    """Which rows a listener takes."""

    LOCAL = "local"
    GLOBAL = "global"


RATE = 16_000
STEPS_PER_SECOND = {Voice.LOCAL: 80, Voice.GLOBAL: 25}
FEATURES = {Voice.LOCAL: 80, Voice.GLOBAL: 104}
SILENCE = -4.0
"""What every value of a LOCAL step is where there is no sound at all."""

STACK = 4
_EMPHASIS = 0.97
_HOP, _WINDOW = 200, 800
_FRAME_HOP, _FRAME, _NFFT, _BANKS = 160, 400, 512, 26
_CEPSTRA, _LIFTER = 13, 22
_INT16 = 32768.0
_BLOCK = 64


def num_steps(voice: Voice, num_samples: int) -> int:
    """Steps a file of ``num_samples`` (16 kHz) has in all."""
    if num_samples <= 0:
        return 0
    if voice is Voice.LOCAL:
        return 1 + num_samples // _HOP
    return -(-num_frames(num_samples) // STACK)


def num_frames(num_samples: int) -> int:
    """Frames of 10 ms under GLOBAL steps: the last one may be filled up with zeros."""
    return 1 + max(0, -(-(num_samples - _FRAME) // _FRAME_HOP))


def samples_for(voice: Voice, first_step: int, stop_step: int) -> tuple[int, int]:
    """First sample and one past the last that steps [first_step, stop_step) depend on.

    May be negative or past the file's end: those samples are zeros.
    """
    if voice is Voice.LOCAL:
        return first_step * _HOP - _WINDOW // 2 - 1, (stop_step - 1) * _HOP + _WINDOW // 2
    frames = STACK * first_step, STACK * stop_step
    return frames[0] * _FRAME_HOP - 1, (frames[1] - 1) * _FRAME_HOP + _FRAME


def features(
    voice: Voice, samples: Floats, first_step: int, stop_step: int, *, num_samples: int | None = None
) -> Floats:
    """Steps [first_step, stop_step) of a file, float32 [stop_step - first_step, F].

    ``samples`` are mono in -1 .. 1, exactly the ones ``samples_for`` names. ``num_samples`` is the length
    of the whole file: GLOBAL's last step is then filled up with rows of zeros as the released code does;
    None means the file goes on (in silence) for as long as anyone asks.
    """
    begin, end = samples_for(voice, first_step, stop_step)
    if stop_step <= first_step:
        return np.zeros((0, FEATURES[voice]), np.float32)
    if len(samples) != end - begin:
        raise ValueError(f"steps {first_step}..{stop_step} need {end - begin} samples, got {len(samples)}")
    if voice is Voice.LOCAL:
        return _log_mel(_emphasised(samples, begin, num_samples), first_step)
    emphasised = _emphasised(np.multiply(samples, _INT16, dtype=np.float64), begin, num_samples)
    first_frame = STACK * first_step
    energies_TM = _log_energies(emphasised, first_frame)
    if num_samples is not None:
        energies_TM[max(0, num_frames(num_samples) - first_frame) :] = 0.0
    return layer_norm(stack4(energies_TM))


def whole(voice: Voice, samples: Floats) -> Floats:
    """All steps of a recording, in silence before and after it. ValueError where it holds no sample."""
    count = num_steps(voice, len(samples))
    if not count:
        raise ValueError("a recording must hold a sample, found none")
    begin, end = samples_for(voice, 0, count)
    held = np.asarray(samples[:end], np.float32)
    return features(voice, np.pad(held, (-begin, end - len(held))), 0, count)


def logfbank(samples: NDArray[np.int16] | Floats) -> Floats:
    """Natural log of 26 filter-bank energies, a row each 10 ms: [T, 26]. Samples on the int16 scale.

    The defaults of python_speech_features.logfbank: 25 ms rectangular windows, 512-point spectrum, zeros to
    epsilon.
    """
    return _log_energies(_emphasised(_filled_up(samples, 0.0), -1, len(samples)), 0)


def mfcc13(samples: NDArray[np.int16] | Floats, *, before: float = 0.0) -> Floats:
    """Mel-frequency cepstra, a row each 10 ms: [T, 13]. Samples on the int16 scale.

    The defaults of python_speech_features.mfcc: the first 13 of an orthonormal cosine transform of ``logfbank``'s
    rows before rounding, liftered by 22, the first of them replaced by the log of the frame's energy. ``before`` is
    the sample before the first, for a slice from the middle of a file; rows of whole frames are then the file's own.
    """
    power_TK = _power(_emphasised(_filled_up(samples, before), -1, len(samples)))
    cepstra_TC = fft.dct(_log(_blockwise(power_TK, _bank_filters(), 0)), type=2, norm="ortho")[:, :_CEPSTRA]
    cepstra_TC *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(_CEPSTRA) / _LIFTER)
    cepstra_TC[:, 0] = _log(power_TK.sum(axis=1))
    return np.asarray(cepstra_TC, np.float32)


def stack4(rows_TM: Floats) -> Floats:
    """Four rows side by side, zero rows appended to a multiple of four: [ceil(T/4), 4 M]."""
    missing = -len(rows_TM) % STACK
    return np.pad(rows_TM, ((0, missing), (0, 0))).reshape(-1, STACK * rows_TM.shape[1])


def layer_norm(rows_AF: Floats, eps: float = 1e-5) -> Floats:
    """Each row to mean 0 and variance 1, in double precision so that a constant row stays zero."""
    rows = rows_AF.astype(np.float64)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.sqrt((rows * rows).mean(axis=1, keepdims=True) + eps)
    return rows.astype(np.float32)


def _emphasised(samples: NDArray[np.floating], begin: int, num_samples: int | None) -> Doubles:
    """Pre-emphasis; the first sample is only history. Nothing sounds from the file's end on."""
    wide = np.asarray(samples, np.float64)
    emphasised = wide[1:] - _EMPHASIS * wide[:-1]
    if num_samples is not None:
        emphasised[max(0, num_samples - begin - 1) :] = 0.0
    return np.asarray(emphasised, np.float64)


def _log_mel(emphasised: Doubles, first_step: int) -> Floats:
    frames_AN = np.lib.stride_tricks.sliding_window_view(emphasised, _WINDOW)[::_HOP]
    magnitudes_AK = np.abs(np.fft.rfft(frames_AN * _hann(), axis=1))
    mel_AM = _blockwise(magnitudes_AK, _mel_filters(), first_step)
    decibels_AM = 20.0 * np.log10(np.maximum(1e-5, mel_AM)) - 20.0
    return np.clip(8.0 * (decibels_AM + 100.0) / 100.0 - 4.0, -4.0, 4.0).astype(np.float32)


def _filled_up(samples: NDArray[np.int16] | Floats, before: float) -> Doubles:
    """One sample of history, the samples, and zeros to the end of the last frame."""
    total = num_frames(len(samples))
    padded = np.zeros(1 + (total - 1) * _FRAME_HOP + _FRAME, np.float64)
    kept = min(len(samples), len(padded) - 1)
    padded[0], padded[1 : 1 + kept] = before, samples[:kept]
    return padded


def _log_energies(emphasised: Doubles, first_frame: int) -> Floats:
    energies_TM = _blockwise(_power(emphasised), _bank_filters(), first_frame)
    return _log(energies_TM).astype(np.float32)


def _power(emphasised: Doubles) -> Doubles:
    frames_TN = np.lib.stride_tricks.sliding_window_view(emphasised, _FRAME)[::_FRAME_HOP]
    spectrum_TK = np.fft.rfft(frames_TN, _NFFT, axis=1)
    return np.asarray((spectrum_TK.real**2 + spectrum_TK.imag**2) / _NFFT, np.float64)


def _log(energies: Doubles) -> Doubles:
    """Natural logarithm, zeros to epsilon."""
    return np.asarray(np.log(np.where(energies == 0, np.finfo(np.float64).eps, energies)), np.float64)


def _blockwise(rows_TK: Doubles, filters_KM: Doubles, first: int) -> Doubles:
    """``rows @ filters`` in blocks of one shape on the absolute grid: a row's sum never depends on its
    company.
    """
    lead = first % _BLOCK
    total = lead + len(rows_TK)
    padded = np.zeros((-(-total // _BLOCK) * _BLOCK, rows_TK.shape[1]), np.float64)
    padded[lead:total] = rows_TK
    products = [padded[at : at + _BLOCK] @ filters_KM for at in range(0, len(padded), _BLOCK)]
    return np.concatenate(products)[lead:total]


@cache
def _hann() -> Doubles:
    return np.asarray(librosa.filters.get_window("hann", _WINDOW, fftbins=True), np.float64)


@cache
def _mel_filters() -> Doubles:
    """80 Slaney filters, 55 to 7600 Hz: [401, 80]."""
    bank = librosa.filters.mel(sr=RATE, n_fft=_WINDOW, n_mels=80, fmin=55, fmax=7600, dtype=np.float64)
    return np.ascontiguousarray(bank.T)


@cache
def _bank_filters() -> Doubles:
    """26 triangles between whole FFT bins, evenly spaced on the HTK mel scale from 0 to 8 kHz: [257, 26]."""
    top = 2595.0 * np.log10(1.0 + RATE / 2 / 700.0)
    hertz = 700.0 * (10.0 ** (np.linspace(0.0, top, _BANKS + 2) / 2595.0) - 1.0)
    edges = np.floor((_NFFT + 1) * hertz / RATE)
    bins = np.arange(_NFFT // 2 + 1)
    filters = np.zeros((len(bins), _BANKS))
    for bank, (low, middle, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising = (bins >= low) & (bins < middle)
        falling = (bins >= middle) & (bins < high)
        filters[rising, bank] = (bins[rising] - low) / (middle - low)
        filters[falling, bank] = (high - bins[falling]) / (high - middle)
    return filters
