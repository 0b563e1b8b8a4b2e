"""espeak-ng's sound and the times it gives its phonemes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic import espeak_events
from talklip_ray.synthetic.speech import Speech, Utterance, speak


@pytest.fixture(scope="module")
def spoken() -> list[Speech]:
    return speak(
        [
            Utterance(text="Papa.", voice="en-us"),
            Utterance(text="Bonjour, ma mère.", voice="fr+f3"),
            Utterance(text="Bonjour, ma mère.", voice="fr+f3", words_per_minute=300),
        ]
    )


def test_phonemes_lie_end_to_end_within_the_sound(spoken: list[Speech]) -> None:
    for speech in spoken:
        starts = [phoneme.start for phoneme in speech.phonemes]
        ends = [phoneme.end for phoneme in speech.phonemes]
        assert starts[1:] == ends[:-1]
        assert 0 <= starts[0] < ends[-1] <= speech.duration + 1e-9


def test_the_phonemes_are_those_of_the_text(spoken: list[Speech]) -> None:
    assert [p.symbol for p in spoken[0].phonemes if p.symbol][0::2] == ["p", "p"]
    assert {"b", "m"} <= {p.symbol for p in spoken[1].phonemes}


def test_vowels_are_louder_than_pauses_at_the_times_given(spoken: list[Speech]) -> None:
    def loudness(speech: Speech, symbols: str) -> float:
        pieces = [
            speech.samples[int(p.start * speech.rate) : int(p.end * speech.rate)]
            for p in speech.phonemes
            if (p.symbol[:1] in symbols if p.symbol else symbols == "")
        ]
        return float(np.sqrt(np.mean(np.concatenate(pieces) ** 2)))

    for speech in spoken:
        assert loudness(speech, "aəɛɔu") > 10 * loudness(speech, "")


def test_a_faster_speaker_takes_less_time(spoken: list[Speech]) -> None:
    assert spoken[2].duration < 0.75 * spoken[1].duration


def test_a_batch_sounds_the_same_each_time(spoken: list[Speech]) -> None:
    for again, before in zip(speak([speech.utterance for speech in spoken]), spoken, strict=True):
        np.testing.assert_array_equal(again.samples, before.samples)
        assert again.phonemes == before.phonemes


def test_what_was_said_before_moves_no_phoneme_by_more_than_a_frame_notices(spoken: list[Speech]) -> None:
    """The library carries a little state from one utterance to the next: some samples, not some phonemes."""
    (alone,) = speak([spoken[1].utterance])
    assert [p.symbol for p in alone.phonemes] == [p.symbol for p in spoken[1].phonemes]
    assert [p.start for p in alone.phonemes] == pytest.approx([p.start for p in spoken[1].phonemes], abs=0.005)


def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(ConfigError, match="'xx-nobody'"):
        speak([Utterance(text="Hello", voice="xx-nobody")])


def test_a_missing_library_is_an_error_of_the_program_and_not_a_crash() -> None:
    with pytest.raises(OSError, match="no-such-espeak"):
        espeak_events.Espeak("libno-such-espeak.so")


def test_the_library_stays_out_of_this_process(spoken: list[Speech]) -> None:
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    with open("/proc/self/maps") as maps:
        assert "espeak" not in maps.read()
