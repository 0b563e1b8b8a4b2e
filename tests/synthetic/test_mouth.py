"""The rule that turns phonemes into a mouth."""

# ruff: noqa: RUF001 - phonetic symbols
from __future__ import annotations

import numpy as np
import pytest

from talklip_ray.synthetic.mouth import OTHER, MouthTrack, target
from talklip_ray.synthetic.speech import Phoneme

WORD = (Phoneme("", 0.0, 0.5), Phoneme("ɑː", 0.5, 0.8), Phoneme("m", 0.8, 1.0), Phoneme("", 1.0, 1.5))


def opening(*seconds: float, phonemes: tuple[Phoneme, ...] = WORD) -> list[float]:
    return MouthTrack.of(phonemes, 1.5).at(np.array(seconds))[0].tolist()


def test_the_mouth_is_shut_in_silence_open_on_a_vowel_and_shut_on_m() -> None:
    silence, vowel, lips, after = opening(0.2, 0.65, 0.9, 1.3)
    assert silence == pytest.approx(0, abs=1e-3)
    assert vowel > 0.95
    assert lips < 0.05
    assert after == pytest.approx(0, abs=1e-3)


def test_the_mouth_is_shut_before_and_after_the_track() -> None:
    assert opening(-1.0, 9.0) == [0.0, 0.0]


def test_it_moves_smoothly() -> None:
    curve, _ = MouthTrack.of(WORD, 1.5).at(np.arange(0, 1.5, 0.001))
    assert np.abs(np.diff(curve)).max() < 0.02
    assert 0 <= curve.min() <= curve.max() <= 1


def test_a_sound_further_away_than_the_voice_window_changes_nothing() -> None:
    other = (*WORD[:3], Phoneme("a", 1.0, 1.5))
    assert opening(0.88, 0.9) == pytest.approx(opening(0.88, 0.9, phonemes=other), abs=0.003)


def test_vowels_open_in_the_order_of_the_chart_and_rounded_ones_purse() -> None:
    assert target("a")[0] > target("ɛ")[0] > target("e")[0] > target("i")[0] > target("u")[0] > target("b")[0]
    assert target("u")[1] < 0 < target("i")[1]


@pytest.mark.parametrize(("symbol", "like"), [("ɑː", "ɑ"), ("ɔ̃", "ɔ"), ("tʃ", "t"), ("aɪ", "a"), ("ˈe", "e")])
def test_modifiers_and_second_parts_do_not_hide_the_sound(symbol: str, like: str) -> None:
    assert target(symbol) == target(like)


def test_an_unknown_sound_moves_the_mouth_and_a_pause_does_not() -> None:
    assert target("ʘ") == OTHER
    assert target("") == (0.0, 0.0)
