"""Audio features: equal to the libraries they follow, and the same however a file is sliced."""

from __future__ import annotations

import librosa
import numpy as np
import pytest

from talklip_ray.media.features import (
    FEATURES,
    SILENCE,
    STEPS_PER_SECOND,
    Voice,
    features,
    logfbank,
    num_frames,
    num_steps,
    samples_for,
    whole,
)

NUM_SAMPLES = 37_301
VOICES = list(Voice)


def speech(num_samples: int = NUM_SAMPLES) -> np.ndarray:
    t = np.arange(num_samples) / 16_000
    noise = np.random.default_rng(7).standard_normal(num_samples)
    return (0.4 * np.sin(2 * np.pi * (150 + 400 * t) * t) * np.sin(2 * t) + 0.02 * noise).astype(np.float32)


def steps_of(samples: np.ndarray, voice: Voice, first: int, stop: int) -> np.ndarray:
    """What a reader would hand over: exactly the samples asked for, zeros outside the file."""
    begin, end = samples_for(voice, first, stop)
    window = np.zeros(end - begin, np.float32)
    low, high = max(begin, 0), min(end, len(samples))
    window[low - begin : max(low, high) - begin] = samples[low : max(low, high)]
    return features(voice, window, first, stop, num_samples=len(samples))


def test_log_mel_is_what_librosa_computes() -> None:
    samples = speech()
    emphasised = np.append(samples[0], samples[1:] - np.float32(0.97) * samples[:-1])
    spectrum = np.abs(librosa.stft(emphasised, n_fft=800, hop_length=200, win_length=800))
    mel = librosa.filters.mel(sr=16_000, n_fft=800, n_mels=80, fmin=55, fmax=7600) @ spectrum
    decibels = 20 * np.log10(np.maximum(1e-5, mel)) - 20
    expected_AF = np.clip(8 * (decibels + 100) / 100 - 4, -4, 4).T
    ours_AF = steps_of(samples, Voice.LOCAL, 0, num_steps(Voice.LOCAL, len(samples)))
    assert ours_AF.shape == expected_AF.shape
    assert np.abs(ours_AF - expected_AF).max() < 1e-4


@pytest.mark.parametrize("num_samples", [1, 399, 400, 401, 560, 561, 9_999])
def test_log_energies_are_what_python_speech_features_computes(num_samples: int) -> None:
    reference = pytest.importorskip("python_speech_features")
    samples = (speech(num_samples) * 20_000).astype(np.int16)
    expected_TM = reference.logfbank(samples, 16_000)
    assert num_frames(num_samples) == len(expected_TM)
    assert np.abs(logfbank(samples) - expected_TM).max() < 1e-5


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("size", [1, 7, 64, 131])
def test_slices_equal_the_whole_file_bit_for_bit(voice: Voice, size: int) -> None:
    samples = speech()
    total = num_steps(voice, len(samples))
    whole_AF = steps_of(samples, voice, 0, total)
    slices = [steps_of(samples, voice, at, min(at + size, total)) for at in range(0, total, size)]
    assert np.array_equal(np.concatenate(slices), whole_AF)


def test_the_last_global_step_is_filled_up_with_zero_rows() -> None:
    """Zeros are no sound the network knows.

    They are appended after the logarithm, so they pull the mean up.
    """
    samples = speech(480)  # two frames of ten milliseconds, of four in a step
    with_end = steps_of(samples, Voice.GLOBAL, 0, 1)[0]
    begin, end = samples_for(Voice.GLOBAL, 0, 1)
    padded = np.concatenate((np.zeros(-begin, np.float32), samples, np.zeros(end - 480, np.float32)))
    endless = features(Voice.GLOBAL, padded, 0, 1)[0]
    assert np.ptp(with_end[52:]) == 0
    assert np.ptp(endless[52:]) > 0


@pytest.mark.parametrize(("voice", "num_samples", "steps"), [
    (Voice.LOCAL, 16_000, 81), (Voice.GLOBAL, 16_000, 25), (Voice.GLOBAL, 32_000, 50), (Voice.GLOBAL, 53_920,
    84), (Voice.LOCAL, 0, 0), (Voice.GLOBAL, 0, 0), (Voice.GLOBAL, 1, 1),
])  # fmt: skip
def test_a_file_has_as_many_steps_as_its_sound_lasts(voice: Voice, num_samples: int, steps: int) -> None:
    assert num_steps(voice, num_samples) == steps


@pytest.mark.parametrize("voice", VOICES)
def test_a_click_lights_up_the_step_at_its_own_time(voice: Voice) -> None:
    samples = np.zeros(32_000, np.float32)
    samples[16_000:16_200] = 0.5
    loudness_A = steps_of(samples, voice, 0, num_steps(voice, 32_000) - 1).astype(np.float64)
    moved_A = np.abs(loudness_A - loudness_A[0]).sum(axis=1)
    assert abs(moved_A.argmax() - STEPS_PER_SECOND[voice]) <= 1


def test_silence_is_the_floor_of_a_local_step() -> None:
    assert np.all(steps_of(np.zeros(8000, np.float32), Voice.LOCAL, -3, 9) == SILENCE)


@pytest.mark.parametrize("voice", VOICES)
def test_no_steps_make_no_rows(voice: Voice) -> None:
    assert features(voice, np.zeros(0, np.float32), 5, 5).shape == (0, FEATURES[voice])


def test_the_wrong_number_of_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="need 1001 samples, got 1000"):
        features(Voice.LOCAL, np.zeros(1000, np.float32), 0, 2)


@pytest.mark.parametrize("voice", list(Voice))
def test_a_whole_recording_is_its_steps_in_silence(voice: Voice) -> None:
    speech = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)
    count = num_steps(voice, len(speech))
    begin, end = samples_for(voice, 0, count)
    around = np.concatenate([np.zeros(-begin), speech, np.zeros(max(0, end - len(speech)))])[: end - begin]
    assert np.array_equal(whole(voice, speech), features(voice, around.astype(np.float32), 0, count))
    with pytest.raises(ValueError, match="found none"):
        whole(voice, speech[:0])
