"""Cepstra: equal to the library they follow, and the same for a slice as for the whole."""

from __future__ import annotations

import numpy as np
import pytest

from talklip_ray.media.features import logfbank, mfcc13


def speech(num_samples: int = 16_000) -> np.ndarray:
    t = np.arange(num_samples) / 16_000
    noise = np.random.default_rng(8).standard_normal(num_samples)
    sound = 0.4 * np.sin(2 * np.pi * (150 + 400 * t) * t) * np.sin(2 * t) + 0.02 * noise
    return (sound * 20_000).astype(np.int16)


@pytest.mark.parametrize("num_samples", [1, 399, 400, 401, 560, 561, 9_999])
def test_cepstra_are_what_python_speech_features_computes(num_samples: int) -> None:
    reference = pytest.importorskip("python_speech_features")
    samples = speech(num_samples)
    expected_TC = reference.mfcc(samples, 16_000)
    ours_TC = mfcc13(samples)
    assert ours_TC.shape == expected_TC.shape
    assert ours_TC.dtype == np.float32
    assert np.abs(ours_TC - expected_TC).max() < 1e-5


def test_silence_is_a_row_like_any_other() -> None:
    reference = pytest.importorskip("python_speech_features")
    assert np.abs(mfcc13(np.zeros(4_000, np.int16)) - reference.mfcc(np.zeros(4_000), 16_000)).max() < 1e-5


def test_a_slice_has_the_rows_of_the_whole_file() -> None:
    samples = speech()
    first, rows = 640 * 3, 20
    slice_ = samples[first : first + 160 * (rows - 1) + 400]
    whole_TC = mfcc13(samples)[12 : 12 + rows]
    assert np.abs(mfcc13(slice_, before=float(samples[first - 1])) - whole_TC).max() < 1e-5
    assert np.abs(mfcc13(slice_)[0] - whole_TC[0]).max() > 1e-5  # the sample before it counts


def test_twice_as_loud_moves_the_first_cepstrum_alone() -> None:
    """Loudness is the first; the others are what it sounds like."""
    moved_C = (mfcc13(2.0 * speech().astype(np.float32)) - mfcc13(speech())).mean(axis=0)
    assert moved_C[0] == pytest.approx(np.log(4), abs=1e-4)
    assert np.abs(moved_C[1:]).max() < 1e-4


def test_the_second_cepstrum_leans_to_where_the_energy_is() -> None:
    """One half-turn of a cosine over the filters: high where low tones are louder than high ones."""
    t = np.arange(8_000) / 16_000
    low, high = (20_000 * np.sin(2 * np.pi * tone * t) for tone in (200, 6_000))
    assert logfbank(low.astype(np.int16))[5].argmax() < 5
    assert mfcc13(low.astype(np.int16))[5, 1] > 0 > mfcc13(high.astype(np.int16))[5, 1]
